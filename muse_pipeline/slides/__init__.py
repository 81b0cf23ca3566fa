"""Slides: readers, one file each, and the header of a slide."""
