"""Slides: readers, one file each, and what is known of a slide before any tissue is read."""
