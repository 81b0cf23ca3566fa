"""The training loop of all methods, schedules, checkpoints, and training runs as described by a
config.
"""
