"""The dashboard of a live cluster during a correction, as a browser shows it."""

import contextlib
import os
import threading
from pathlib import Path

import pytest
from browser import CHROMIUM, chromium, look_at
from distributed import Client, LocalCluster
from helpers import as_anndata, make_batches

from mnndask.cli.main import main

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]
STAGES = {"mnn-sketch", "mnn-correct", "mnn-write"}
# Names of tasks among all that the page's plots are drawn of.
NAMES = """[...new Set((window.Bokeh?.documents ?? []).flatMap(
    d => [...d._all_models.values()].flatMap(m => [...(m.data?.name ?? [])])))]"""


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A cluster that corrects again and again: its client, and where its dashboard is."""
    monkeypatch.setattr("mnndask.engine.memory_budget.CHUNK_BYTES", 50 * 40 * 8)  # 50 cells
    for i, X in enumerate(make_batches((2000, 1500, 1500))):
        as_anndata(X, str(i)).write_zarr(tmp_path / f"{i}.zarr")
    words = ["correct", *(str(tmp_path / f"{i}.zarr") for i in range(3)), "--quiet", "--overwrite"]
    words += ["--sketch-size=200", f"--output={tmp_path / 'out.zarr'}"]
    done, local = threading.Event(), {"processes": False, "dashboard_address": "127.0.0.1:0"}

    def work():
        while not done.is_set():
            with contextlib.suppress(SystemExit):
                main(words)

    with LocalCluster(n_workers=1, threads_per_worker=2, **local) as cluster, Client(cluster) as client:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield client, f"http://127.0.0.1:{cluster.scheduler.http_server.port}"
        finally:
            done.set()
            thread.join(60)
    assert not thread.is_alive()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")
def test_the_dashboard_reads_like_the_algorithm(at_work, tmp_path):
    client, place = at_work
    kept = Path(os.environ.get("MNNDASK_ARTIFACTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    ready = f"{sorted(STAGES)!r}.every(name => {NAMES}.includes(name))"
    with chromium() as port:
        names, errors, asked = look_at(
            port, f"{place}/status", 1280, NAMES, kept / "dashboard.png", ready=ready
        )
    assert set(names) >= STAGES
    assert errors == []
    assert all(url.startswith((place, "data:")) for url in asked)
    assert client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes)) >= STAGES
