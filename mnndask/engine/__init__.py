"""Out-of-core work: dask graphs, chunks, memory and disk, over arrays and batches (no AnnData)."""
