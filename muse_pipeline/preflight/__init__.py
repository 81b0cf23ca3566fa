"""Checks before the run: readability and scanner of every slide, and the cost of the run."""
