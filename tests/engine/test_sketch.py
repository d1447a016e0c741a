"""Sketches: how many cells, that they are `restrict` and no more, and what is said of them."""

from __future__ import annotations

import warnings

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, KINDS, as_anndata, batches, make_batches, one_anndata, values
from sketches import METHODS, sketched

from mnndask import MNNCorrector, mnn_correct
from mnndask.cli.main import main
from mnndask.engine import project_cells as coordinates
from mnndask.engine import sketch
from mnndask.errors import InputError, NonFiniteError

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
    assert sketch.sketch_size("auto", [10_000, 10_000], 2501) == 5_000
    assert sketch.sketch_size("auto", [10_001, 10_000], 2500) == 5_000
    assert sketch.sketch_size("auto", [10_000, 5_000, 5_000], 2800) is None
    assert sketch.sketch_size("auto", [10_000, 5_000, 5_000], 2900) == 5_000


@pytest.mark.parametrize(("n_batches", "expected"), [(2, 5_000), (40, 5_000), (50, 4_000), (500, 800)])
def test_auto_shares_cells_among_many_batches(n_batches, expected):
    assert sketch.sketch_size("auto", [10_000] * n_batches, 2500 * 10) == expected


def test_auto_counts_in_merge_order(monkeypatch):
    """A large reference is compared with each batch, a large last batch with itself too."""
    monkeypatch.setattr(sketch, "WORK", 40 * (70 * 130 + 50 * 180))
    X = make_batches()
    assert [len(r) for r in MNNCorrector(k=5).fit(X).sketch_] == [60, 70, 50]
    monkeypatch.setattr(sketch, "AUTO_SIZE", (30, 30))
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
    monkeypatch.setattr(sketch, "AUTO_SIZE", (50, 50))


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
    with pytest.raises(NonFiniteError, match=f"batch '{name}' contains NaN or infinity in row {row}."):
        sketched(*datas, size=5, batch_key="s", sketch_method="geometric")


@pytest.mark.parametrize("size", [0, -5, 10.0, "all", "10", True, np.nan, [5], np.array([1, 2])])
def test_sizes_that_make_no_sense(size):
    with pytest.raises(InputError, match=r"sketch_size is .*\nGive the most cells to fit on per batch"):
        mnn_correct(*make_batches(), sketch_size=size)


@pytest.mark.parametrize("method", ["even", None, 3, ["mixed"]])
def test_unknown_methods(method):
    with pytest.raises(InputError, match=r"sketch_method is .*\nGive one of: mixed, geometric, random"):
        mnn_correct(*make_batches(), sketch_method=method)


@pytest.mark.filterwarnings("ignore:Batches are compared with:UserWarning")
@pytest.mark.parametrize(("size", "used"), [("auto", [0, 60, 100]), (None, [0, 60, 130])])
def test_a_long_reference_is_used_whole_where_no_sketch_is_wanted(monkeypatch, size, used):
    monkeypatch.setattr("mnndask.engine.fit_batches.REFERENCE_CELLS", 100)
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
        ("--sketch-size", "some", "'some' is not a number of cells, auto or none"),
        ("--sketch-size", "0", "--sketch-size is 0."),
        ("--sketch-method", "even", "'even' is not one of"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(option, value, message, files, tmp_path, capsys):
    assert run(files, tmp_path / "out.zarr", option, value) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.zarr").exists()
