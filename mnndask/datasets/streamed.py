"""Write AnnData stores block by block, with only a few blocks in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem
from scipy import sparse

from mnndask.io.anndata_compat import writing_elements
from mnndask.io.anndata_writer import write_annotations
from mnndask.io.output import writing
from mnndask.stores.location import Location
from mnndask.stores.output_target import target_of

VALUES_PER_CHUNK = 2**18  # a few thousand cells are in few chunks, with few other cells


def write_csr_blocks(
    blocks: Iterable[sparse.csr_matrix], obs: pd.DataFrame, var: pd.DataFrame, path: Path
) -> None:
    """Write an AnnData zarr store block by block, with only a few blocks in memory.

    The store is written like all outputs (see :func:`mnndask.io.output.writing`), except that a partial store
    is removed on failure. Nothing may exist at `path`.

    Parameters
    ----------
    blocks
        Expression of all cells, in order.
    obs, var
        Annotations.
    path
        Path of the store.
    """
    with writing(target_of(Location.of(path)), keep_unfinished=False) as root:
        write_annotations(AnnData(obs=obs, var=var), root)
        empty = sparse.csr_matrix((0, len(var)), dtype=np.float32)
        layout = {"chunks": (VALUES_PER_CHUNK,), "indptr_dtype": np.int64}
        with writing_elements():
            write_elem(root, "X", empty, dataset_kwargs=layout)
            X = ad.io.sparse_dataset(root["X"])
        for block in _joined(blocks):
            with writing_elements():
                X.append(block)


def _joined(blocks: Iterable[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    """Stack blocks to several stored chunks each, as appending reads and rewrites the last chunk."""
    waiting: list[sparse.csr_matrix] = []
    for block in blocks:
        waiting.append(block)
        if sum(b.nnz for b in waiting) >= 8 * VALUES_PER_CHUNK:
            yield sparse.vstack(waiting, format="csr")
            waiting = []
    if waiting:
        yield sparse.vstack(waiting, format="csr")
