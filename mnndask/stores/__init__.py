"""Places and the matrices in them: zarr, HDF5, object stores. Knows no algorithm."""
