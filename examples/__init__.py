"""
Examples of services built on `twh_platform`.
"""
