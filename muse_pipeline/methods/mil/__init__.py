"""IKD-MIL: maps of tissue regions, trained on labels of whole images or slides."""
