"""Where batches are sketched or refined, a merge uses no more than so many cells of the reference."""

from unittest.mock import patch

import numpy as np
import pytest
from helpers import GENES, as_anndata, make_batches
from transcription import transcribe

from mnndask import MNNCorrector, mnn_correct
from mnndask.core import fit, refined_pairs
from mnndask.core.history import MergeHistory
from mnndask.engine import fit_batches, fit_plan

pytestmark = pytest.mark.filterwarnings("ignore:Batches are compared with:UserWarning")
SIZES = (30, 26, 24, 28)
RESTRICT = [np.arange(0, 30, 2), np.arange(20), np.arange(2, 22), np.arange(28)]  # 15 + 20 + 20 + 28
BOUND = 18


@pytest.fixture
def used(monkeypatch):
    """Rows of the reference that each step uses, by its length before the step."""
    side, out = MergeHistory.side, {}

    def spying(self, node, most, work, name):
        found = side(self, node, most, work, name)
        if name.startswith("reference"):
            out[node.n_cells] = found.used
        return found

    for module in (fit_batches, fit_plan):
        monkeypatch.setattr(module, "REFERENCE_CELLS", BOUND)
    monkeypatch.setattr(MergeHistory, "side", spying)
    return out


OPTIONS = {
    "defaults": {},
    "subset": {"subset": [1, 4, 5, 9, 12, 13, 17, 20, 24]},
    "spaces that differ": {"cos_norm_in": False},
    "span": {"svd_dim": 2, "svd_mode": "svd", "subset": list(range(1, 25, 2))},
    "angles": {"compute_angle": True, "svd_mode": "svd"},
    "refined": {"refine": True, "subset": list(range(1, 25, 2)), "cos_norm_out": False},
    "refined, in another order": {"refine": True, "pair_averaging": 3, "mnn_order": [2, 0, 3, 1]},
    "order": {"mnn_order": [2, 0, 3, 1]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("limit", [None, 80_000], ids=["memory", "tiled"])
def test_it_is_the_definition_with_that_steps_reference_restricted(used, options, limit):
    batches = make_batches(SIZES, 25)
    order = options.get("mnn_order", [0, 1, 2, 3])
    definition = {key: value for key, value in options.items() if key not in ("svd_mode", "subset")}
    names = {"var_index": range(25), "var_subset": options["subset"]} if "subset" in options else {}
    call = {key: value for key, value in options.items() if key != "subset"} | names
    where = {"k": 5, "restrict": RESTRICT, "memory_limit": limit, "n_jobs": 1}
    corrected, mnns, angles = mnn_correct(*batches, do_concatenate=False, **where, **call)

    before = np.cumsum([len(RESTRICT[b]) for b in order])[:-1]
    rows = {b: used[n] for b, n in zip(order[1:], before, strict=True) if used[n] is not None}
    assert len(rows) >= 2
    assert all(len(own) == BOUND for own in rows.values())
    expected = transcribe(
        batches, k=5, restrict=RESTRICT, subset=options.get("subset"), reference_rows=rows, **definition
    )
    for b, (ours, theirs) in enumerate(zip(corrected, expected.corrected, strict=True)):
        sure = ~expected.undecided[b]
        assert sure.mean() > 0.9
        np.testing.assert_allclose(ours[sure], theirs[sure], rtol=0, atol=1e-10)
    for b, pairs in expected.pairs.items():  # rows of the full data, never of what was used
        assert set(zip(mnns[b]["ref cell"], mnns[b]["new cell"], strict=True)) == pairs
    for b, degrees in expected.angles.items():
        np.testing.assert_allclose(angles[b], degrees, atol=1e-6)


def test_pairs_name_the_batch_of_their_reference_cell(used):
    sizes = np.cumsum((0, *SIZES))
    _, mnns, _ = mnn_correct(*make_batches(SIZES, 25), k=5, restrict=RESTRICT)
    table = mnns[3]
    assert table["original batch"].nunique() > 1
    for batch, row in zip(table["original batch"], table["ref cell"], strict=True):
        assert row - sizes[batch] in RESTRICT[batch]


@pytest.mark.parametrize("limit", [None, 150_000], ids=["memory", "tiled"])
def test_what_a_step_keeps_and_searches_does_not_grow(used, limit):
    searched = []
    find = fit.find_pairs

    def spying(work, new, ref, *rest):
        searched.append(len(ref))
        return find(work, new, ref, *rest)

    sizes = [20] * 7
    restrict = [np.arange(19)] * 7
    with patch.object(fit, "find_pairs", spying):
        corrector = MNNCorrector(k=5, restrict=restrict, memory_limit=limit, n_jobs=1)
        corrector.fit(make_batches(sizes))
    assert searched == [BOUND] * 6
    assert [len(step.ref) for step in corrector.model_.steps] == [BOUND] * 6


@pytest.mark.parametrize("options", [{"sketch_size": 20}, {"restrict": RESTRICT}], ids=["size", "restrict"])
def test_it_is_said(used, options):
    with pytest.warns(UserWarning, match=r"compared with 18 of up to \d+ cells merged before them") as caught:
        mnn_correct(*make_batches(SIZES), k=5, **options)
    assert len(caught) == 1
    assert "sketch_size=None" in str(caught[0].message)


def test_it_is_recorded(used):
    batches = [as_anndata(X, f"b{i}", GENES) for i, X in enumerate(make_batches(SIZES))]
    steps = mnn_correct(*batches, k=5, restrict=RESTRICT)[0].uns["mnn"]["steps"]
    assert steps["n_reference_used"].tolist() == [0, 15, BOUND, BOUND]


@pytest.mark.parametrize("limit", [None, 250_000], ids=["memory", "tiled"])
def test_it_never_happens_where_all_cells_are_used(used, limit):
    batches = [as_anndata(X, f"b{i}", GENES) for i, X in enumerate(make_batches(SIZES))]
    found = mnn_correct(*batches, k=5, memory_limit=limit, sketch_size=None)[0]
    assert set(used) == {30, 56, 80}
    assert not any(rows is not None for rows in used.values())
    assert found.uns["mnn"]["steps"]["n_reference_used"].tolist() == [0, 30, 56, 80]
    expected = np.concatenate(transcribe(make_batches(SIZES), k=5).corrected)
    np.testing.assert_allclose(found.X, expected, atol=1e-10)


@pytest.mark.parametrize("limit", [None, 80_000], ids=["memory", "tiled"])
def test_a_refined_batch_is_compared_with_so_many_times_its_cells(used, monkeypatch, limit):
    """At most the same multiple or the same number; here of 26, 24 and 28 cells, and of 30, 56 and 80."""
    monkeypatch.setattr(refined_pairs, "MOST_COMPARED", (2, 50))
    batches = make_batches(SIZES, 25)
    options = {"k": 5, "refine": True, "sketch_size": None, "n_jobs": 1}
    found = mnn_correct(*batches, do_concatenate=False, memory_limit=limit, **options)[0]
    rows = {b: used[n] for b, n in ((2, 56), (3, 80))}
    assert used[30] is None
    assert [len(own) for own in rows.values()] == [50, 56]
    expected = transcribe(batches, k=5, refine=True, reference_rows=rows)
    for b, (ours, theirs) in enumerate(zip(found, expected.corrected, strict=True)):
        sure = ~expected.undecided[b]
        assert sure.mean() > 0.9
        np.testing.assert_allclose(ours[sure], theirs[sure], rtol=0, atol=1e-10)
