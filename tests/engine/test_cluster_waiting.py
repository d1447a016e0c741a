"""A cluster without workers: it is said that work waits for them, and it ends only if that was asked for."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import anndata as ad
import dask.array as da
import numpy as np
import pytest
from cluster_fixtures import BATCHES, run
from distributed import Client, LocalCluster
from helpers import as_anndata

from mnndask import mnn_correct, write_zarr
from mnndask.engine import waiting
from mnndask.io.anndata_writer import write_matrices

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

OPTIONS = {"k": 5, "sketch_size": 60}
ONE = {"processes": False, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}


@pytest.fixture
def empty():
    """A cluster without workers."""
    with LocalCluster(n_workers=0, **ONE) as made:
        yield made


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(waiting, "CHECK_SECONDS", 0.02)
    monkeypatch.setattr(waiting, "SAID_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(waiting, "SAID_AGAIN_SECONDS", 0.2)


class Clock:
    """A clock that only sleeping moves, and a cluster that has workers at some times."""

    def __init__(self, monkeypatch, has_workers):
        self.now, self.has_workers = 0.0, has_workers
        self.scheduler = SimpleNamespace(address="tcp://here:1")
        clock = SimpleNamespace(
            monotonic=lambda: self.now, time=lambda: self.now, strftime=time.strftime, localtime=time.gmtime
        )
        monkeypatch.setattr(waiting, "time", clock)

    def nthreads(self):
        return {"tcp://there:1": 2} if self.has_workers(self.now) else {}

    def wait(self, seconds):
        self.now += seconds
        return self.now > 2000


def test_it_is_said_within_30_s_every_5_minutes_and_when_workers_are_lost_again(monkeypatch):
    monkeypatch.undo()  # the intervals that users have
    cluster = Clock(monkeypatch, lambda now: 700 < now < 1000)
    times = []
    monkeypatch.setattr(
        waiting.logger, "warning", lambda text, *args: times.append((cluster.now, text % args))
    )
    watch = waiting._Watch(cluster, None)
    watch.ended = SimpleNamespace(wait=cluster.wait, is_set=lambda: False)
    watch.run()
    seconds = [at for at, _ in times]
    assert seconds[0] <= 30
    assert 1000 <= seconds[3] <= 1030
    np.testing.assert_allclose(np.diff(seconds), [300, 300, seconds[3] - seconds[2], 300, 300, 300], atol=5)
    assert len({text for _, text in times}) == len(times)
    assert all("has no workers; waiting since 00:" in text for _, text in times)


def lazily():
    return [da.from_array(X[:80], chunks=(37, -1)) for X in BATCHES]


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == waiting.__name__]


def helped(made, caplog, n_messages):
    """Start a worker once it was said so often that there is none."""

    def start():
        while len(said(caplog)) < n_messages:
            time.sleep(0.01)
        made.scale(1)

    thread = threading.Thread(target=start)
    thread.start()
    return thread


@pytest.mark.parametrize("memory_limit", [None, 250_000])
def test_a_fit_says_that_it_waits_and_goes_on_once_there_are_workers(memory_limit, empty, caplog):
    batches = lazily()
    expected = mnn_correct(*batches, **OPTIONS)[0].compute()
    with Client(empty):
        helper = helped(empty, caplog, 2)
        result = mnn_correct(*batches, **OPTIONS, memory_limit=memory_limit)[0]
        helper.join()
        np.testing.assert_allclose(result.compute(), expected, atol=1e-10)
    for message in said(caplog):
        assert message.startswith(f"the cluster at {empty.scheduler_address} has no workers; waiting since ")


def test_writing_says_that_it_waits_for_workers_that_are_gone(empty, caplog, tmp_path):
    empty.scale(1)
    with Client(empty) as client:
        client.wait_for_workers(1)
        result = mnn_correct(*(ad.AnnData(X) for X in lazily()), **OPTIONS)[0]
        result.obsm["lazy"] = result.X[:, :2]
        empty.scale(0)
        while client.nthreads():
            time.sleep(0.01)
        assert said(caplog) == []
        helper = helped(empty, caplog, 1)
        write_zarr(result, tmp_path / "out.zarr")
        helper.join()
    assert ad.read_zarr(tmp_path / "out.zarr").shape == result.shape


def test_work_of_tasks_alone_is_not_said_to_wait(client, caplog):
    mnn_correct(*lazily(), **OPTIONS)[0].map_blocks(lambda block: time.sleep(0.05) or block).compute()
    assert said(caplog) == []


@pytest.mark.parametrize("stage", ["in the fit", "in writing"])
def test_the_command_ends_after_the_time_that_it_may_wait(stage, empty, tmp_path, monkeypatch, capsys):
    for name, X in zip("ab", BATCHES, strict=False):
        as_anndata(X, name).write_zarr(tmp_path / f"{name}.zarr")
    if stage == "in writing":
        empty.scale(1)
        monkeypatch.setattr("mnndask.cli.correct.write_matrices", written_without_workers(empty))
    words = ["-k", "5", "--sketch-size", "60", "-o", str(tmp_path / "out.zarr"), "--worker-timeout", "300ms"]
    inputs = [str(tmp_path / f"{name}.zarr") for name in "ab"]
    start = time.monotonic()
    assert run([*inputs, *words, "--scheduler", empty.scheduler_address, "-q"]) == 2
    assert time.monotonic() - start < 20
    err = capsys.readouterr().err.splitlines()
    assert f"The cluster at {empty.scheduler_address} had no workers for 0.3 s." in err[-1]
    assert "--worker-timeout" in err[-1]
    assert ("The unfinished output is kept" in err[-1]) == (stage == "in writing")
    assert any("has no workers; waiting" in line for line in err[:-1])
    assert not [line for line in err if not line.startswith("mnndask: ")]


def written_without_workers(made):
    """Function that writes the matrix once there are no workers."""

    def write(*args, **options):
        made.scale(0)
        while made.scheduler_info["workers"]:
            time.sleep(0.01)
        write_matrices(*args, **options)

    return write


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--worker-timeout", "1h"], "--worker-timeout was given, but there is no --scheduler."),
        (["--worker-timeout", "soon", "--scheduler", "tcp://127.0.0.1:9"], "--worker-timeout is 'soon'."),
        (["--worker-timeout", "-3", "--scheduler", "tcp://127.0.0.1:9"], "--worker-timeout is '-3'."),
        (["--worker-timeout", "", "--scheduler", "tcp://127.0.0.1:9"], "--worker-timeout is ''."),
        (["--worker-timeout", "1e400h", "--scheduler", "tcp://127.0.0.1:9"], "--worker-timeout is '1e400h'."),
    ],
)
def test_times_that_are_none(words, message, capsys):
    assert run(["a.zarr", "b.zarr", "-o", "out.zarr", *words]) == 2
    assert message in capsys.readouterr().err
