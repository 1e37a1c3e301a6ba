"""
The handlers, one file per area.
"""
