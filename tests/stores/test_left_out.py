"""Chunks of zeros that writers left out are data; ours are always written."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import zarr
from helpers import as_anndata, values
from scipy import sparse
from spoiling import OPENERS, A, B, chunk_files, lose, stored

from mnndask import mnn_correct
from mnndask.api.write import write_zarr
from mnndask.errors import InputError


def corrected(*paths):
    return values(mnn_correct(*paths, k=5)[0])


def test_empty_chunk_that_a_shard_records(tmp_path):
    X = B.copy()
    X[:16, :10] = 0
    paths = [stored(tmp_path, A, "shards", name="a"), stored(tmp_path, X, "shards")]
    np.testing.assert_allclose(corrected(*paths), corrected(A, X), atol=1e-10)


def test_genes_that_no_cell_expresses(tmp_path):
    X = B.copy()
    X[:, 10:20] = 0
    paths = [stored(tmp_path, A, "zarr3", name="a"), stored(tmp_path, X, "zarr3")]
    assert len(chunk_files(paths[1])) == 12
    for opener in OPENERS.values():
        with pytest.warns(UserWarning, match=r"b.zarr\) lacks 4 of the 16 chunks of X, in all rows"):
            result = corrected(*map(opener, paths))
        np.testing.assert_allclose(result, corrected(A, X), atol=1e-10)


def test_zeros_that_are_left_out_are_told_how_to_be_written(tmp_path):
    X = B.copy()
    X[:16, :10] = 0
    paths = [stored(tmp_path, A, "zarr3", name="a"), stored(tmp_path, X, "zarr3")]
    with pytest.raises(InputError, match=r"lacks 1 of the 16 chunks(?s:.*)array.write_empty_chunks"):
        corrected(*paths)
    with zarr.config.set({"array.write_empty_chunks": True}):
        stored(tmp_path, X, "zarr3")
    np.testing.assert_allclose(corrected(*paths), corrected(A, X), atol=1e-10)


def test_sparse_layer_without_values(tmp_path):
    for name, X in (("a", A), ("b", B)):
        adata = as_anndata(sparse.csr_matrix(X), name)
        adata.layers["none"] = sparse.csr_matrix(X.shape)
        adata.write_zarr(tmp_path / f"{name}.zarr")
    assert not chunk_files(tmp_path / "b.zarr", "layers/none")
    result = mnn_correct(tmp_path / "a.zarr", tmp_path / "b.zarr", k=5)[0]
    assert result.layers["none"].compute().nnz == 0


def test_all_chunks_of_an_output_are_written(tmp_path):
    write_zarr(ad.AnnData(da.zeros((50, 40), chunks=(10, 40))), tmp_path / "out.zarr")
    assert len(chunk_files(tmp_path / "out.zarr")) == 1
    lose(tmp_path / "out.zarr", "X")
    with pytest.raises(InputError, match="lacks 1 of the 1 chunks"):
        mnn_correct(tmp_path / "out.zarr", tmp_path / "out.zarr", k=5)
