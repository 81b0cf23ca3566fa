"""The tissue of a slide: its mask, its outline and its stains."""
