"""What goes wrong with an object store: it passes, or is one clear line; no half output opens."""

from __future__ import annotations

import pytest
import s3fs
from s3_fixtures import MARKS, N_CHUNKS, check_result, is_chunk, read

from mnndask import mnn_correct
from mnndask.errors import RemoteError

pytestmark = MARKS


# ---------------------------------------------------------------- faults that pass


def test_requests_that_fail_once_or_take_long_are_made_again_or_waited_for(
    s3, s3_server, s3_command, short_record
):
    failed, waited = set(), set()

    def fail_once(method, path):
        if method == "PUT" and is_chunk(path) and path not in waited and len(waited) < 2:
            waited.add(path)
            return 0.5
        if "/X/" not in path or (method, path) in failed or sum(m == method for m, _ in failed) >= 3:
            return None
        failed.add((method, path))
        return 500, "InternalError"

    s3_server.rule = fail_once
    assert s3_command() == (0, [])
    assert {method for method, _ in s3_server.injected} >= {"GET", "PUT"}
    assert len(failed) > 3
    assert len(waited) == 2
    s3_server.rule = lambda method, path: None
    check_result()


# ---------------------------------------------------------------- faults that stay


def test_a_run_that_is_denied_half_way_does_not_open_and_is_resumed(s3, s3_server, s3_write):
    written = []

    def deny_later(method, path):
        if method == "PUT" and is_chunk(path):
            written.append(path)
            return (403, "AccessDenied") if len(written) > 3 else None
        return None

    s3_server.rule = deny_later
    status, err = s3_write()
    assert status == 2
    assert len(err) == 1
    assert "s3://lab/out.zarr" in err[0]
    assert "--resume continues it" in err[0]
    s3_server.rule = lambda method, path: None
    s3.invalidate_cache()
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")
    before = {key: s3.info(key)["LastModified"] for key in s3.find("lab/out.zarr/X/c")}
    assert 0 < len(before) <= 3
    status, err = s3_write()
    assert status == 2
    assert "An unfinished output, s3://lab/out.zarr, exists." in err[0]
    s3_server.asked.clear()
    assert s3_write("--resume") == (0, [])
    assert len(
        {path for method, path in s3_server.asked if method == "PUT" and is_chunk(path)}
    ) == N_CHUNKS - len(before)
    assert {key: s3.info(key)["LastModified"] for key in before} == before
    check_result()


def test_an_output_that_is_replaced_does_not_open_in_between(s3, s3_server, s3_write):
    assert s3_write() == (0, [])
    status, err = s3_write()
    assert status == 2
    assert "The output s3://lab/out.zarr exists." in err[0]
    s3_server.rule = lambda method, path: (
        (403, "AccessDenied") if method == "PUT" and is_chunk(path) else None
    )
    assert s3_write("--overwrite")[0] == 2
    s3_server.rule = lambda method, path: None
    with pytest.raises(FileNotFoundError):
        read("s3://lab/out.zarr")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("AccessDenied", "Access to s3://data/a.zarr is denied: "),
        ("InvalidAccessKeyId", "Access to s3://data/a.zarr is denied: "),
    ],
)
def test_inputs_to_which_access_is_denied(s3, s3_server, s3_command, code, said):
    s3_server.rule = lambda method, path: (403, code) if "a.zarr" in path else None
    status, err = s3_command()
    assert status == 2
    assert len(err) == 1
    assert said in err[0]
    assert "Check the credentials" in err[0]


def test_access_that_is_denied_to_one_chunk(s3, s3_server):
    result = mnn_correct("s3://data/a.zarr", "s3://data/b.zarr", k=5)[0]
    s3_server.rule = lambda method, path: (403, "AccessDenied") if "b.zarr/X/data" in path else None
    with pytest.raises(RemoteError, match=r"Access to batch 1 \(s3://data/b.zarr\): X/data.* is denied"):
        result.X.compute()


def test_places_that_are_not_there(s3, s3_command):
    for options, said in [
        ({"inputs": ("s3://nowhere/a.zarr", "s3://data/b.zarr")}, "s3://nowhere/a.zarr"),
        ({"inputs": ("s3://data/c.zarr", "s3://data/b.zarr")}, "s3://data/c.zarr"),
        (
            {"output": "s3://nowhere/out.zarr"},
            "The bucket of the output s3://nowhere/out.zarr does not exist.",
        ),
    ]:
        status, err = s3_command(**options)
        assert status == 2
        assert len(err) == 1
        assert said in err[0]


def test_nothing_answers(s3, s3_command, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    status, err = s3_command()
    assert status == 2
    assert ["s3://data/a.zarr cannot be reached" in line for line in err] == [True, True]
    assert err[0].startswith("mnndask: warning: ")
    assert err[1].endswith("Try again later.")


def test_an_output_that_an_input_is_or_holds(s3, s3_command):
    status, err = s3_command("--overwrite", output="s3://data/a.zarr")
    assert status == 2
    assert "is, contains or is inside the input s3://data/a.zarr" in err[0]
