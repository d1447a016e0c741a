"""The public calls: ``mnn_correct``, ``MNNCorrector`` and ``write_zarr``."""
