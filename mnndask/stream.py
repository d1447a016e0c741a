"""Writing AnnData stores whose cells come in blocks, each dropped once it is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem
from scipy import sparse
from zarr.storage import LocalStore

from mnndask.errors import MNNError, OutputError
from mnndask.output import write_annotations
from mnndask.root_last import root_last
from mnndask.target import partial_of

VALUES_PER_CHUNK = 2**18  # some thousand cells take few chunks, and little that is not theirs


def write_csr_blocks(
    blocks: Iterable[sparse.csr_matrix], obs: pd.DataFrame, var: pd.DataFrame, path: Path
) -> None:
    """Write an AnnData zarr store whose cells come in blocks, each dropped once it is written.

    The store grows as :func:`mnndask.output.write_zarr`'s do; there must be none at `path`.

    Parameters
    ----------
    blocks
        Expression of all cells in order.
    obs, var
        Annotations.
    path
        Where to write.
    """
    partial = partial_of(path)
    try:
        with root_last(LocalStore(partial), str(partial)) as root:
            write_annotations(AnnData(obs=obs, var=var), root)
            empty = sparse.csr_matrix((0, len(var)), dtype=np.float32)
            layout = {"chunks": (VALUES_PER_CHUNK,), "indptr_dtype": np.int64}
            write_elem(root, "X", empty, dataset_kwargs=layout)
            X = ad.io.sparse_dataset(root["X"])
            for block in _joined(blocks):
                X.append(block)
        os.replace(partial, path)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, MNNError):
            what = f"{path} could not be written: {error.strerror or error}."
            raise OutputError(what, "Make room, or write to another place.") from error
        raise


def _joined(blocks: Iterable[sparse.csr_matrix]) -> Iterator[sparse.csr_matrix]:
    """Blocks stacked to several stored chunks each: the last chunk is read and written again by the next."""
    waiting: list[sparse.csr_matrix] = []
    for block in blocks:
        waiting.append(block)
        if sum(b.nnz for b in waiting) >= 8 * VALUES_PER_CHUNK:
            yield sparse.vstack(waiting, format="csr")
            waiting = []
    if waiting:
        yield sparse.vstack(waiting, format="csr")
