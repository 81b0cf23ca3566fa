"""Files for the scverse libraries AnnData and SpatialData, written with only h5py and zarr."""
