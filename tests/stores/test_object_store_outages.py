"""A server that is overloaded for a while is waited for; one that stays so is named, and nothing else."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import s3fs
from s3_fixtures import MARKS, check_result

from mnndask import mnn_correct
from mnndask.errors import MNNError, RemoteError
from mnndask.stores import retries
from mnndask.stores.scratch import ScratchStore

pytestmark = MARKS
FAULTS = [(503, "ServiceUnavailable"), (429, "TooManyRequests"), (500, "InternalError"), "reset"]


@pytest.fixture(autouse=True)
def _once(s3, monkeypatch):
    """Its client makes each request once, so that what fails is seen here, however slow this machine is."""
    monkeypatch.setattr(retries, "LAST_TRY_SECONDS", 600.0)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()


def kind_of(method, path):
    """What a request is for; None for requests of no interest here."""
    listed = "list-type=2" in path
    if "a.zarr" in path or "b.zarr" in path:
        return "listing" if listed else "X" if "/X/" in path else "annotations"
    if "out.zarr.lock" in path:
        return "lease" if method == "PUT" else None  # reading it is a part of taking it
    if "out.zarr" in path:
        name = "a listing" if listed else "a chunk" if "/X/c/" in path else "annotations"
        return f"output: {name}, {method}"
    return None


def test_each_kind_of_request_is_made_again_after_each_fault(s3, s3_server, s3_command, short_record):
    failed = {}

    def fail_twice(method, path):  # some calls make requests of two kinds, and are made again as a whole
        kind = kind_of(method, path)
        failed.setdefault(kind, [])
        if kind is None or len(failed[kind]) >= 2:
            return None
        failed[kind].append(FAULTS[(len(failed) + len(failed[kind])) % len(FAULTS)])
        return failed[kind][-1]

    s3_server.rule = fail_twice
    status, err = s3_command()
    assert status == 0
    assert all("cannot be reached now (" in line and "trying again" in line for line in err)
    assert {fault for faults in failed.values() for fault in faults} == set(FAULTS)
    assert {
        "X",
        "annotations",
        "listing",
        "lease",
        "output: a chunk, PUT",
        "output: annotations, PUT",
    } <= {kind for kind, faults in failed.items() if len(faults) >= 2}  # requests are concurrent
    s3_server.rule = lambda method, path: None
    check_result()


@pytest.mark.parametrize(
    ("kind", "fault", "place", "reason"),
    [
        ("X", (503, "SlowDown"), "s3://data/a.zarr", "503 Service Unavailable"),
        ("annotations", (429, "TooManyRequests"), "s3://data/a.zarr", "429 Too Many Requests"),
        ("listing", (500, "InternalError"), "s3://data/a.zarr", "500 Internal Server Error"),
        ("lease", (503, "SlowDown"), "s3://lab/out.zarr", "503 Service Unavailable"),
        ("output: annotations, PUT", "reset", "s3://lab/out.zarr", "onnect"),
        ("output: a chunk, PUT", (503, "SlowDown"), "s3://lab/out.zarr", "503 Service Unavailable"),
    ],
)
def test_a_server_that_stays_overloaded_is_named_after_five_tries(
    s3_server, s3_command, s3_write, kind, fault, place, reason
):
    s3_server.rule = lambda method, path: fault if kind_of(method, path) == kind else None
    command = s3_command if place == "s3://data/a.zarr" else s3_write
    status, err = command("--n-jobs", "1")
    assert status == 2
    assert len(s3_server.injected) >= 5
    assert f"{place} cannot be reached (" in err[-1]
    assert reason in err[-1]
    assert "Try again later." in err[-1]
    assert ("--resume continues it" in err[-1]) == kind.startswith("output")
    assert not any(word in line for line in err for word in ("damaged", "space", "credentials", "Copy"))


@pytest.mark.parametrize("method", ["PUT", "GET"])
def test_a_scratch_folder_is_waited_for_and_named(s3, s3_server, method):
    store, values = ScratchStore("s3://lab/scratch", 20), np.arange(120.0).reshape(40, 3)
    matrix = store.matrix("anchors", values.shape, values.dtype)
    n_faults = 0

    def overloaded(asked, path):
        meant = (
            asked == method and "/anchors-" in path and "/c/" in path and len(s3_server.injected) < n_faults
        )
        return (503, "ServiceUnavailable") if meant else None

    s3_server.rule = overloaded
    for n_faults in (0, 4):  # the writing and the reading of the second are tried again
        matrix[:20] = values[:20] + n_faults
        np.testing.assert_array_equal(matrix[:20], values[:20] + n_faults)
        assert len(s3_server.injected) == n_faults
    n_faults = 10**6
    with pytest.raises(MNNError, match=r"s3://lab/scratch/mnndask-\S+ cannot be reached \(503") as caught:
        matrix[:20] = matrix[:20]
    assert "space" not in str(caught.value)


def test_other_answers_are_not_waited_for(s3, s3_server, caplog):
    s3_server.rule = lambda method, path: (400, "InvalidRequest") if "b.zarr/X/data/c" in path else None
    with pytest.raises(RemoteError, match="cannot be reached: "):
        mnn_correct("s3://data/a.zarr", "s3://data/b.zarr", k=5)
    assert s3_server.injected
    assert "trying again" not in caplog.text


def test_tries_end_after_a_minute(monkeypatch):
    asked, seconds = [], itertools.count(0, 25)  # as each try takes 25 s
    clock = SimpleNamespace(monotonic=lambda: next(seconds), sleep=lambda _: None)
    monkeypatch.setattr(retries, "time", clock)
    monkeypatch.setattr(retries, "LAST_TRY_SECONDS", 60.0)

    def request():
        asked.append(1)
        raise TimeoutError

    with pytest.raises(RemoteError, match=r"^there cannot be reached \(TimeoutError\)"):
        retries.retried_here("there", request)
    assert len(asked) == 3


def test_a_bucket_is_not_missing_while_the_server_is_overloaded(s3_server, s3_write):
    s3_server.rule = lambda method, path: (503, "SlowDown") if path.startswith("/lab") else None
    status, err = s3_write()
    assert (status, len(s3_server.injected) > 2) == (2, True)
    assert "s3://lab/out.zarr cannot be reached (503 Service Unavailable)" in err[-1]
