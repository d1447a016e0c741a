"""What a fit on disk holds in memory at once."""

import tracemalloc
from collections import defaultdict
from dataclasses import fields, is_dataclass

import dask
import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from helpers import GENES, make_batches
from scipy import sparse

from mnndask import mnn_correct
from mnndask.core.arrays import Points
from mnndask.core.span import Span
from mnndask.core.svd import SvdSolver
from mnndask.engine.memory_budget import Budget
from mnndask.engine.variance_reduction import FAN_IN, VarianceReduction, _tree
from mnndask.stores.scratch import ScratchStore


@pytest.fixture(autouse=True)
def _tiny_tiles(monkeypatch):
    monkeypatch.setattr("mnndask.engine.memory_budget.FEWEST_TILE_ROWS", 1)


LIMIT = 300_000  # of which a worker holds 39 cells of 40 genes


def n_bytes(value):
    """Of all arrays in what a task returns."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if sparse.issparse(value):
        return value.data.nbytes + value.indices.nbytes + value.indptr.nbytes
    if isinstance(value, list | tuple):
        return sum(map(n_bytes, value))
    if isinstance(value, dict):
        return sum(map(n_bytes, value.values()))
    return sum(n_bytes(getattr(value, f.name)) for f in fields(value)) if is_dataclass(value) else 0


class Outputs(Callback):
    """The largest output of each stage's tasks, and how many there were."""

    def __init__(self):
        self.largest, self.count = defaultdict(int), defaultdict(int)
        super().__init__(posttask=self.measure)

    def measure(self, key, result, dsk, state, worker):
        name = key if isinstance(key, str) else key[0]
        # mnn-variance-partial-<token>-<token> -> mnn-variance-partial
        stage = "-".join(part for part in name.split("-") if not _is_token(part))
        self.largest[stage] = max(self.largest[stage], n_bytes(result))
        self.count[stage] += 1


def _is_token(part):
    return len(part) >= 4 and all(c in "0123456789abcdef" for c in part)


def stored(X, folder, name):
    out = zarr.create_array(folder / name, shape=X.shape, dtype=X.dtype, chunks=(10, X.shape[1]))
    out[:] = X
    return out


@pytest.mark.parametrize("subset", [None, GENES[::3]])
def test_no_task_gives_more_than_a_workers_share(tmp_path, subset):
    """As `Budget.per_worker` promises."""
    batches = [stored(X, tmp_path, f"{i}") for i, X in enumerate(make_batches((150, 170)))]
    options = {"k": 6, "var_index": GENES, "var_subset": subset, "svd_dim": 2, "compute_angle": True}
    with Outputs() as outputs:
        mnn_correct(*batches, memory_limit=LIMIT, n_jobs=1, **options)
    assert outputs.count["mnn-variance-partial"] > 8
    assert outputs.count["mnn-neighbours"] > 3
    assert max(outputs.largest.values()) <= Budget.of(LIMIT, 1).per_worker


def reduced(n_reference):
    """Outputs of the variance adjustment of 60 cells against a reference."""
    rng = np.random.default_rng(0)
    new, ref = (Points.of(rng.normal(size=(n, 10))) for n in (60, n_reference))
    vectors = rng.normal(0.5, 0.3, (60, 10))
    tiled = [Points(p.X, p.squared, 30) for p in (new, ref)]
    with Outputs() as outputs:
        VarianceReduction(tiled[0], vectors, tiled[1], 5.0, 6.0).factors(30, 1)
    assert {"mnn-variance-partial", "mnn-variance-combine", "mnn-variance-bracket"} < set(outputs.largest)
    return outputs


def test_partials_of_the_variance_adjustment_do_not_grow_with_the_reference():
    once, twice = reduced(2000), reduced(4000)
    for stage, size in once.largest.items():
        # The values that are gathered of each cell are bounded, but their number varies.
        assert twice.largest[stage] <= 1.5 * size
    assert twice.count["mnn-variance-partial"] > once.count["mnn-variance-partial"]


def test_partials_add_up_in_a_tree():
    """Neither a chain of additions nor one of all partials at once."""
    leaves = [dask.delayed(lambda i=i: i)() for i in range(200)]
    tasks = dict(_tree(leaves, sum, "combine").dask)
    needs = {key: [d for d in task.dependencies if d in tasks] for key, task in tasks.items()}

    def depth(key):
        return 1 + max(map(depth, needs[key]), default=0)

    combines = [key for key in tasks if str(key).startswith("mnn-combine")]
    assert max(map(depth, tasks)) <= 1 + 3 * 2  # three levels for 8 ** 3 partials, each with its list
    assert max(len(needs[key]) for key in tasks) <= FAN_IN + 1  # and what adds them up
    assert len(combines) == 25 + 4 + 1
    assert _tree(leaves, sum, "combine").compute(scheduler="synchronous") == sum(range(200))


def test_the_span_of_many_anchors_is_found_a_tile_at_a_time(tmp_path):
    n_cells, n_genes, tile = 4_000, 200, 200
    store = ScratchStore(tmp_path, tile)
    cells = store.matrix("anchors", (n_cells, n_genes), np.dtype(np.float64))
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(n_genes, 3)))[0]
    for at in range(0, n_cells, tile):
        cells[at : at + tile] = rng.normal(size=(tile, 3)) @ axes.T + rng.normal(0, 0.01, (tile, n_genes))
    tracemalloc.start()
    span = Span.of(Points(cells, np.zeros(n_cells), tile), 3, SvdSolver(), 10.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    store.remove()
    assert peak < n_cells * n_genes * 8 / 4
    np.testing.assert_allclose(np.linalg.svd(axes.T @ span.basis)[1], 1, atol=1e-4)
