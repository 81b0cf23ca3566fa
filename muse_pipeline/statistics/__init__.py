"""Comparison of groups of patients by numbers of their slides."""
