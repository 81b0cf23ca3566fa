"""IKD-MIL: maps of tissue regions, trained on labels of images or slides."""
