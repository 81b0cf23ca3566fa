"""A slide as one image on disk, at a fixed mpp, and the grid of windows that detection reads."""
