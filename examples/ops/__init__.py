"""
The warehouse with all that it stands on and all that watches it, for a machine with containers.
"""
