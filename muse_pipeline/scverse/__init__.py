"""Files of the scverse, AnnData and SpatialData, written with only h5py and zarr."""
