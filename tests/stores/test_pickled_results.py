"""Lazy results of every kind of store are pickled, and computed by another process and by a cluster."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from functools import partial

import anndata as ad
import dask
import numpy as np
import pytest
import zarr
from anndata.io import write_elem
from helpers import as_anndata
from spoiling import LAYOUTS, OPENERS, A, B, stored
from zarr.codecs import BloscCodec

from mnndask import mnn_correct

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

COMPUTE = """
import pickle, sys
import numpy as np
with open(sys.argv[1], "rb") as file:
    results = pickle.load(file)
np.savez(sys.argv[2], **{name: X.compute(scheduler="sync") for name, X in results.items()})
"""


def blosc(folder, X, *, name, layout="dense"):
    """A store of format 3 that is compressed by blosc, and has no consolidated metadata."""
    path = folder / f"{name}.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=3)
    chunks = (16, 10) if layout == "dense" else (100,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_elem(root, "/", as_anndata(LAYOUTS[layout](X), name))
        write_elem(
            root, "X", LAYOUTS[layout](X), dataset_kwargs={"compressors": BloscCodec(), "chunks": chunks}
        )
    return path


def zipped(folder, X, *, name):
    """A store in one file, given as an array that is open."""
    with zarr.storage.ZipStore(folder / f"{name}.zip", mode="w") as store:
        zarr.create_array(store, data=X, chunks=(16, 10))
    return zarr.open_array(zarr.storage.ZipStore(folder / f"{name}.zip", read_only=True), mode="r")


def backed(path):
    return ad.read_h5ad(path, backed="r")


def same(array):
    return array


KINDS = {
    f"{kind}-{layout}-{opener}": (partial(stored, kind=kind, layout=layout), open_)
    for kind, layout in (
        ("zarr2", "dense"),
        ("zarr2", "csr"),
        ("zarr3", "dense"),
        ("zarr3", "csc"),
        ("h5ad", "dense"),
        ("h5ad", "csr"),
    )
    for opener, open_ in (OPENERS | ({"backed": backed} if kind == "h5ad" else {})).items()
} | {
    "shards": (partial(stored, kind="shards"), str),
    "blosc": (blosc, str),
    "blosc-csr": (partial(blosc, layout="csr"), str),
    "zip": (zipped, same),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A lazy result of each kind, and a layer that is carried along."""
    out = {}
    for kind, (write, open_) in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        result = mnn_correct(*(open_(write(folder, X, name=name)) for name, X in (("a", A), ("b", B))), k=5)[
            0
        ]
        out[kind] = getattr(result, "X", result)
        if "shards" in kind:
            out["layer"] = result.layers["twice"]
    return out


@pytest.fixture(scope="module")
def expected():
    return {"corrected": mnn_correct(A, B, k=5)[0], "layer": 2 * np.vstack([A, B])}


def check(computed, results, expected):
    assert set(computed) == set(results)
    for kind in results:
        values = expected.get(kind, expected["corrected"])
        np.testing.assert_allclose(computed[kind], values, atol=1e-10, err_msg=kind)


def test_another_process_computes_them(results, expected, tmp_path):
    (tmp_path / "pickled").write_bytes(pickle.dumps(results))
    words = [sys.executable, "-W", "ignore", "-c", COMPUTE, tmp_path / "pickled", tmp_path / "out.npz"]
    subprocess.run(words, check=True)
    with np.load(tmp_path / "out.npz") as computed:
        check(dict(computed), results, expected)


def test_workers_of_a_cluster_compute_them(client, results, expected):
    computed = dict(zip(results, dask.compute(*results.values()), strict=True))
    check(computed, results, expected)
