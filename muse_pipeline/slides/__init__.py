"""Reading of slides: readers (one per module), the header of a slide, and slides at URLs."""
