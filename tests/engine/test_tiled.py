"""A fit whose cells are on disk, a few of them at a time in memory: the same result as in memory."""

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask.local import get_sync
from golden_cases import CASES, Golden, found_pairs
from helpers import GENES, as_anndata, make_batches, one_anndata, values
from scipy import sparse

from mnndask import MNNCorrector, mnn_correct
from mnndask.engine import memory_budget as budget
from mnndask.engine.fit_plan import COPIES_OF_CELLS, Plan
from mnndask.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:k=20 is more than the 12 cells:UserWarning")
LIMIT = 300_000  # of which one worker holds 39 cells of 40 genes
LIMIT_OF_SUBSET = 120_000


@pytest.fixture(autouse=True)
def _tiny_tiles(monkeypatch):
    monkeypatch.setattr(budget, "FEWEST_TILE_ROWS", 1)


@dataclass
class Spied:
    """Plans that fits were done by, and how many cells each batch was fitted on."""

    plans: list
    n_used: list

    def assert_tiled(self):
        """Every fit so far was on disk, more than one tile for each batch."""
        assert self.plans
        assert all(made.tiled for made in self.plans)
        for made, n_used in zip(self.plans, self.n_used, strict=True):
            assert made.tile < min(n_used)


@pytest.fixture
def spied(monkeypatch):
    made, out = Plan.of, Spied([], [])

    def of(inputs, n_used, *rest, **more):
        out.plans.append(made(inputs, n_used, *rest, **more))
        out.n_used.append(n_used)
        return out.plans[-1]

    monkeypatch.setattr(Plan, "of", of)
    monkeypatch.setattr(budget, "FEWEST_TILE_ROWS", 1)
    return out


def lazily(batches, rows=37):
    return [da.from_array(X, chunks=(rows, 17)) for X in batches]


def sparsely(batches, rows=37):
    return [da.from_array(X, chunks=(rows, -1)).map_blocks(sparse.csr_matrix) for X in batches]


def assert_same(found, expected, allowed=1e-10):
    """Corrected values, pairs and angles of two calls."""
    np.testing.assert_allclose(values(found[0]), values(expected[0]), rtol=0, atol=allowed)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert ours.equals(theirs)
    assert (found[2] is None) == (expected[2] is None)
    for ours, theirs in zip(found[2] or [], expected[2] or [], strict=True):
        if theirs is not None:
            np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-6)


# ---------------------------------------------------------------- the reference implementation's outputs


@pytest.fixture(params=CASES)
def golden(request):
    return Golden(request.param)


def half(golden, itemsize):
    """Half of the memory that the matrices of a case take."""
    used = golden.restrict or golden.batches
    n_near = golden.batches[0].shape[1] if golden.subset is None else len(golden.subset)
    return COPIES_OF_CELLS * sum(map(len, used)) * n_near * itemsize


def check_double_precision(golden, batches, spied):
    corrected, mnns, _ = golden.call(batches, memory_limit=half(golden, 8), n_jobs=1)
    assert golden.error(np.asarray(corrected)) < 1e-8
    for step, batch in enumerate(golden.order[1:]):
        assert found_pairs(mnns[batch], golden) == golden.pairs(step)
    spied.assert_tiled()


def test_double_precision_equals_the_reference(golden, spied):
    check_double_precision(golden, lazily(golden.batches), spied)


@pytest.mark.parametrize("golden", [*CASES][::5], indirect=True)
def test_batches_in_memory_give_the_same(golden, spied):
    check_double_precision(golden, golden.batches, spied)


@pytest.mark.parametrize("golden", [*CASES][::3], indirect=True)
def test_single_precision_is_near_the_reference(golden, spied):
    batches = lazily([b.astype(np.float32) for b in golden.batches])
    corrected, _, _ = golden.call(batches, memory_limit=half(golden, 4), n_jobs=1)
    assert corrected.dtype == np.float32
    assert golden.error(np.asarray(corrected)) < 1e-4
    spied.assert_tiled()


# ---------------------------------------------------------------- equal to the fit in memory


OPTIONS = {
    "defaults": {},
    "subset": {"var_subset": GENES[::3]},
    "no variance adjustment": {"var_adj": False},
    "components": {"n_components": 6, "svd_mode": "irlb"},
    "components of spaces that differ": {"n_components": 6, "svd_mode": "irlb", "cos_norm_out": False},
    "spaces that differ": {"var_subset": GENES[1::2], "cos_norm_out": False},
    "spaces that differ otherwise": {"cos_norm_in": False},
    "angles and span of spaces that differ": {
        "compute_angle": True,
        "svd_dim": 2,
        "svd_mode": "svd",
        "cos_norm_out": False,
    },
    "refined": {"refine": True},
    "refined, of spaces that differ, with a subset": {
        "refine": True,
        "var_subset": GENES[1::2],
        "cos_norm_out": False,
        "compute_angle": True,
        "svd_dim": 2,
        "svd_mode": "svd",
        "pair_averaging": 4,
    },
    "refined in components": {"refine": True, "n_components": 6, "svd_mode": "irlb", "var_adj": False},
    "order and restrict": {"mnn_order": [2, 0, 1], "restrict": [range(40), None, range(3, 45)]},
    "restrict and all else": {
        "restrict": [range(40), range(5, 70), range(3, 45)],
        "compute_angle": True,
        "svd_dim": 2,
        "svd_mode": "svd",
        "var_subset": GENES[::2],
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_do_on_disk_what_they_do_in_memory(options, spied):
    options = {"k": 6, "var_index": GENES, **options}
    expected = mnn_correct(*make_batches(), **options)
    spied.plans.clear()
    spied.n_used.clear()
    # With a subset, the other genes of sparse chunks are stored by columns.
    limit, kind = (LIMIT_OF_SUBSET, sparsely) if "var_subset" in options else (LIMIT, lazily)
    found = mnn_correct(*kind(make_batches()), memory_limit=limit, n_jobs=1, **options)
    assert_same(found, expected)
    spied.assert_tiled()


def test_genes_that_no_cell_of_a_chunk_expresses(spied):
    batches = make_batches()
    for X in batches:
        X[:40, 20:] = 0
    options = {"k": 6, "var_index": GENES, "var_subset": GENES[:20]}
    found = mnn_correct(*sparsely(batches, rows=20), memory_limit=LIMIT_OF_SUBSET, n_jobs=1, **options)
    spied.assert_tiled()
    assert_same(found, mnn_correct(*batches, **options))


@pytest.mark.parametrize("subset", [None, GENES[::3]])
def test_one_anndata_of_all_batches_in_mixed_order(subset, spied):
    adata, _ = one_anndata(["x", "y", "z"])
    options = {"k": 6, "batch_key": "sample", "var_subset": subset}
    expected = mnn_correct(adata, **options)
    spied.plans.clear()
    spied.n_used.clear()
    lazy = adata.copy()
    lazy.X = da.from_array(adata.X, chunks=(23, 40)).map_blocks(sparse.csr_matrix)
    found = mnn_correct(lazy, memory_limit=LIMIT_OF_SUBSET if subset else LIMIT, n_jobs=1, **options)
    assert_same(found, expected)
    assert found[0].obs_names.equals(adata.obs_names)
    spied.assert_tiled()


def duplicated():
    """Batches most of whose cells are there several times."""
    rng = np.random.default_rng(3)
    return [X[np.sort(rng.integers(25, size=len(X)))] for X in make_batches()]


@pytest.mark.parametrize(
    ("data", "rows", "n_jobs", "limit"),
    [
        (make_batches, 37, 2, LIMIT),
        (make_batches, 200, 1, LIMIT // 2),
        (duplicated, 37, 1, LIMIT),
        (duplicated, 5, 2, LIMIT),
        (duplicated, 200, 1, LIMIT // 2),
    ],
)
def test_neither_chunks_nor_threads_nor_memory_change_the_result(data, rows, n_jobs, limit, spied):
    expected = mnn_correct(*data(), k=6)
    spied.plans.clear()
    spied.n_used.clear()
    assert_same(mnn_correct(*lazily(data(), rows), k=6, memory_limit=limit, n_jobs=n_jobs), expected)
    spied.assert_tiled()


@pytest.mark.parametrize("lazy", [False, True], ids=["memory", "lazy"])
def test_other_cells_are_corrected_by_a_model_on_disk(lazy, spied):
    names = {"var_index": GENES, "var_subset": GENES[::2]}
    known, more = make_batches(), make_batches((33, 20, 41), seed=0)
    expected = MNNCorrector(k=6, **names).fit(known).transform(more)
    corrector = MNNCorrector(k=6, memory_limit=LIMIT_OF_SUBSET, n_jobs=1, **names).fit(lazily(known))
    assert [made.tiled for made in spied.plans] == [False, True]
    found = corrector.transform(lazily(more, 9) if lazy else more)
    np.testing.assert_allclose(values(found), expected, rtol=0, atol=1e-10)


def test_cells_outside_of_restrict_are_corrected_by_a_model_on_disk():
    restrict = [range(30), range(20, 55), range(0, 50, 2)]
    expected = mnn_correct(*make_batches(), k=6, restrict=restrict)
    found = mnn_correct(*make_batches(), k=6, restrict=restrict, memory_limit=LIMIT_OF_SUBSET, n_jobs=1)
    assert_same(found, expected)


@pytest.mark.parametrize(("subset", "refine"), [(None, False), (GENES[::3], False), (GENES[::3], True)])
def test_tasks_leave_nothing_in_the_memory_of_this_process(subset, refine, spied):
    """They may run in another: here each one is run as a copy of itself."""

    def elsewhere(dsk, keys, **_):
        graph = dsk if isinstance(dsk, Mapping) else dsk.__dask_graph__()
        return get_sync(cloudpickle.loads(cloudpickle.dumps(dict(graph))), keys)

    options = {"k": 6, "var_index": GENES, "var_subset": subset, "refine": refine}
    expected = mnn_correct(*make_batches(), **options)[0]
    with dask.config.set(scheduler=elsewhere):
        limit = LIMIT_OF_SUBSET if subset else LIMIT
        corrected = mnn_correct(*lazily(make_batches()), memory_limit=limit, n_jobs=1, **options)[0]
        assert spied.plans[-1].tiled
        np.testing.assert_allclose(corrected.compute(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("first", [0, 1])
def test_batches_in_memory_among_those_that_are_not(first, spied):
    """Of the layer that is left out because others lack it, a warning tells."""
    given = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches())]
    expected = mnn_correct(*given, k=6)
    mixed = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches())]
    for i in (first, 2):
        mixed[i].X = da.from_array(mixed[i].X, chunks=(20, -1))
        del mixed[i].layers["twice"]
    with pytest.warns(UserWarning, match=r"leaves out layers\['twice'\]"):
        result = mnn_correct(*mixed, k=6, memory_limit=LIMIT, n_jobs=1)
    assert_same(result, expected)
    assert spied.plans[-1].tiled


def test_a_solver_that_does_not_converge_says_so():
    options = {"svd_dim": 3, "svd_mode": "irlb", "maxiter": 1, "ncv": 5, "tol": 1e-14}
    with pytest.raises(InputError, match="maxiter, ncv, tol: ARPACK error"):
        mnn_correct(*make_batches(), k=6, memory_limit=LIMIT, n_jobs=1, **options)


# ---------------------------------------------------------------- what it says


def test_time_is_estimated_before_the_work_begins(caplog):
    seen_at_first_read = []

    def read(block):
        if block.size:  # dask asks what comes of nothing
            seen_at_first_read.append([r.getMessage() for r in caplog.records])
        return block

    batches = [X.map_blocks(read, dtype=X.dtype) for X in lazily(make_batches())]
    mnn_correct(*batches, k=6, memory_limit=LIMIT, n_jobs=1)
    (message,) = seen_at_first_read[0]
    assert message.startswith("180 cells do not fit in")
    assert " s: time grows with the square" in message
    assert "A sketch is faster: sketch_size=" in message
    assert caplog.records[0].levelno == logging.WARNING


def test_the_estimate_is_of_the_right_order(caplog, monkeypatch):
    """Within a factor of six: tiles of so few cells are slower than those of a fit that takes hours."""
    monkeypatch.setattr("mnndask.engine.fit_plan.PROBE_SECONDS", 0.2)
    batches = make_batches((700, 800), 200)
    start = time.perf_counter()
    mnn_correct(*batches, k=6, memory_limit="2MB", n_jobs=1)
    took = time.perf_counter() - start
    (message,) = [r.getMessage() for r in caplog.records]
    said = int(re.search(r"takes about (\d+) s", message).group(1))
    assert took / 6 - 1 < said < 6 * took + 1


@pytest.mark.parametrize("lazy", [False, True], ids=["memory", "lazy"])
def test_a_fit_in_memory_warns_of_nothing(caplog, lazy):
    caplog.set_level(logging.WARNING)
    mnn_correct(*(lazily(make_batches()) if lazy else make_batches()), k=6)
    assert not caplog.records


def test_results_on_disk_record_what_results_in_memory_do():
    def recorded(**more):
        lazy = [as_anndata(X, f"b{i}") for i, X in enumerate(lazily(make_batches()))]
        return mnn_correct(*lazy, k=6, **more)[0].uns["mnn"]

    found, expected = recorded(memory_limit=LIMIT), recorded()
    assert "genes" not in found
    assert len(expected.pop("genes")) > 10  # measured on fitted cells in memory
    for table in ("steps", "overall", "mixing"):
        pd.testing.assert_frame_equal(found.pop(table), expected.pop(table), rtol=1e-6)
    found_sample, expected_sample = found.pop("sample"), expected.pop("sample")
    for name, of_cells in expected_sample.items():
        np.testing.assert_allclose(found_sample[name], of_cells, rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_equal(found, expected)
