"""Comparison of groups of patients by measures of their slides."""
