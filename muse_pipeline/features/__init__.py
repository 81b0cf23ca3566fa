"""Numbers per nucleus: shape, stains, texture and neighbours."""
