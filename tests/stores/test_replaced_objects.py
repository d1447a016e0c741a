"""Inputs on an object store that are replaced while they are read: an error that names them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import s3fs
import zarr
from anndata.io import write_elem
from helpers import zarr_store
from s3_fixtures import BATCHES, MARKS, N_CHUNKS, is_chunk, read
from scipy import sparse

from mnndask import mnn_correct
from mnndask.errors import InputReadError
from mnndask.stores.fingerprint import Fingerprint
from mnndask.stores.location import Location

pytestmark = [*MARKS, pytest.mark.usefixtures("short_record")]
A, B = "s3://data/a.zarr", "s3://data/copy.zarr"


@pytest.fixture
def copied(s3, tmp_path):
    """Names of objects of the matrix of a batch, of which this test may write others."""
    with zarr_store(tmp_path / "copy.zarr", 3) as root:
        write_elem(root, "/", ad.AnnData(sparse.csr_matrix(BATCHES[1])), dataset_kwargs={"chunks": (700,)})
    s3.put(str(tmp_path / "copy.zarr"), "data/copy.zarr", recursive=True)
    yield [key for key in s3.find("data/copy.zarr/X") if "/c/" in key]
    s3.rm("data/copy.zarr", recursive=True)


def test_a_task_that_reads_another_object_says_so(s3, s3_server, copied, monkeypatch):
    """Either each object is asked for, or the folder is listed, whichever takes fewer requests."""
    X = mnn_correct(A, B, k=5)[0].X
    for keys_per_request, expected in ((1e-9, (0, 3)), (1000, (1, 0))):
        monkeypatch.setattr("mnndask.stores.file_versions.KEYS_PER_REQUEST", keys_per_request)
        s3_server.asked.clear()
        np.testing.assert_allclose(X.compute(), mnn_correct(*BATCHES, k=5)[0], atol=1e-10)
        listed = [
            path for _, path in s3_server.asked if "list-type" in path and "copy.zarr%2FX%2Fdata" in path
        ]
        headed = [path for method, path in s3_server.asked if method == "HEAD" and "copy.zarr/X/data" in path]
        assert (len(listed), len(headed)) == expected
    store = zarr.storage.FsspecStore.from_url(f"{B}/X/data")
    before = zarr.open_array(store)[:]
    zarr.open_array(store)[:] = before * 2
    assert (zarr.open_array(store)[:] == before * 2).all()
    for keys_per_request in (1e-9, 1000):
        monkeypatch.setattr("mnndask.stores.file_versions.KEYS_PER_REQUEST", keys_per_request)
        with pytest.raises(InputReadError, match=r"batch 1 \(s3://data/copy.zarr\) has changed .*X/data"):
            X.compute()


def test_an_output_of_two_inputs_never_comes_to_be(s3, s3_server, s3_command, copied):
    written = []

    def replace_later(method, path):
        if method == "PUT" and is_chunk(path):
            written.append(path)
            if len(written) == N_CHUNKS:  # all is read
                s3.pipe(key, b"another")
        return None

    key = next(key for key in s3.find("data/copy.zarr/obs") if "/c/" in key)
    s3_server.rule = replace_later
    status, err = s3_command(inputs=(A, B))
    assert s3.cat(key) == b"another"
    assert (status, len(err)) == (2, 1)
    assert f"batch 1 ({B}) has changed since it was opened (/obs/" in err[0]
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")


def test_what_fingerprints_cover(s3, copied):
    s3fs.S3FileSystem.clear_instance_cache()
    place = Location.of(B)
    whole, annotations = Fingerprint.of(place), Fingerprint.of(place, {"X"})
    assert len(whole.files) == len(s3.find("data/copy.zarr"))
    assert len(annotations.files) == len(whole.files) - len(s3.find("data/copy.zarr/X"))
    s3.pipe(copied[0], s3.cat(copied[0]))  # the same values
    whole.check(place, "b")
    s3.pipe(copied[0], b"others")
    annotations.check(place, "b")
    with pytest.raises(InputReadError, match=r"b has changed since it was opened \(/X/"):
        whole.check(place, "b")
