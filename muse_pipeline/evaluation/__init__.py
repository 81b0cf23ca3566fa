"""Scores of nuclei against labels: detection and class F1, outlines, with intervals over patients."""
