"""Fixtures: two batches on an object store, a command that corrects them, and what reads the result.

The server is one for all files: their tests are of one group.
"""

from __future__ import annotations

import gc
import warnings
from functools import partial

import anndata as ad
import numpy as np
import pytest
import zarr
from anndata.io import write_elem
from helpers import make_batches, told, zarr_store
from object_store import object_store
from scipy import sparse

from mnndask import mnn_correct
from mnndask.cli.main import main

MARKS = [
    pytest.mark.slow,
    pytest.mark.xdist_group("s3"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # connections that aiobotocore keeps
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BATCHES = make_batches((60, 50))
KEY, SECRET = "AKIAEXAMPLE", "w0ndrously-secret"
N_CHUNKS = 6


@pytest.fixture(scope="session")
def s3_server():
    with object_store() as made:
        yield made


@pytest.fixture(scope="session")
def inputs_on_s3(s3_server, tmp_path_factory):
    """Two batches in a bucket of their own, one in each format."""
    import s3fs

    folder = tmp_path_factory.mktemp("inputs")
    options = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": s3_server.url}}
    filesystem = s3fs.S3FileSystem(**options)
    filesystem.mkdir("data")
    filesystem.mkdir("lab")
    for name, X, version in zip("ab", BATCHES, (2, 3), strict=True):
        with zarr_store(folder / f"{name}.zarr", version) as root:
            write_elem(root, "/", ad.AnnData(sparse.csr_matrix(X)))
        filesystem.put(str(folder / f"{name}.zarr"), f"data/{name}.zarr", recursive=True)


@pytest.fixture
def s3(inputs_on_s3, s3_server, monkeypatch):
    """The store, with an empty bucket for outputs; the environment says how to reach it."""
    import s3fs

    s3_server.rule = lambda method, path: None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    for path in filesystem.ls("lab"):
        filesystem.rm(path, recursive=True)
    s3_server.injected.clear()
    s3_server.asked.clear()
    yield filesystem
    s3_server.rule = lambda method, path: None
    with warnings.catch_warnings():  # connections that aiobotocore kept
        warnings.simplefilter("ignore")
        s3fs.S3FileSystem.clear_instance_cache()
        del filesystem
        gc.collect()


@pytest.fixture
def s3_command(capsys, monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 20 * 40 * 8)

    def command(*options, inputs=("s3://data/a.zarr", "s3://data/b.zarr"), output="s3://lab/out.zarr"):
        with pytest.raises(SystemExit) as end:
            main(["correct", *inputs, "-k", "5", "--n-jobs", "2", "-o", output, *options])
        err = capsys.readouterr().err
        assert SECRET not in err
        return end.value.code or 0, told(err)

    return command


@pytest.fixture
def s3_write(s3_command, short_record, tmp_path):
    """The same command with inputs on this disk and a short record, which saves most of the requests."""
    for name, X in zip("ab", BATCHES, strict=True):
        ad.AnnData(sparse.csr_matrix(X)).write_h5ad(tmp_path / f"{name}.h5ad")
    return partial(s3_command, inputs=[str(tmp_path / f"{name}.h5ad") for name in "ab"])


def read(url):
    return ad.read_zarr(zarr.storage.FsspecStore.from_url(url, read_only=True))


def check_result(url="s3://lab/out.zarr"):
    """The matrix; all else takes a few hundred requests to read."""
    root = zarr.open_group(zarr.storage.FsspecStore.from_url(url, read_only=True), mode="r")
    np.testing.assert_allclose(root["X"][:], mnn_correct(*BATCHES, k=5)[0], atol=1e-10)


def is_chunk(path):
    return "/out.zarr/X/c/" in path
