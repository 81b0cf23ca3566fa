"""Slides: the readers, with one module each, and the header of a slide."""
