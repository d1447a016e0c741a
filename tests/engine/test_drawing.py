"""Drawing a sketch: which cells, and what is read for it."""

from __future__ import annotations

from collections import Counter

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask.callbacks import Callback
from dask.utils import key_split
from helpers import KINDS, as_anndata, counted, make_batches, no_compute, one_anndata
from scipy import sparse as sp
from sketches import BUDGET, METHODS, assert_same_rows, drawn, sketched

from mnndask import mnn_correct
from mnndask.core.cosine import cosine_lengths
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.core.geometric_sketch import cover
from mnndask.core.projection import as_csr, csr_lengths, directions, project
from mnndask.engine import project_cells as coordinates
from mnndask.engine.run_options import RunOptions
from mnndask.io.inputs import read_inputs
from mnndask.io.opened_inputs import InputOptions

# ---------------------------------------------------------------- which cells


KIND_NAMES = [
    "fortran",
    "csc_matrix",
    "coo_array",
    "dask-column-chunks",
    "dask-csr-column-chunks",
    "dask-coo",
]
KIND_NAMES += ["zarr", "dataarray-dask", "anndata-csr", "backed-csr", "lazy-zarr", "path-h5ad-dense"]


@pytest.fixture(scope="module")
def plain():
    """Batches in single precision, and what is drawn from them."""
    X = [x.astype(np.float32) for x in make_batches()]
    return X, {method: drawn(*X, method=method) for method in METHODS}


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_the_kind_of_input_does_not_matter(kind, plain, tmp_path):
    datas = [KINDS[kind](X, tmp_path, f"b{i}") for i, X in enumerate(plain[0])]
    for method in METHODS:
        assert_same_rows(drawn(*datas, method=method), plain[1][method])


@pytest.mark.parametrize("method", METHODS)
def test_precision_chunks_and_threads_do_not_matter(method, plain):
    X, wanted = plain
    wide = [x.astype(np.float64) for x in X]
    for datas, n_jobs in [(X, 1), (wide, 2), ([da.from_array(x, chunks=(7, -1)) for x in wide], 3)]:
        assert_same_rows(drawn(*datas, method=method, n_jobs=n_jobs), wanted[method])


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_drawn_from_alike_wherever_it_stands(method, plain):
    X, wanted = plain
    rows = wanted[method]
    assert_same_rows(drawn(*X[::-1], method=method), rows[::-1])
    assert_same_rows(drawn(*X[1:], method=method), rows[1:])


@pytest.mark.parametrize("chunks", [None, 23])
@pytest.mark.parametrize("method", METHODS)
def test_batches_that_take_turns_in_one_anndata_are_told_apart(method, chunks):
    adata, batch = one_anndata([0, 1, 2])
    apart = [adata.X[batch == b] for b in pd.unique(batch)]
    if chunks:
        adata.X = da.from_array(adata.X, chunks=(chunks, 40))
    assert_same_rows(drawn(adata, method=method, batch_key="sample"), drawn(*apart, method=method))


@pytest.mark.parametrize("method", METHODS)
def test_the_seed_decides(method, plain):
    X, wanted = plain
    assert_same_rows(drawn(*X, method=method, seed=0), wanted[method])
    assert not np.array_equal(drawn(*X, method=method, seed=4)[0], wanted[method][0])


@pytest.mark.parametrize("method", ["mixed", "geometric"])
def test_only_genes_used_for_distances_count(method, plain):
    noisy = [x.copy() for x in plain[0]]
    for x in noisy:
        x[:, 1::3] *= 100
    subset = np.arange(0, 40, 3)
    rows = drawn(*plain[0], method=method, subset=subset)
    assert_same_rows(drawn(*noisy, method=method, subset=subset), rows)
    assert not np.array_equal(drawn(*noisy, method=method)[0], rows[0])


@pytest.fixture(scope="module")
def unequal():
    """A batch of 3,000 cells, 12 of them of a type of their own."""
    rng = np.random.default_rng(0)
    rare = np.zeros(3000, bool)
    rare[rng.choice(3000, 12, replace=False)] = True
    profiles = rng.gamma(1.0, 2.0, (2, 30))
    X = np.maximum(profiles[rare.astype(int)] + rng.normal(0, 0.3, (3000, 30)), 0)
    return X, rare


def test_rare_types_are_held(unequal):
    X, rare = unequal
    held = {m: rare[sketched(X, X[:50], size=100, sketch_method=m).sketch_[0]].sum() for m in METHODS}
    assert held["random"] <= 2  # 0.4 are expected
    assert held["geometric"] >= 4
    assert held["mixed"] >= 3


# ---------------------------------------------------------------- boxes


def test_boxes_give_one_cell_each():
    """Cells in clusters of unequal numbers: each stands for one place, however many are there."""
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2) + 0.4
    centres[0] = 0
    cluster = np.repeat(np.arange(16), rng.integers(2, 200, 16))
    points = centres[cluster] + rng.uniform(0, 1e-3, (len(cluster), 2))
    for n in (3, 9, 16):
        rows = cover(points, n, rng)
        assert len(rows) == n
        assert len(np.unique(cluster[rows])) == n
    assert len(cover(points, len(points) + 1, rng)) == len(points)


def test_gaps_are_filled_away_from_taken_cells():
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(8), 50)
    points = 1.0 * cluster[:, None] + rng.uniform(0, 1e-3, (400, 1))
    taken = np.zeros(400, bool)
    taken[rng.choice(250, 40, replace=False)] = True  # of the first five
    rows = cover(points, 3, rng, taken)
    assert sorted(cluster[rows]) == [5, 6, 7]
    assert not taken[cover(points, 60, rng, taken)].any()


@pytest.mark.parametrize("scale", [0, 1e-290, 1e200])
def test_cells_that_coincide_are_drawn_as_often_as_asked(scale):
    points = scale * np.repeat(np.arange(3.0), 20)[:, None]
    rows = cover(points, 10, np.random.default_rng(0))
    assert len(np.unique(rows)) == 10
    assert len(np.unique(points[rows])) == len(np.unique(points))


def test_one_cell_far_away_does_not_coarsen_the_cover():
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(2000, 2))
    points[7] = 1e9
    rows = cover(points, 100, rng)
    corner = np.floor(points[np.setdiff1d(rows, 7)] * 5)
    assert len(np.unique(corner, axis=0)) == 25


# ---------------------------------------------------------------- coordinates


def test_coordinates_keep_distances_of_cells_in_few_dimensions():
    rng = np.random.default_rng(0)
    X = rng.random((80, 4)) @ rng.random((4, 30))
    cells = as_csr(X, slice(None))
    for normalise in (True, False):
        onto = directions(cells, 0, normalise=normalise)
        low = project(cells, onto, normalise=normalise)
        full = X / cosine_lengths(X)[:, None] if normalise else X
        np.testing.assert_allclose(low @ low.T, full @ full.T, atol=1e-10)
    few = directions(as_csr(X[:1, :3], slice(None)), 0, normalise=True)
    np.testing.assert_allclose(np.linalg.norm(few, axis=0), [1] + 9 * [0])


def test_lengths_are_those_of_the_cosine_normalisation():
    X = make_batches()[0]
    X[3], X[4], X[5] = 0, X[4] * 1e200, X[5] * 1e-200
    np.testing.assert_allclose(csr_lengths(as_csr(X, slice(None))), cosine_lengths(X), rtol=1e-14)


@pytest.mark.filterwarnings("ignore:The values of")
@pytest.mark.parametrize("dtype", [np.float16, ">f4", np.longdouble, np.int16, bool])
def test_values_of_any_type_have_coordinates(dtype):
    """As NumPy holds them: neither SciPy nor a compiled loop takes half precision or swapped bytes."""
    X = (make_batches((60,), seed=3)[0] * 5).astype(dtype)
    onto = np.random.default_rng(0).normal(size=(40, 10))
    expected = (X / cosine_lengths(X.astype(float))[:, None]).astype(float) @ onto
    found = project(as_csr(X, slice(None)), onto, normalise=True)
    np.testing.assert_allclose(found, expected, atol=1e-12 if np.dtype(dtype).itemsize != 4 else 1e-5)
    assert found.shape == (60, 10)
    corrected = mnn_correct(X, X[::-1].copy(), sketch_size=20, k=3)[0]
    assert np.isfinite(np.asarray(corrected)).all()


def test_coordinates_are_equal_to_the_bit_whatever_the_blocks():
    X = make_batches((150,), seed=3)[0].astype(np.float32)
    spaces = GeneSpaces(40, np.arange(0, 40, 2), True, True, np.dtype(np.float32))

    def of(data):
        inputs = read_inputs([data, data[:30]], options=InputOptions(), budget=BUDGET)
        return coordinates.coordinates(inputs, spaces, [0], [[0]], RunOptions(n_jobs=2))[0]

    wanted = of(X)
    assert wanted.shape == (150, coordinates.N_DIMS)
    shuffled = sp.csr_matrix(X)[:, ::-1].tocsc()[:, ::-1].tocsr()
    unsorted = sp.csr_matrix((shuffled.data, shuffled.indices, shuffled.indptr), shuffled.shape)
    for other in (
        np.asfortranarray(X),
        X.astype(np.float64),
        unsorted,
        da.from_array(X, chunks=(1, 40)),
        da.from_array(X, chunks=((3, 90, 57), 11)),
        da.from_array(X, chunks=(149, 40)).map_blocks(sp.csr_matrix),
    ):
        np.testing.assert_array_equal(of(other), wanted)


@pytest.mark.parametrize("cos_norm_in", [True, False])
@pytest.mark.parametrize("method", ["mixed", "geometric"])
def test_awkward_cells_can_be_drawn_from(method, cos_norm_in):
    rng = np.random.default_rng(0)
    one_gene = rng.random((30, 1)) + 1
    alike = np.tile(rng.random(12), (30, 1))
    empty = np.where(np.arange(30)[:, None] < 20, 0, rng.random((30, 12)))
    huge = rng.random((30, 12))
    huge[4] *= 1e100
    options = {"size": 8, "sketch_method": method, "cos_norm_in": cos_norm_in}
    for X in (one_gene, alike, empty, huge):
        assert [len(r) for r in sketched(X, X[::-1], **options).sketch_] == [8, 8]


# ---------------------------------------------------------------- what is read


def lazy_batches():
    return zip(*[counted(X, (10, 40)) for X in make_batches((200, 150, 20))], strict=True)


def holding(rows, chunk=10):
    """Chunks that hold some rows."""
    return Counter({(int(c), 0): 1 for c in np.unique(rows // chunk)})


def test_a_random_sketch_reads_only_the_chunks_of_its_cells():
    datas, reads = lazy_batches()
    rows = sketched(*datas, size=6, sketch_method="random").sketch_
    assert [dict(r) for r in reads] == [dict(holding(r)) for r in rows]
    assert len(reads[0]) < 20


@pytest.mark.parametrize("method", ["mixed", "geometric"])
def test_a_drawn_sketch_reads_a_pilot_then_all_then_its_cells(method, monkeypatch):
    monkeypatch.setattr(coordinates, "PILOT_CELLS", 20)
    pilots = []
    choose = coordinates._pilot_rows
    monkeypatch.setattr(coordinates, "_pilot_rows", lambda *a: pilots.append(choose(*a)) or pilots[-1])
    datas, reads = lazy_batches()
    rows = sketched(*datas, size=20, sketch_method=method).sketch_
    for b in (0, 1):
        assert len(pilots[b]) == 20
        assert reads[b] == holding(pilots[b]) + holding(np.arange(datas[b].shape[0])) + holding(rows[b])
        assert len(holding(pilots[b])) <= 8
    assert reads[2] == holding(rows[2]), "a batch that is whole is not drawn from"


def test_a_split_anndata_is_projected_in_one_pass(monkeypatch):
    monkeypatch.setattr(coordinates, "PILOT_CELLS", 4)
    X = np.vstack(make_batches((100, 100)))
    lazy, reads = counted(X, (10, 40))
    adata = as_anndata(lazy)
    adata.obs["sample"] = ["x", "y"] * 100
    rows = sketched(adata, size=9, batch_key="sample").sketch_
    assert set(reads) == {(c, 0) for c in range(20)}
    assert sum(reads.values()) <= 20 + 8 + len(holding(np.concatenate([2 * rows[0], 2 * rows[1] + 1])))


def test_projecting_leaves_coordinates_only():
    sizes = {}

    def after(key, result, *_):
        if key_split(key) == "mnn-sketch":
            sizes[str(key)] = result.shape

    datas = [da.from_array(X, chunks=(50, 40)) for X in make_batches((3000, 2500))]
    with Callback(posttask=after):
        sketched(*datas, size=20, sketch_method="geometric")
    of_pilot = [shape for shape in sizes.values() if shape[1] == 40]
    of_all = [shape for shape in sizes.values() if shape[1] != 40]
    assert sum(rows for rows, _ in of_pilot) == 2 * 1500
    assert of_all == [(50, coordinates.N_DIMS)] * 110


def test_transform_after_a_sketch_computes_nothing():
    datas, _ = lazy_batches()
    corrector = sketched(*datas)
    with no_compute():
        corrector.transform(datas)


def test_the_pilot_is_spread_over_the_batch():
    """Cells are often stored by type."""
    for n, n_runs in [(1_600, 4), (100_000, 10), (10**6, 20)]:
        rows = coordinates._pilot_rows(n, np.random.default_rng(0))
        assert len(np.unique(rows)) == 1500
        assert (np.bincount(rows // (n // n_runs)) == 1500 // n_runs).all()
        assert np.count_nonzero(np.diff(rows) > 1) < n_runs
    np.testing.assert_array_equal(coordinates._pilot_rows(30, np.random.default_rng(0)), np.arange(30))
