"""GeoJSON for QuPath and from QuPath: written, read, checked."""
