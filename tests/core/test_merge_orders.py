"""Orders of merges: nested ones, and those that the numbers of pairs decide."""

import json

import numpy as np
import pytest
from golden_cases import FOLDER
from helpers import make_batches
from transcription import transcribe

from mnndask import MNNCorrector, mnn_correct
from mnndask._choices import AUTOMATIC_ORDERS
from mnndask.core import fit
from mnndask.engine import fit_batches, fit_plan

SIZES = (30, 26, 24, 28, 22)
GOLDEN = {"merge_tree": [[0, 1], [2, 3]], "auto_merge": "auto"}


def nested_pairs(tables, sizes, left, number):
    """Pairs of a merge as rows of all cells in input order, like the reference implementation's."""
    starts = np.cumsum([0, *sizes])
    offsets = dict(zip(left, np.cumsum([0, *(sizes[b] for b in left)]), strict=False))
    out = set()
    for batch, table in enumerate(tables):
        rows = table[table["merge"] == number] if "merge" in table else table
        if set(rows["original batch"]) <= set(left) and len(rows) and batch not in left:
            ref = rows["ref cell"] - rows["original batch"].map(offsets) + starts[rows["original batch"]]
            out |= set(zip(ref, rows["new cell"] + starts[batch], strict=True))
    return out


@pytest.mark.lowest
@pytest.mark.parametrize("limit", [None, 400_000], ids=["memory", "tiled"])
@pytest.mark.parametrize("name", GOLDEN)
def test_trees_equal_the_reference_implementation(name, limit):
    merges = json.loads((FOLDER / "manifest.json").read_text())[name]["merges"][1:]
    with np.load(FOLDER / f"{name}.npz") as stored:
        arrays = dict(stored)
    batches = [arrays[f"batch{i}"] for i in range(4)]
    corrected, tables, _ = mnn_correct(*batches, mnn_order=GOLDEN[name], memory_limit=limit, n_jobs=1)
    assert np.abs(corrected - arrays["corrected"]).max() < 1e-8 * np.abs(arrays["corrected"]).max()
    sizes = [len(b) for b in batches]
    for number, line in enumerate(merges):
        left, right = ([int(b) for b in side.split()] for side in line.split(",")[1:3])
        own = [table if b in right else table[:0] for b, table in enumerate(tables)]
        assert nested_pairs(own, sizes, left, number) == set(map(tuple, arrays[f"pairs{number}"].tolist()))


OPTIONS = {
    "defaults": {},
    "subset": {"subset": [1, 4, 5, 9, 12, 13, 17, 20, 24]},
    "spaces that differ": {"cos_norm_in": False},
    "spaces that differ, subset": {"cos_norm_out": False, "subset": list(range(1, 25, 2))},
    "span": {"svd_dim": 2, "svd_mode": "svd", "subset": list(range(1, 25, 2))},
    "angles": {"compute_angle": True, "svd_mode": "svd"},
    "no adjustment": {"var_adj": False},
    "refined": {"refine": True, "subset": list(range(1, 25, 2)), "var_adj": False},
    "restricted": {"restrict": [np.arange(20), None, np.arange(2, 22), np.arange(0, 28, 2), np.arange(19)]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("limit", [None, 120_000], ids=["memory", "tiled"])
def test_a_tree_is_the_definition(options, limit):
    batches, order = make_batches(SIZES, 25), [[3, 0], [[1, 4], 2]]
    definition = {key: value for key, value in options.items() if key != "svd_mode"}
    names = {"var_index": range(25), "var_subset": options["subset"]} if "subset" in options else {}
    call = {key: value for key, value in options.items() if key != "subset"} | names
    found = mnn_correct(
        *batches, k=5, mnn_order=order, do_concatenate=False, memory_limit=limit, n_jobs=1, **call
    )
    expected = transcribe(batches, k=5, mnn_order=order, **definition)
    for b, (ours, theirs) in enumerate(zip(found[0], expected.corrected, strict=True)):
        sure = ~expected.undecided[b]
        assert sure.mean() > 0.9
        np.testing.assert_allclose(ours[sure], theirs[sure], rtol=0, atol=1e-10)
    for b, merges in expected.pairs_of_merges.items():
        assert sorted(found[1][b]["merge"].unique()) == [number for number, _ in merges]
        for number, pairs in merges:
            rows = found[1][b][found[1][b]["merge"] == number]
            assert set(zip(rows["ref cell"], rows["new cell"], strict=True)) == pairs
    for b, degrees in expected.angles.items():
        np.testing.assert_allclose(found[2][b], degrees, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"cos_norm_in": False}, {"refine": True, "var_adj": False}])
def test_components_of_all_dimensions_change_nothing(options):
    batches, order = make_batches(SIZES, 12), [[3, 0], [[1, 4], 2]]
    genes, components = (
        mnn_correct(*batches, k=5, mnn_order=order, n_components=n, svd_mode="svd", **options)[0]
        for n in (None, 11)
    )
    reduced = mnn_correct(*batches, k=5, mnn_order=order, n_components=12, **options)[0]
    np.testing.assert_allclose(reduced, genes, rtol=0, atol=1e-9)
    assert np.isfinite(components).all()


@pytest.mark.parametrize("flags", [(True, True), (True, False), (False, True)])
def test_cells_outside_the_fit_move_like_those_in_it(flags):
    """A cell that equals one of the fit takes the same way, also where it moves twice."""
    batches = make_batches(SIZES, 25)
    options = {"k": 5, "mnn_order": [[3, 0], [[1, 4], 2]], "cos_norm_in": flags[0], "cos_norm_out": flags[1]}
    fitted = MNNCorrector(n_components=10, var_adj=False, do_concatenate=False, **options).fit(batches)
    again = fitted.transform(batches)
    for b, (ours, X) in enumerate(zip(again, batches, strict=True)):
        np.testing.assert_allclose(ours, fitted.model_.correct(b, X, np.arange(len(X))), atol=1e-12)
        both, embedded = fitted.model_.correct_and_embed(b, X)
        np.testing.assert_allclose(both, ours, atol=1e-12)
        np.testing.assert_allclose(embedded, fitted.model_.embed(b, X), atol=1e-12)


def test_lists_that_are_nested_first_are_a_sequence():
    batches = make_batches(SIZES)
    flat, nested = (
        mnn_correct(*batches, k=5, mnn_order=order) for order in ([2, 0, 1, 4, 3], [[[[2, 0], 1], 4], 3])
    )
    np.testing.assert_array_equal(flat[0], nested[0])
    assert [list(table) for table in nested[1]] == [list(table) for table in flat[1]]


@pytest.mark.parametrize("kind", AUTOMATIC_ORDERS)
def test_an_automatic_order_is_that_order_when_given(kind):
    batches = make_batches(SIZES)
    fitted = MNNCorrector(k=5, mnn_order=kind)
    found = fitted.fit_transform(batches)
    tree = json.loads(fitted.uns_["order"])
    assert sorted(leaves(tree)) == list("01234")
    given = MNNCorrector(k=5, mnn_order=tree).fit_transform(batches)
    np.testing.assert_allclose(found, given, rtol=0, atol=1e-12)


def leaves(tree):
    return [tree] if isinstance(tree, str) else [b for part in tree for b in leaves(part)]


@pytest.mark.parametrize("flags", [(True, True), (True, False)])
def test_cells_beyond_the_bound_move_like_the_others(flags, monkeypatch):
    """Of a side that is longer than the bound, a merge looks at some cells, and all move."""
    histories, bound = [], 18

    def noting(*args, **options):
        histories.append(fit.fit(*args, **options))
        return histories[-1]

    monkeypatch.setattr(fit_batches, "fit", noting)
    for module in (fit_batches, fit_plan):
        monkeypatch.setattr(module, "REFERENCE_CELLS", bound)
    batches, cut = make_batches(SIZES, 25), [np.arange(len) for len in (19, 17, 16, 18, 17)]
    fitted = MNNCorrector(
        k=5, mnn_order=[[0, 1], [[2, 3], 4]], restrict=cut, cos_norm_in=flags[0], cos_norm_out=flags[1]
    )
    with pytest.warns(UserWarning, match="compared with 18 of up to 36 cells"):
        fitted.fit(batches)
    (history,) = histories
    assert [len(m.step.new) for m in history.merges] == [18, 17, 17, 18]
    centre, X = history.cells.space_out.centre, history.references[-1].points.X
    for b, rows in enumerate(cut):
        expected = fitted.model_.correct(b, batches[b][rows])
        np.testing.assert_allclose(X[history.rows_of(b)] + centre, expected, rtol=0, atol=1e-10)
