"""One writer for each output on an object store."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from s3_fixtures import MARKS, check_result, is_chunk, read

from mnndask.errors import OutputExistsError
from mnndask.stores import locks as lease
from mnndask.stores.location import Location
from mnndask.stores.output_target import RemoteTarget

pytestmark = MARKS


def test_a_second_writer_is_refused(s3, s3_write):
    with lease.Lease(Location.of("s3://lab/out.zarr")).held():
        status, err = s3_write()
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


def test_an_output_whose_lease_was_taken_is_not_finished(s3, s3_write, s3_server, monkeypatch):
    check = lease.Lease.check

    def taken(self):
        s3.pipe_file("lab/out.zarr.lock", b'{"owner": "other", "host": "there"}')
        check(self)

    monkeypatch.setattr(lease.Lease, "check", taken)
    status, err = s3_write()
    assert status == 2
    assert "Another run has begun to write s3://lab/out.zarr." in err[0]
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")


# ---------------------------------------------------------------- owners that sleep


def fall_asleep(monkeypatch, seconds=200):
    """Go on later, with nothing done in between, as a process that was stopped."""
    clock = lease.now
    monkeypatch.setattr(lease, "now", lambda: clock() + seconds)


def changes(s3_server):
    return [(method, path) for method, path in s3_server.asked if method not in {"GET", "HEAD"}]


def test_a_writer_that_wakes_up_does_not_write_on_where_another_run_does(
    s3, s3_server, s3_write, monkeypatch
):
    slept = []

    def sleep_at_the_first_chunk(method, path):
        if method == "PUT" and is_chunk(path) and not slept:
            slept.append(path)
            s3.pipe_file("lab/out.zarr.lock", b'{"owner": "other", "host": "there"}')
            s3.pipe_file("lab/out.zarr/zarr.json", b"theirs")
            fall_asleep(monkeypatch)
            s3_server.asked.clear()

    s3_server.rule = sleep_at_the_first_chunk
    status, err = s3_write("--n-jobs", "1")
    assert (len(slept), status, len(err)) == (1, 2, 1)
    assert "Another run has begun to write s3://lab/out.zarr." in err[0]
    assert "--resume" not in err[0]
    assert changes(s3_server) == []
    assert b"other" in s3.cat_file("lab/out.zarr.lock")
    assert s3.cat_file("lab/out.zarr/zarr.json") == b"theirs"


def test_a_writer_that_wakes_up_renews_its_lease_and_goes_on(s3, s3_server, s3_write, monkeypatch):
    slept, renewed = [], []

    def sleep_at_the_first_chunk(method, path):
        if method == "PUT" and is_chunk(path) and not slept:
            slept.append(path)
            fall_asleep(monkeypatch)
        if method == "PUT" and path.endswith(".lock") and slept:
            renewed.append(path)

    s3_server.rule = sleep_at_the_first_chunk
    assert s3_write("--n-jobs", "1") == (0, [])
    assert (len(slept), len(renewed)) == (1, 1)
    check_result()


def test_a_writer_that_wakes_up_does_not_remove_what_another_run_writes(s3, s3_server, monkeypatch):
    target = RemoteTarget(Location.of("s3://lab/out.zarr"))
    with target.only_writer():
        s3.pipe_file("lab/out.zarr/X/zarr.json", b"theirs")
        s3.pipe_file("lab/out.zarr.lock", b'{"owner": "other", "host": "there"}')
        fall_asleep(monkeypatch)
        with pytest.raises(OutputExistsError, match="Another run has begun to write"):
            target.clear()
    assert s3.cat_file("lab/out.zarr/X/zarr.json") == b"theirs"
    assert s3.exists("lab/out.zarr.lock")


def test_the_lease_of_a_writer_that_sleeps_is_taken_by_one_of_the_two(s3, monkeypatch):
    """The other run saw it stale, and the owner renewed it before it was replaced."""
    owner, other = (lease.Lease(Location.of("s3://lab/out.zarr")) for _ in range(2))
    with owner.held():
        monkeypatch.setattr(lease, "STALE_SECONDS", -1.0)
        seen = other._found()
        assert seen["stale"]
        fall_asleep(monkeypatch)
        owner.keep()
        assert not other._replace(seen)
        owner.check()


def test_copies_of_a_lease_in_other_processes_renew_it_and_notice_that_it_is_lost(s3, monkeypatch):
    owner = lease.Lease(Location.of("s3://lab/out.zarr"))
    with owner.held():
        copy = pickle.loads(pickle.dumps(owner))
        monkeypatch.setattr(lease, "_renewed", {})  # as there
        before = owner._found()["etag"]
        copy.keep()
        assert owner._found()["etag"] != before
        owner.check()
        s3.pipe_file("lab/out.zarr.lock", b'{"owner": "other", "host": "there"}')
        copy.keep()  # sure of it for a while
        fall_asleep(monkeypatch)
        with pytest.raises(OutputExistsError):
            copy.keep()


def test_a_lease_is_ours_although_the_answer_was_lost(s3, monkeypatch):
    owner = lease.Lease(Location.of("s3://lab/out.zarr"))
    put, lost = owner.filesystem.pipe_file, []

    def put_and_lose(*args, **options):
        put(*args, **options)
        if not lost:
            lost.append(args)
            raise ConnectionResetError

    monkeypatch.setattr(owner.filesystem, "pipe_file", put_and_lose)
    with owner.held():
        owner.check()
    assert len(lost) == 1
