"""What people drew: points, outlines, masks and regions, as training and evaluation read them."""
