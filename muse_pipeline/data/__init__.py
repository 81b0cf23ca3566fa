"""What training reads: labelled images, their outlines, augmented windows, dense targets."""
