"""Files of the scverse: AnnData and SpatialData, written by h5py and zarr alone."""
