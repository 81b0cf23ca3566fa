"""The training loop of every method, its schedule and checkpoints, and the training runs that a config describes."""
