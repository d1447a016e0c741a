"""One writer for each output on an object store."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from s3_fixtures import MARKS, read

from mnndask.errors import OutputExistsError
from mnndask.stores import locks as lease
from mnndask.stores.location import Location

pytestmark = MARKS


def test_a_second_writer_is_refused(s3, s3_command):
    with lease.Lease(Location.of("s3://lab/out.zarr")).held():
        status, err = s3_command()
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


def test_an_output_whose_lease_was_taken_is_not_finished(s3, s3_command, s3_server, monkeypatch):
    check = lease.Lease.check

    def taken(self):
        s3.pipe_file("lab/out.zarr.lock", b'{"owner": "other", "host": "there"}')
        check(self)

    monkeypatch.setattr(lease.Lease, "check", taken)
    status, err = s3_command()
    assert status == 2
    assert "Another run has begun to write s3://lab/out.zarr." in err[0]
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")
