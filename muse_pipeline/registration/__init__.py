"""Registration of a second picture of the same tissue (the partner) to its H&E slide, checked tile
by tile.
"""
