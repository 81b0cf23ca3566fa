"""From a slide to one image store per mpp, and the fixed grid of windows that detection walks."""
