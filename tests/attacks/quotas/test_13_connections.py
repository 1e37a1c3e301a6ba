"""
Attacks 13 to 16, 18, 19, 23, 24, 29 and 31: many at once, and what breaks in between.
"""
