"""Inputs and outputs on an object store: read and written there, with no secret shown."""

from __future__ import annotations

import pickle

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import zarr
from s3_fixtures import BATCHES, KEY, MARKS, SECRET, check_result, read

from mnndask import MNNCorrector, mnn_correct
from mnndask.api.write import write_zarr
from mnndask.errors import OutputExistsError
from mnndask.stores.location import Location

pytestmark = MARKS


@pytest.mark.lowest
def test_from_and_to_an_object_store(s3, s3_server, s3_command):
    assert s3_command() == (0, [])
    check_result()
    assert read("s3://lab/out.zarr").obs_names.tolist() == [
        *(f"{i}-a" for i in range(60)),
        *(f"{i}-b" for i in range(50)),
    ]
    root = zarr.open_group(zarr.storage.FsspecStore.from_url("s3://lab/out.zarr"), mode="r")
    assert root.metadata.consolidated_metadata is not None
    assert (root["X"].shards, root["X"].chunks) == ((21, 40), (3, 40))
    assert not [
        key
        for key in s3.find("lab")
        if "out.zarr" not in key and key.split("/")[1] not in {"a.zarr", "b.zarr"}
    ]


def test_to_a_local_store(s3, s3_command, short_record, tmp_path):
    assert s3_command(output=str(tmp_path / "out.zarr")) == (0, [])
    np.testing.assert_allclose(
        ad.read_zarr(tmp_path / "out.zarr").X, mnn_correct(*BATCHES, k=5)[0], atol=1e-10
    )


def test_storage_options_instead_of_the_environment(s3, s3_server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    options = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": s3_server.url}}
    result = mnn_correct("s3://data/a.zarr", "s3://data/b.zarr", k=5, storage_options=options)[0]
    write_zarr(result, "s3://lab/out.zarr", storage_options=options)
    corrector = MNNCorrector(storage_options=options)
    shown = [repr(result), repr(result.X), str(result.uns["mnn"]), repr(corrector), corrector._repr_html_()]
    shown += [repr(Location.of("s3://data/a.zarr", options)), str(corrector._repr_mimebundle_())]
    for text in shown:
        assert SECRET not in text
        assert KEY not in text
    assert corrector.get_params()["storage_options"] is options
    for value in s3.cat(s3.find("lab/out.zarr")).values():
        assert SECRET.encode() not in value
        assert KEY.encode() not in value


def test_users_in_urls_are_not_shown():
    assert str(Location.of("ftp://me:secret@host/a.zarr")) == "ftp://host/a.zarr"


def test_other_file_systems(tmp_path):
    """One that has no conditional writes."""
    for name, X in zip("ab", BATCHES, strict=True):
        write_zarr(ad.AnnData(X), f"memory://{tmp_path}/{name}.zarr")
    with pytest.raises(OutputExistsError, match=r"The output memory://.*/b.zarr exists"):
        write_zarr(ad.AnnData(BATCHES[1]), f"memory://{tmp_path}/b.zarr")
    write_zarr(ad.AnnData(BATCHES[1]), f"memory://{tmp_path}/b.zarr", overwrite=True)
    result = mnn_correct(f"memory://{tmp_path}/a.zarr", f"memory://{tmp_path}/b.zarr", k=5)[0]
    np.testing.assert_allclose(result.X.compute(), mnn_correct(*BATCHES, k=5)[0], atol=1e-10)


def test_the_model_goes_through_an_object_store_where_scratch_is_one(s3, s3_server, monkeypatch):
    lazy = [da.from_array(X, chunks=(20, -1)) for X in BATCHES]
    result = mnn_correct(*lazy, k=5, scratch="s3://lab/scratch")[0]
    copied = pickle.loads(pickle.dumps(result))
    monkeypatch.setattr("mnndask.engine.shared_model._own", {})
    np.testing.assert_array_equal(copied.compute(), result.compute())
    assert any(method == "GET" and "/lab/scratch/mnndask-" in path for method, path in s3_server.asked)
