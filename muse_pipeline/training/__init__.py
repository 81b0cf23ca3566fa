"""The loop that every method shares, its schedule and checkpoints, and the training runs that a config describes."""
