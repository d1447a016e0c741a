"""Connecting to a cluster by its address: nothing there, and encrypted connections."""

from __future__ import annotations

import anndata as ad
import dask
import forked
import numpy as np
import pytest
from cluster_fixtures import BATCHES, run
from clusters import cluster
from distributed.security import Security
from helpers import as_anndata

from mnndask import mnn_correct

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


def said_without_a_scheduler(words):
    """What the command says in a process of its own: a client that fails to start leaves its loop behind."""
    program = (
        "import mnndask.engine.cluster as c; c.CONNECT_SECONDS = 1; from mnndask.cli.main import main; main()"
    )
    done = forked.run(program, "correct", *words, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_no_scheduler_at_the_address(tmp_path):
    words = ["a.zarr", "b.zarr", "-o", str(tmp_path / "out.zarr"), "--scheduler", "tcp://127.0.0.1:9"]
    assert "No scheduler answers at tcp://127.0.0.1:9" in said_without_a_scheduler(words)


@pytest.mark.lowest
def test_the_command_works_on_a_cluster_that_speaks_tls(tmp_path):
    made = Security.temporary()
    parts = {"ca": made.tls_ca_file, "cert": made.tls_scheduler_cert, "key": made.tls_scheduler_key}
    for name, text in parts.items():
        (tmp_path / name).write_text(text)
    tls = {"ca-file": str(tmp_path / "ca")}
    for role in ("scheduler", "worker", "client"):
        tls |= {f"{role}.{part}": str(tmp_path / part) for part in ("cert", "key")}
    tls = {f"distributed.comm.tls.{name}": value for name, value in tls.items()}
    env = {"DASK_" + name.upper().replace(".", "__").replace("-", "_"): path for name, path in tls.items()}
    for name, X in zip("ab", BATCHES, strict=False):
        as_anndata(X, name).write_h5ad(tmp_path / f"{name}.h5ad")
    inputs = [str(tmp_path / f"{name}.h5ad") for name in "ab"]
    with cluster(tmp_path / "cluster", 1, protocol=("--protocol", "tls"), env=env) as secure:
        assert secure.address.startswith("tls://")
        words = [*inputs, "-k", "5", "--scheduler", secure.address, "-o", str(tmp_path / "out.zarr")]
        assert "No scheduler answers at tls://" in said_without_a_scheduler(words)
        with dask.config.set(tls):
            assert run(words) == 0
    expected = mnn_correct(*BATCHES[:2], k=5)[0]
    np.testing.assert_allclose(ad.read_zarr(tmp_path / "out.zarr").X, expected, atol=1e-10)
