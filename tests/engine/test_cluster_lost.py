"""A scheduler that is lost: the command says so in one line, and no other library says anything."""

from __future__ import annotations

import time

import forked
import pytest
from cluster_fixtures import BATCHES
from clusters import cluster
from distributed import Client
from helpers import as_anndata, told

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]

COMMAND = """
import mnndask.engine.cluster, mnndask.engine.memory_budget
mnndask.engine.cluster.CONNECT_SECONDS = 2
mnndask.engine.memory_budget.CHUNK_BYTES = 20 * 40 * 8
from mnndask.cli.main import main
main()
"""


def slow_down():
    """Have this process take a while for each chunk that it writes."""
    import time

    import zarr

    def set_(self, key, value, original=zarr.storage.LocalStore.set):
        time.sleep(0.3 if "X/c/" in key else 0)
        return original(self, key, value)

    zarr.storage.LocalStore.set = set_


def test_a_scheduler_that_is_killed_is_one_line(tmp_path):
    for name, X in zip("ab", BATCHES, strict=False):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")
    words = ["correct", "a.h5ad", "b.h5ad", "-k", "5", "--sketch-size", "60", "-o", "out.zarr", "--scheduler"]
    with cluster(tmp_path / "cluster", 1) as made:
        with Client(made.address) as client:
            client.wait_for_workers(1, timeout=60)
            client.run(slow_down)
        command = forked.Process(COMMAND, *words, made.address, cwd=tmp_path)
        while not list(tmp_path.glob("out.zarr.partial/X/c/*/*")):
            assert command.poll() is None, command.stderr
            time.sleep(0.01)
        made.scheduler.kill()
        err = told(command.communicate(timeout=60)[1])
        assert made.scheduler.wait(1) == -9
    assert command.returncode == 2
    (line,) = err
    assert line.startswith(f"mnndask: The scheduler at {made.address} was lost: ")
    assert "The unfinished output is kept in out.zarr.partial" in line
