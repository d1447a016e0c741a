"""Sketches: which cells are drawn, what is read for it, and that they are `restrict` and no more."""

from __future__ import annotations

import warnings
from collections import Counter

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from dask.callbacks import Callback
from helpers import GENES, KINDS, as_anndata, batches, counted, make_batches, no_compute, one_anndata, values
from scipy import sparse as sp

from mnndask import MNNCorrector, coordinates, fit, mnn_correct, sketch
from mnndask.budget import Budget
from mnndask.cli import main
from mnndask.errors import InputError, NonFiniteError
from mnndask.inputs import read_inputs
from mnndask.kernels.cosine import cosine_lengths
from mnndask.kernels.covering import cover
from mnndask.kernels.projection import as_csr, csr_lengths, directions, project
from mnndask.model import GeneSpaces

METHODS = ["mixed", "geometric", "random"]

BUDGET = Budget.of("1GB", 1)


def sketched(*datas, size=20, **options):
    """A corrector fitted on a sketch."""
    return MNNCorrector(k=5, sketch_size=size, **options).fit(datas)


def drawn(*datas, method, n_jobs=None, seed=0, subset=None, batch_key="batch"):
    """Rows of a sketch of 20 cells, without the fit."""
    inputs = read_inputs(datas, batch_key=batch_key, budget=BUDGET)
    spaces = GeneSpaces(40, subset, True, True, inputs.dtype)
    given = {"sketch_size": 20, "sketch_method": method, "n_jobs": n_jobs, "random_state": seed}
    order = list(range(len(inputs.categories)))
    chosen = sketch.choose_cells(inputs, spaces, order, given | {"restrict": None})
    return sketch.draw_cells(inputs, spaces, chosen, given)


def assert_same_rows(one, other):
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- a sketch is a `restrict`


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [
        *[(method, "ndarray", {}) for method in METHODS],
        ("mixed", "dask-csr", {}),
        ("geometric", "dask-csr", {"var_subset": GENES[::3], "svd_dim": 2, "compute_angle": True}),
        ("mixed", "lazy-h5ad", {"var_subset": GENES[::3]}),
    ],
)
def test_a_sketch_is_its_cells_as_restrict(method, kind, options, tmp_path):
    datas = batches(kind, tmp_path)
    if "var_subset" in options and not kind.startswith("lazy"):
        options = options | {"var_index": GENES}
    rows = sketched(*datas, sketch_method=method, **options).sketch_
    one = mnn_correct(*datas, k=5, sketch_size=20, sketch_method=method, **options)
    other = mnn_correct(*datas, k=5, restrict=rows, **options)
    np.testing.assert_array_equal(values(one[0]), values(other[0]))
    for a, b in zip(one[1], other[1], strict=True):
        pd.testing.assert_frame_equal(a, b)
    for a, b in zip(one[2] or [], other[2] or [], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("method", METHODS)
def test_a_sketch_of_a_split_anndata_is_its_cells_as_restrict(method):
    adata, _ = one_anndata([*"xyz"])
    rows = sketched(adata, batch_key="sample", sketch_method=method).sketch_
    one = mnn_correct(adata, k=5, batch_key="sample", sketch_size=20, sketch_method=method)[0]
    np.testing.assert_array_equal(one.X, mnn_correct(adata, k=5, batch_key="sample", restrict=rows)[0].X)


@pytest.mark.parametrize("method", METHODS)
def test_new_cells_are_corrected_as_cells_outside_the_sketch(method):
    X = make_batches()
    corrector = sketched(*X, sketch_method=method)
    rest = np.setdiff1d(np.arange(70), corrector.sketch_[1])
    whole = mnn_correct(*X, k=5, sketch_size=20, sketch_method=method)[0]
    new = corrector.transform([X[1][rest]], batches=["1"])
    np.testing.assert_allclose(new, whole[60:130][rest], rtol=0, atol=1e-10)


# ---------------------------------------------------------------- how many cells


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 2, 60, np.int64(7)])
def test_batches_have_at_most_so_many_cells(method, size):
    rows = MNNCorrector(k=1, sketch_size=size, sketch_method=method).fit(make_batches()).sketch_
    assert [len(r) for r in rows] == [min(size, n) for n in (60, 70, 50)]
    for own, n in zip(rows, (60, 70, 50), strict=True):
        assert (np.diff(own) > 0).all()
        assert own[0] >= 0
        assert own[-1] < n


@pytest.mark.parametrize("method", METHODS)
def test_a_large_enough_sketch_is_all_cells_and_draws_nothing(method, monkeypatch):
    monkeypatch.setattr(sketch, "coordinates", None)
    X = make_batches()
    result = mnn_correct(*X, k=5, sketch_size=70, sketch_method=method)[0]
    np.testing.assert_array_equal(result, mnn_correct(*X, k=5, sketch_size=None)[0])
    np.testing.assert_array_equal(result, mnn_correct(*X, k=5)[0])


def test_auto_is_all_cells_while_that_is_little_work():
    # 10,000 more cells x (10,000 before + 10,000) x 2,500 genes
    assert sketch.sketch_size("auto", [10_000, 10_000], 2500) is None
    assert sketch.sketch_size("auto", [10_000, 10_000], 2501) == sketch.AUTO_SIZE
    assert sketch.sketch_size("auto", [10_001, 10_000], 2500) == sketch.AUTO_SIZE
    assert sketch.sketch_size("auto", [10_000, 5_000, 5_000], 2800) is None
    assert sketch.sketch_size("auto", [10_000, 5_000, 5_000], 2900) == sketch.AUTO_SIZE


def test_auto_counts_in_merge_order(monkeypatch):
    """A large reference is compared with each batch, a large last batch with itself too."""
    monkeypatch.setattr(sketch, "WORK", 40 * (70 * 130 + 50 * 180))
    X = make_batches()
    assert [len(r) for r in MNNCorrector(k=5).fit(X).sketch_] == [60, 70, 50]
    monkeypatch.setattr(sketch, "AUTO_SIZE", 30)
    with pytest.warns(UserWarning, match="at most 30 of each batch"):
        corrector = MNNCorrector(k=5, mnn_order=[2, 0, 1]).fit(X)
    assert [len(r) for r in corrector.sketch_] == [30, 30, 30]


def test_numbers_and_none_are_taken_as_they_are():
    assert sketch.sketch_size(None, [10**7, 10**7], 30_000) is None
    assert sketch.sketch_size(100, [10, 10], 5) == 100


@pytest.fixture
def little(monkeypatch):
    """As if the test data were too much work."""
    monkeypatch.setattr(sketch, "WORK", 1)
    monkeypatch.setattr(sketch, "AUTO_SIZE", 50)


@pytest.mark.usefixtures("little")
def test_auto_warns_its_caller_when_it_approximates():
    with pytest.warns(UserWarning, match="fitted on 150 of 180 cells") as caught:
        mnn_correct(*make_batches(), k=5)
    (warning,) = caught
    first, second = str(warning.message).split("\n")
    assert "fitted on 150 of 180 cells, at most 50 of each batch" in first
    assert "sketch_size=None" in second
    assert warning.filename == __file__


@pytest.mark.usefixtures("little")
@pytest.mark.parametrize("options", [{"sketch_size": 50}, {"sketch_size": None}, {"restrict": [None] * 3}])
def test_what_was_asked_for_is_done_without_a_warning(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corrector = MNNCorrector(k=5, **options).fit(make_batches())
    assert sum(map(len, corrector.sketch_)) == (
        150 if "restrict" not in options and options["sketch_size"] else 180
    )


@pytest.mark.usefixtures("little")
def test_auto_does_not_warn_where_all_cells_are_in_the_sketch():
    X = [x[:50] for x in make_batches()]
    np.testing.assert_array_equal(mnn_correct(*X, k=5)[0], mnn_correct(*X, k=5, sketch_size=None)[0])


@pytest.mark.usefixtures("little")
@pytest.mark.filterwarnings("ignore:The correction is fitted on:UserWarning")
def test_the_result_records_its_sketch(tmp_path):
    result = mnn_correct(*batches("anndata"), k=5)[0]
    result.write_h5ad(tmp_path / "out.h5ad")
    for uns in (result.uns["mnn"], ad.read_h5ad(tmp_path / "out.h5ad").uns["mnn"]):
        assert uns["sketch"] == {"size": 50, "method": "mixed"}
        assert uns["parameters"]["sketch_size"] == "auto"
        assert list(uns["steps"]["n_used"]) == [50, 50, 50]
    assert "sketch" not in mnn_correct(*batches("anndata"), k=5, sketch_size=None)[0].uns["mnn"]


def test_k_counts_sketched_cells():
    with pytest.warns(UserWarning, match="k=9 is more than the 8 cells used of batch '0'"):
        mnn_correct(*make_batches(), k=9, sketch_size=8)


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
        onto = directions(cells, 6, 0, normalise=normalise)
        low = project(cells, onto, normalise=normalise)
        full = X / cosine_lengths(X)[:, None] if normalise else X
        np.testing.assert_allclose(low @ low.T, full @ full.T, atol=1e-10)
    few = directions(as_csr(X[:1, :3], slice(None)), 6, 0, normalise=True)
    np.testing.assert_allclose(np.linalg.norm(few, axis=0), [1, 0, 0, 0, 0, 0])


def test_lengths_are_those_of_the_cosine_normalisation():
    X = make_batches()[0]
    X[3], X[4], X[5] = 0, X[4] * 1e200, X[5] * 1e-200
    np.testing.assert_allclose(csr_lengths(as_csr(X, slice(None))), cosine_lengths(X), rtol=1e-14)


def test_coordinates_are_equal_to_the_bit_whatever_the_blocks():
    X = make_batches((150,), seed=3)[0].astype(np.float32)
    spaces = GeneSpaces(40, np.arange(0, 40, 2), True, True, np.dtype(np.float32))

    def of(data):
        inputs = read_inputs([data, data[:30]], batch_key="batch", budget=BUDGET)
        return coordinates.coordinates(inputs, spaces, [0], [[0]], 2)[0]

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
        if str(key).startswith(("_read_chunk", "('_read_chunk")):
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


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("pilot", [4, 1000])
@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_cells_that_are_not_finite_are_named(lazy, split, pilot, monkeypatch):
    """In the pilot or not, in the sketch or not."""
    monkeypatch.setattr(coordinates, "PILOT_CELLS", pilot)
    X = make_batches((60, 60))
    X[1][31, 2] = np.inf
    wrap = (lambda x: da.from_array(x, chunks=(40, -1))) if lazy else np.asarray
    adata = as_anndata(wrap(np.vstack(X)))
    adata.obs["s"] = np.repeat(["p", "q"], 60)
    datas, name, row = ([adata], "q", 91) if split else ([wrap(x) for x in X], "1", 31)
    with pytest.raises(NonFiniteError, match=f"batch '{name}' holds NaN or infinity in row {row}."):
        sketched(*datas, size=5, batch_key="s", sketch_method="geometric")


@pytest.mark.parametrize("size", [0, -5, 10.0, "all", "10", True, np.nan, [5], np.array([1, 2])])
def test_sizes_that_make_no_sense(size):
    with pytest.raises(InputError, match=r"sketch_size is .*\nGive the most cells to fit on per batch"):
        mnn_correct(*make_batches(), sketch_size=size)


@pytest.mark.parametrize("method", ["even", None, 3, ["mixed"]])
def test_unknown_methods(method):
    with pytest.raises(InputError, match=r"sketch_method is .*\nGive one of: mixed, geometric, random"):
        mnn_correct(*make_batches(), sketch_method=method)


@pytest.mark.parametrize(("size", "used"), [("auto", [0, 60, 100]), (None, [0, 60, 130])])
def test_a_long_reference_is_used_whole_where_no_sketch_is_wanted(monkeypatch, size, used):
    monkeypatch.setattr(fit, "REFERENCE_CELLS", 100)
    corrector = MNNCorrector(k=5, restrict=[None] * 3, sketch_size=size).fit(make_batches())
    assert list(corrector.uns_["steps"]["n_reference_used"]) == used


def test_restrict_and_a_number_contradict_each_other():
    with pytest.raises(InputError, match=r"Both restrict and sketch_size=9 say.*\nGive one of them"):
        mnn_correct(*make_batches(), restrict=[None] * 3, sketch_size=9)


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return [str(KINDS["path-zarr"](X, folder, f"b{i}")) for i, X in enumerate(make_batches())]


def run(files, output, *options):
    with pytest.raises(SystemExit) as end:
        main(["correct", *files, "-k", "5", "-o", str(output), *options])
    return end.value.code or 0


@pytest.mark.usefixtures("little")
def test_the_command_takes_a_sketch(files, tmp_path, capsys):
    for size, method, n_used in [
        ("none", "mixed", [60, 70, 50]),
        ("auto", "random", [50] * 3),
    ]:
        output = tmp_path / f"{size}.zarr"
        assert run(files, output, "--sketch-size", size, "--sketch-method", method) == 0
        uns = ad.read_zarr(output).uns["mnn"]
        assert list(uns["steps"]["n_used"]) == n_used
        assert uns["parameters"]["sketch_method"] == method
        assert ("warning: The correction is fitted on 150 of 180" in capsys.readouterr().err) == (
            size == "auto"
        )


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sketch-size", "some", "'some' is neither a number of cells nor auto or none"),
        ("--sketch-size", "0", "sketch_size is 0."),
        ("--sketch-method", "even", "'even' is not one of"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(option, value, message, files, tmp_path, capsys):
    assert run(files, tmp_path / "out.zarr", option, value) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.zarr").exists()
