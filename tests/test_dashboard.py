"""The dashboard of a live cluster during a correction, as a browser shows it."""

import os
import threading
from pathlib import Path

import dask.array as da
import pytest
from browser import CHROMIUM, chromium, look_at
from distributed import Client, LocalCluster
from helpers import make_batches

from mnndask import mnn_correct

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]
STAGES = {"mnn-sketch", "mnn-correct-batch1", "mnn-correct-batch2"}
# Names of tasks among all that the page's plots are drawn of.
NAMES = """[...new Set((window.Bokeh?.documents ?? []).flatMap(
    d => [...d._all_models.values()].flatMap(m => [...(m.data?.name ?? [])])))]"""


@pytest.fixture
def at_work():
    """A cluster that corrects again and again until the test is done; gives its client."""
    batches = [da.from_array(X, chunks=(50, -1)) for X in make_batches((2000, 1500, 1500))]
    done = threading.Event()

    def work():
        while not done.is_set():
            mnn_correct(*batches, sketch_size=200)[0].compute()

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield client
        finally:
            done.set()
            thread.join(60)
    assert not thread.is_alive()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt install chromium)")
def test_the_dashboard_reads_like_the_algorithm(at_work, tmp_path):
    kept = Path(os.environ.get("MNNDASK_ARTIFACTS", tmp_path))
    kept.mkdir(parents=True, exist_ok=True)
    wanted = sorted(STAGES)
    ready = f"{wanted!r}.every(name => {NAMES}.includes(name))"
    with chromium() as port:
        names, errors, asked = look_at(
            port, at_work.dashboard_link, 1280, NAMES, kept / "dashboard.png", ready=ready
        )
    assert set(names) >= STAGES
    assert errors == []
    assert {url.split("/")[2] for url in asked if "//" in url} == {at_work.dashboard_link.split("/")[2]}
    prefixes = at_work.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.task_prefixes))
    assert prefixes >= STAGES
