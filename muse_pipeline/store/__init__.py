"""A slide as one image at one mpp on disk, and the grid of windows that detection reads."""
