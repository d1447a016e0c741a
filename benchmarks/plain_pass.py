"""The minimum work of a correction through files: read, cosine-normalise, write.

``python -m benchmarks.plain_pass INPUT... -o OUTPUT --like CORRECTED``. Chunks and compression are those of X
in the corrected store.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import zarr
from anndata.experimental import read_elem_lazy

from mnndask._threads import single_threaded_blas


def normalise(block: Any) -> np.ndarray:
    with single_threaded_blas():
        dense = block.toarray()
        dense /= np.maximum(np.sqrt(np.einsum("ij,ij->i", dense, dense)), 1e-8)[:, None]
        return dense


def plain_pass(inputs: list[Path], output: Path, like: Path) -> None:
    model = zarr.open_group(like, mode="r")["X"]
    parts = []
    for path in inputs:
        stored = zarr.open_group(path, mode="r")["X"]
        rows = min(model.chunks[0], stored.attrs["shape"][0])
        X = read_elem_lazy(stored, chunks=(rows, model.shape[1]))
        parts.append(X.map_blocks(normalise, dtype=X.dtype, meta=np.empty((0, 0), X.dtype)))
    whole = da.concatenate(parts).rechunk(model.chunks)
    out = zarr.create_array(
        output,
        shape=model.shape,
        chunks=model.chunks,
        dtype=model.dtype,
        compressors=model.compressors,
        zarr_format=model.metadata.zarr_format,
        config={"write_empty_chunks": True},
    )
    da.store(whole, out, lock=False)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--like", type=Path, required=True)
    given = parser.parse_args()
    plain_pass(given.inputs, given.output, given.like)


if __name__ == "__main__":
    main()
