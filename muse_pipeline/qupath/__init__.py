"""GeoJSON for QuPath and from QuPath: writing, reading, checking."""
