"""Inputs and outputs on an object store: read, written, resumed there; what goes wrong is one clear line."""

from __future__ import annotations

import gc
import json
import pickle
import warnings
from datetime import UTC, datetime, timedelta

import anndata as ad
import dask.array as da
import numpy as np
import pytest
import s3fs
import zarr
from helpers import make_batches
from object_store import object_store
from scipy import sparse

from mnndask import MNNCorrector, lease, mnn_correct
from mnndask.cli import main
from mnndask.errors import OutputExistsError, RemoteError
from mnndask.location import Location
from mnndask.output import write_zarr

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("s3"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # connections that aiobotocore keeps
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

BATCHES = make_batches((60, 50))
KEY, SECRET = "AKIAEXAMPLE", "w0ndrously-secret"
N_CHUNKS = 6


@pytest.fixture(scope="module")
def server():
    with object_store() as made:
        yield made


@pytest.fixture(scope="module")
def inputs(server, tmp_path_factory):
    """Two batches in a bucket of their own, one in each format."""
    folder = tmp_path_factory.mktemp("inputs")
    options = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": server.url}}
    filesystem = s3fs.S3FileSystem(**options)
    filesystem.mkdir("data")
    filesystem.mkdir("lab")
    for name, X, version in zip("ab", BATCHES, (2, 3), strict=True):
        with warnings.catch_warnings(), ad.settings.override(zarr_write_format=version):
            warnings.simplefilter("ignore")
            ad.AnnData(sparse.csr_matrix(X)).write_zarr(folder / f"{name}.zarr")
        filesystem.put(str(folder / f"{name}.zarr"), f"data/{name}.zarr", recursive=True)


@pytest.fixture
def s3(inputs, server, monkeypatch):
    """The store, with an empty bucket for outputs; the environment says how to reach it."""
    server.rule = lambda method, path: None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    s3fs.S3FileSystem.clear_instance_cache()
    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    for path in filesystem.ls("lab"):
        filesystem.rm(path, recursive=True)
    server.injected.clear()
    server.asked.clear()
    yield filesystem
    server.rule = lambda method, path: None
    with warnings.catch_warnings():  # connections that aiobotocore kept
        warnings.simplefilter("ignore")
        s3fs.S3FileSystem.clear_instance_cache()
        del filesystem
        gc.collect()


@pytest.fixture
def command(capsys, monkeypatch):
    monkeypatch.setattr("mnndask.budget.CHUNK_BYTES", 20 * 40 * 8)

    def command(*options, inputs=("s3://data/a.zarr", "s3://data/b.zarr"), output="s3://lab/out.zarr"):
        with pytest.raises(SystemExit) as end:
            main(["correct", *inputs, "-k", "5", "--n-jobs", "2", "-o", output, *options])
        err = capsys.readouterr().err
        assert SECRET not in err
        return end.value.code or 0, err.splitlines()

    return command


def read(url):
    return ad.read_zarr(zarr.storage.FsspecStore.from_url(url, read_only=True))


def check_result(url="s3://lab/out.zarr"):
    np.testing.assert_allclose(read(url).X, mnn_correct(*BATCHES, k=5)[0], atol=1e-10)


def is_chunk(path):
    return "/out.zarr/X/c/" in path


# ---------------------------------------------------------------- what is read and written


@pytest.mark.lowest
def test_from_and_to_an_object_store(s3, server, command):
    assert command() == (0, [])
    check_result()
    root = zarr.open_group(zarr.storage.FsspecStore.from_url("s3://lab/out.zarr"), mode="r")
    assert root.metadata.consolidated_metadata is not None
    assert (root["X"].shards, root["X"].chunks) == ((21, 40), (3, 40))
    assert not [
        key
        for key in s3.find("lab")
        if "out.zarr" not in key and key.split("/")[1] not in {"a.zarr", "b.zarr"}
    ]


def test_to_a_local_store(s3, command, tmp_path):
    assert command(output=str(tmp_path / "out.zarr")) == (0, [])
    np.testing.assert_allclose(
        ad.read_zarr(tmp_path / "out.zarr").X, mnn_correct(*BATCHES, k=5)[0], atol=1e-10
    )


def test_storage_options_instead_of_the_environment(s3, server, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    options = {"key": KEY, "secret": SECRET, "client_kwargs": {"endpoint_url": server.url}}
    result = mnn_correct("s3://data/a.zarr", "s3://data/b.zarr", k=5, storage_options=options)[0]
    write_zarr(result, "s3://lab/out.zarr", storage_options=options)
    corrector = MNNCorrector(storage_options=options)
    shown = [repr(result), repr(result.X), str(result.uns["mnn"]), repr(corrector), corrector._repr_html_()]
    shown += [repr(Location.of("s3://data/a.zarr", options)), str(corrector._repr_mimebundle_())]
    for text in shown:
        assert SECRET not in text
        assert KEY not in text
    assert corrector.get_params()["storage_options"] is options
    for key in s3.find("lab/out.zarr"):
        assert SECRET.encode() not in s3.cat_file(key)
        assert KEY.encode() not in s3.cat_file(key)


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


def test_the_model_goes_through_an_object_store_where_scratch_is_one(s3, server, monkeypatch):
    lazy = [da.from_array(X, chunks=(20, -1)) for X in BATCHES]
    result = mnn_correct(*lazy, k=5, scratch="s3://lab/scratch")[0]
    copied = pickle.loads(pickle.dumps(result))
    monkeypatch.setattr("mnndask.shared._own", {})
    np.testing.assert_array_equal(copied.compute(), result.compute())
    assert any(method == "GET" and "/lab/scratch/mnndask-" in path for method, path in server.asked)


# ---------------------------------------------------------------- faults that pass


def test_requests_that_fail_once_or_take_long_are_made_again_or_waited_for(s3, server, command):
    failed, waited = set(), set()

    def fail_once(method, path):
        if method == "PUT" and is_chunk(path) and path not in waited and len(waited) < 2:
            waited.add(path)
            return 1.0
        if "/X/" not in path or (method, path) in failed or sum(m == method for m, _ in failed) >= 3:
            return None
        failed.add((method, path))
        return 500, "InternalError"

    server.rule = fail_once
    assert command() == (0, [])
    assert {method for method, _ in server.injected} >= {"GET", "PUT"}
    assert len(failed) > 3
    assert len(waited) == 2
    server.rule = lambda method, path: None
    check_result()


# ---------------------------------------------------------------- faults that stay


def test_a_run_that_is_denied_half_way_does_not_open_and_is_resumed(s3, server, command):
    written = []

    def deny_later(method, path):
        if method == "PUT" and is_chunk(path):
            written.append(path)
            return (403, "AccessDenied") if len(written) > 3 else None
        return None

    server.rule = deny_later
    status, err = command()
    assert status == 2
    assert len(err) == 1
    assert "s3://lab/out.zarr" in err[0]
    assert "--resume continues it" in err[0]
    server.rule = lambda method, path: None
    s3.invalidate_cache()
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")
    before = {key: s3.info(key)["LastModified"] for key in s3.find("lab/out.zarr/X/c")}
    assert 0 < len(before) <= 3
    status, err = command()
    assert status == 2
    assert "An unfinished output, s3://lab/out.zarr, exists." in err[0]
    server.asked.clear()
    assert command("--resume") == (0, [])
    assert len(
        {path for method, path in server.asked if method == "PUT" and is_chunk(path)}
    ) == N_CHUNKS - len(before)
    assert {key: s3.info(key)["LastModified"] for key in before} == before
    check_result()


def test_an_output_that_is_replaced_does_not_open_in_between(s3, server, command):
    assert command() == (0, [])
    status, err = command()
    assert status == 2
    assert "The output s3://lab/out.zarr exists." in err[0]
    server.rule = lambda method, path: (403, "AccessDenied") if method == "PUT" and is_chunk(path) else None
    assert command("--overwrite")[0] == 2
    server.rule = lambda method, path: None
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("AccessDenied", "Access to s3://data/a.zarr is denied: "),
        ("InvalidAccessKeyId", "Access to s3://data/a.zarr is denied: "),
    ],
)
def test_inputs_to_which_access_is_denied(s3, server, command, code, said):
    server.rule = lambda method, path: (403, code) if "a.zarr" in path else None
    status, err = command()
    assert status == 2
    assert len(err) == 1
    assert said in err[0]
    assert "Check the credentials" in err[0]


def test_access_that_is_denied_to_one_chunk(s3, server):
    result = mnn_correct("s3://data/a.zarr", "s3://data/b.zarr", k=5)[0]
    server.rule = lambda method, path: (403, "AccessDenied") if "b.zarr/X/data" in path else None
    with pytest.raises(RemoteError, match=r"Access to batch 1 \(s3://data/b.zarr\): X/data.* is denied"):
        result.X.compute()


def test_places_that_are_not_there(s3, command):
    for options, said in [
        ({"inputs": ("s3://nowhere/a.zarr", "s3://data/b.zarr")}, "s3://nowhere/a.zarr"),
        ({"inputs": ("s3://data/c.zarr", "s3://data/b.zarr")}, "s3://data/c.zarr"),
        (
            {"output": "s3://nowhere/out.zarr"},
            "The bucket of the output s3://nowhere/out.zarr does not exist.",
        ),
    ]:
        status, err = command(**options)
        assert status == 2
        assert len(err) == 1
        assert said in err[0]


def test_nothing_answers(s3, command, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    status, err = command()
    assert status == 2
    assert len(err) == 1
    assert "s3://data/a.zarr cannot be reached" in err[0]


def test_an_output_that_an_input_is_or_holds(s3, command):
    status, err = command("--overwrite", output="s3://data/a.zarr")
    assert status == 2
    assert "is, contains or is inside the input s3://data/a.zarr" in err[0]


# ---------------------------------------------------------------- one writer


def test_a_second_writer_is_refused(s3, command):
    with lease.Lease(Location.of("s3://lab/out.zarr")).held():
        status, err = command()
        assert status == 2
        assert len(err) == 1
        assert "is writing s3://lab/out.zarr" in err[0]


@pytest.mark.lowest
def test_a_lease_that_was_not_renewed_is_taken_by_one(s3, monkeypatch):
    location = Location.of("s3://lab/out.zarr")
    s3.pipe_file("lab/out.zarr.lock", json.dumps({"owner": "gone", "host": "there"}).encode())
    first, second = lease.Lease(location), lease.Lease(location)
    with pytest.raises(OutputExistsError, match="Another run, on there, is writing"), first.held():
        pass
    found = first._found()
    assert second._found() == found
    monkeypatch.setattr(lease, "STALE_SECONDS", -1.0)
    monkeypatch.setattr(second, "_found", lambda: {**found, "stale": True})
    with first.held():
        with pytest.raises(OutputExistsError, match="has begun to write"):
            second._take()  # it saw the same stale lease
        first.check()
        with pytest.raises(OutputExistsError):
            second.check()
    assert not s3.exists("lab/out.zarr.lock")


def test_a_lease_is_renewed(s3, monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_SECONDS", 0.05)
    with lease.Lease(Location.of("s3://lab/out.zarr")).held():
        etag = s3.info("lab/out.zarr.lock", refresh=True)["LastModified"]
        deadline = datetime.now(UTC) + timedelta(seconds=10)
        while s3.info("lab/out.zarr.lock", refresh=True)["LastModified"] == etag:
            assert datetime.now(UTC) < deadline


def test_an_output_whose_lease_was_taken_is_not_finished(s3, command, server, monkeypatch):
    check = lease.Lease.check

    def taken(self):
        s3.pipe_file("lab/out.zarr.lock", b'{"owner": "other", "host": "there"}')
        check(self)

    monkeypatch.setattr(lease.Lease, "check", taken)
    status, err = command()
    assert status == 2
    assert "Another run has begun to write s3://lab/out.zarr." in err[0]
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")
