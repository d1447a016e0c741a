"""However a store is laid out, its values are the same, and each of its bytes is read about once."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
import zarr
from scipy import sparse
from zarr.codecs import GzipCodec
from zarr.storage import LocalStore

from mnndask.engine.block_tasks import compute_each, over_blocks
from mnndask.stores.lazy_matrix import lazy_matrix

N_CELLS, N_GENES = 6000, 50
COUNTS = sparse.random(N_CELLS, N_GENES, 0.3, format="csr", dtype=np.float32, random_state=0)
GZIP = {"compressors": "gzip"}
SHARDS_OF_1_KB = {"chunks": (2, N_GENES), "shards": (4, N_GENES)}  # random values hardly compress
DENSE = {
    "1-kB-shards": SHARDS_OF_1_KB,
    "one-shard-for-all": {"chunks": (500, N_GENES), "shards": (N_CELLS, N_GENES)},
    "1000-rows": {"chunks": (1000, N_GENES)},
    "gzip": {"chunks": (700, N_GENES), **GZIP},
    "tiles": {"chunks": (1000, 7)},
    "not-compressed": {"chunks": (1000, N_GENES), "compressors": None},
}
SPARSE = {
    "1-kB-shards": {"chunks": (128,), "shards": (256,)},
    "one-shard-for-all": {"chunks": (9000,), "shards": (99_000,)},
    "small-chunks": {"chunks": (1000,)},
    "gzip": {"chunks": (9000,), **GZIP},
}


@pytest.fixture
def given(monkeypatch):
    """Numbers of bytes that were read of files of the matrix."""
    sizes = []
    get = LocalStore.get

    async def counted(self, key, prototype, byte_range=None):
        value = await get(self, key, prototype, byte_range)
        if value is not None and key.startswith("X/") and not key.endswith("zarr.json"):
            sizes.append(len(value))
        return value

    monkeypatch.setattr(LocalStore, "get", counted)
    return sizes


def in_format(options, zarr_format):
    if zarr_format == 2 and "shards" in options:
        pytest.skip("zarr 2 has no shards")
    gzip = numcodecs.GZip(1) if zarr_format == 2 else GzipCodec(level=1)
    return options | ({"compressors": gzip} if options.get("compressors") == "gzip" else {})


def dense_store(path, options, zarr_format=3):
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    X = root.create_array("X", shape=COUNTS.shape, dtype=np.float32, **options)
    X[:] = COUNTS.toarray()
    return X


def sparse_store(path, options, zarr_format=3):
    root = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    X = root.create_group("X", attributes={"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    X.attrs["shape"] = list(COUNTS.shape)
    X.create_array("indptr", shape=COUNTS.indptr.shape, dtype=COUNTS.indptr.dtype)[:] = COUNTS.indptr
    for part in ("data", "indices"):
        values = getattr(COUNTS, part)
        X.create_array(part, shape=values.shape, dtype=values.dtype, **options)[:] = values
    return X


def read_blocks(stored, path, given, n_rows=2000):
    """Read all in blocks of rows, two at a time. Return bytes read for each that is stored."""
    size = sum(file.stat().st_size for file in (path / "X").rglob("*") if file.is_file())
    X = lazy_matrix(stored, chunk_bytes=n_rows * N_GENES * 4)
    assert X.numblocks[0] >= 3
    given.clear()
    tasks = over_blocks("read", sparse.csr_matrix, X, {i: () for i in range(X.numblocks[0])})
    assert (sparse.vstack(compute_each([tasks], 2, 0)[0]) != COUNTS).nnz == 0
    return sum(given) / size


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("layout", DENSE)
def test_each_byte_of_a_dense_matrix_is_read_once(tmp_path, given, layout, zarr_format):
    options = in_format(DENSE[layout], zarr_format)
    assert read_blocks(dense_store(tmp_path, options, zarr_format), tmp_path, given) <= 1.02


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("layout", SPARSE)
def test_each_byte_of_a_sparse_matrix_is_read_about_once(tmp_path, given, layout, zarr_format):
    options = in_format(SPARSE[layout], zarr_format)
    assert read_blocks(sparse_store(tmp_path, options, zarr_format), tmp_path, given) <= 1.2


def test_a_sparse_matrix_in_one_chunk_has_the_same_values(tmp_path, given):
    """Its chunk is decoded for each block; ``mnndask info`` says what to do."""
    assert read_blocks(sparse_store(tmp_path, {"chunks": (99_000,)}), tmp_path, given) > 1.2
