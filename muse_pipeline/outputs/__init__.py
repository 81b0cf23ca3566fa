"""Outputs of a run: files written for every slide from its nuclei."""
