"""Training data: images with nuclei, unlabelled tissue, partners, and augmented windows and
views.
"""
