"""Measurements of each nucleus: shape, stains, texture and neighbours."""
