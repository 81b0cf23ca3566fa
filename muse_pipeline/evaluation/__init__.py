"""Scores of nuclei against labels: F1 of detection and classes, quality of outlines, and bootstrap
intervals.
"""
