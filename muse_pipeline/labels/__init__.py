"""Labels drawn by people: points, outlines, masks and regions, as read for training and
evaluation.
"""
