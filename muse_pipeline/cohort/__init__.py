"""Runs over many slides."""
