"""A second picture of the same tissue (the partner) brought into the frame of its H&E slide, and checked."""
