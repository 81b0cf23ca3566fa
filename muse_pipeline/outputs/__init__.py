"""Outputs of a run: what it writes for every slide from its nuclei."""
