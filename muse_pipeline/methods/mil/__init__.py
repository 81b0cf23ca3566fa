"""IKD-MIL: maps of tissue regions from labels of images or slides."""
