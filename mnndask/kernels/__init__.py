"""The algorithm on in-memory blocks: NumPy and SciPy alone, no dask, no file formats."""
