"""A server that is overloaded for a while is waited for; one that stays so is named, and nothing else."""

from __future__ import annotations

import dask.array as da
import pytest
import s3fs
from s3_fixtures import BATCHES, MARKS, check_result

from mnndask import mnn_correct
from mnndask.errors import MNNError, RemoteError
from mnndask.stores import retries

pytestmark = MARKS
FAULTS = [(503, "ServiceUnavailable"), (429, "TooManyRequests"), (500, "InternalError"), "reset"]
SMALL = {"k": 5, "sketch_size": None, "memory_limit": "125kB", "n_jobs": 1}


@pytest.fixture(autouse=True)
def _once(s3, monkeypatch):
    """Its client makes each request once, so that what fails is seen here."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()


def kind_of(method, path):
    """What a request is for; None for requests of no interest here."""
    listed = "list-type=2" in path
    if "a.zarr" in path or "b.zarr" in path:
        return "listing" if listed else "X" if "/X/" in path else "annotations"
    if "out.zarr.lock" in path:
        return f"lease, {method}"
    if "out.zarr" in path:
        name = "a listing" if listed else "a chunk" if "/X/c/" in path else "annotations"
        return f"output: {name}, {method}"
    return None


def test_each_kind_of_request_is_made_again_after_each_fault(s3, s3_server, s3_command):
    failed = {}

    def fail_thrice(method, path):
        kind = kind_of(method, path)
        failed.setdefault(kind, [])
        if kind is None or len(failed[kind]) == len(FAULTS) - 1:
            return None
        failed[kind].append(FAULTS[(len(failed) + len(failed[kind])) % len(FAULTS)])
        return failed[kind][-1]

    s3_server.rule = fail_thrice
    status, err = s3_command()
    assert status == 0
    assert all("cannot be reached now (" in line and "trying again" in line for line in err)
    assert {fault for faults in failed.values() for fault in faults} == set(FAULTS)
    assert {
        "X",
        "annotations",
        "listing",
        "lease, PUT",
        "output: a chunk, PUT",
        "output: annotations, PUT",
    } <= {kind for kind, faults in failed.items() if len(faults) == 3}
    s3_server.rule = lambda method, path: None
    check_result()


@pytest.mark.parametrize(
    ("kind", "fault", "place", "reason"),
    [
        ("X", (503, "SlowDown"), "s3://data/a.zarr", "503 Service Unavailable"),
        ("annotations", (429, "TooManyRequests"), "s3://data/a.zarr", "429 Too Many Requests"),
        ("listing", (500, "InternalError"), "s3://data/a.zarr", "500 Internal Server Error"),
        ("lease, PUT", (503, "SlowDown"), "s3://lab/out.zarr", "503 Service Unavailable"),
        ("output: annotations, PUT", "reset", "s3://lab/out.zarr", "Connection"),
        ("output: a chunk, PUT", (503, "SlowDown"), "s3://lab/out.zarr", "503 Service Unavailable"),
    ],
)
def test_a_server_that_stays_overloaded_is_named_after_five_tries(
    s3_server, s3_command, kind, fault, place, reason
):
    s3_server.rule = lambda method, path: fault if kind_of(method, path) == kind else None
    status, err = s3_command("--n-jobs", "1")
    assert status == 2
    assert len(s3_server.injected) >= 5
    assert f"{place} cannot be reached (" in err[-1]
    assert reason in err[-1]
    assert "Try again later." in err[-1]
    assert ("--resume continues it" in err[-1]) == kind.startswith("output")
    assert not any(word in line for line in err for word in ("damaged", "space", "credentials", "Copy"))


@pytest.mark.parametrize(("method", "matrix"), [("PUT", "/anchors-1-"), ("GET", "/corrected-0-1-")])
def test_a_scratch_folder_is_waited_for_and_named(s3, s3_server, method, matrix):
    lazy = [da.from_array(X, chunks=(20, -1)) for X in BATCHES]
    n_faults = 4

    def overloaded(asked, path):
        meant = asked == method and matrix in path and "/c/" in path and len(s3_server.injected) < n_faults
        return (503, "ServiceUnavailable") if meant else None

    s3_server.rule = overloaded
    mnn_correct(*lazy, **SMALL, scratch="s3://lab/scratch")
    assert len(s3_server.injected) == 4
    n_faults = 10**6
    with pytest.raises(MNNError, match=r"s3://lab/scratch/mnndask-\S+ cannot be reached \(503") as caught:
        mnn_correct(*lazy, **SMALL, scratch="s3://lab/scratch")
    assert "space" not in str(caught.value)
    s3.invalidate_cache()
    assert not s3.find("lab/scratch")


def test_other_answers_are_not_waited_for(s3, s3_server):
    s3_server.rule = lambda method, path: (400, "InvalidRequest") if "b.zarr/X/data/c" in path else None
    result = mnn_correct("s3://data/a.zarr", "s3://data/b.zarr", k=5, restrict=[range(60), range(20)])[0]
    with pytest.raises(RemoteError, match="cannot be reached: "):
        result.X.compute(scheduler="sync")


def test_tries_end_after_a_minute(monkeypatch):
    asked, clock = [], iter(range(0, 1000, 25))
    monkeypatch.setattr(retries.time, "monotonic", lambda: next(clock))  # as each try takes 25 s

    def request():
        asked.append(1)
        raise TimeoutError

    with pytest.raises(RemoteError, match=r"^there cannot be reached \(TimeoutError\)"):
        retries.retried_here("there", request)
    assert len(asked) == 3


def test_a_bucket_is_not_missing_while_the_server_is_overloaded(s3_server, s3_command):
    s3_server.rule = lambda method, path: (503, "SlowDown") if path.startswith("/lab") else None
    status, err = s3_command()
    assert (status, len(s3_server.injected) > 2) == (2, True)
    assert "s3://lab/out.zarr cannot be reached (503 Service Unavailable)" in err[-1]
