"""Training data: labelled images, their outlines, augmented windows, dense targets."""
