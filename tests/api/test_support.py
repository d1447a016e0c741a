"""`obs["mnn_support"]`: the share of paired cells around each, low where the reference lacks a type."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import as_anndata, make_batches
from sklearn.metrics import roc_auc_score

from mnndask import RECOMMENDED, MNNCorrector, mnn_correct
from mnndask.cli.look import summary
from mnndask.cli.main import main
from mnndask.datasets.simulated import simulate
from mnndask.diagnostics.recorded_cells import RecordedCells
from mnndask.diagnostics.verdict import verdicts
from mnndask.engine import memory_budget, support
from mnndask.engine.fit_plan import Plan
from mnndask.errors import InputError, InputReadError
from mnndask.io.record import Record

OPTIONS = {"k": 4, "refine": True, "diagnostics": False}
ROWS = [np.arange(0, 60, 2), np.arange(5, 60), np.arange(50)]
SPACES = {
    "genes": {},
    "components": {"n_components": 6, "sigma": 0.15, "var_adj": False},
    "a subset, not normalised": {
        "var_subset": [f"g{i}" for i in range(20)],
        "cos_norm_in": False,
        "sigma": 20.0,
    },
    "no cells left out": {"restrict": None},
}


def inputs(lazy=False):
    out = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches())]
    for adata in out:
        if lazy:
            adata.X = da.from_array(adata.X, chunks=(23, -1))
    return out


def literal(batches, mnns, rows, options):
    """The definition, cell by cell."""
    genes = [int(g[1:]) for g in options.get("var_subset", [f"g{i}" for i in range(40)])]
    out = [np.full(len(batches[0]), np.nan)]
    for X, pairs, own in zip(batches[1:], mnns[1:], rows[1:], strict=True):
        cells, anchors = X[:, genes], set(pairs["new cell"])
        if options.get("cos_norm_in", True):
            cells = cells / np.linalg.norm(cells, axis=1)[:, None]
        near = [own[np.argsort(np.sum((cells[own] - c) ** 2, axis=1))[:20]] for c in cells]
        out.append(np.array([np.mean([cell in anchors for cell in some]) for some in near]))
    return out


@pytest.mark.parametrize("options", SPACES.values(), ids=SPACES)
def test_support_is_the_share_of_anchors_among_the_nearest_fitted_cells(options):
    options = {"restrict": ROWS} | options
    batches = make_batches()
    rows = [np.arange(len(X)) for X in batches] if options["restrict"] is None else ROWS
    result, mnns, _ = mnn_correct(*inputs(), **OPTIONS, **options)
    assert len(mnns[1]) > 20
    if "n_components" not in options:
        expected = np.concatenate(literal(batches, mnns, rows, options))
        assert len(np.unique(expected)) > 5
        np.testing.assert_allclose(result.obs["mnn_support"], expected, atol=1e-6)

    lazy = mnn_correct(*inputs(lazy=True), **OPTIONS, **options)[0].obs["mnn_support"]
    known = np.concatenate([np.isin(np.arange(len(X)), own) for X, own in zip(batches, rows, strict=True)])
    known[: len(batches[0])] = False
    np.testing.assert_array_equal(lazy[known], result.obs["mnn_support"][known])
    assert lazy[~known].isna().all()
    with support.reading_all_cells():
        found = mnn_correct(*inputs(lazy=True), **OPTIONS, **options)[0].obs["mnn_support"]
    pd.testing.assert_series_equal(found, result.obs["mnn_support"])


def test_support_is_the_same_for_a_fit_on_disk_and_for_one_table(monkeypatch):
    monkeypatch.setattr(memory_budget, "FEWEST_TILE_ROWS", 1)
    plans, of = [], Plan.of
    monkeypatch.setattr(Plan, "of", lambda *args: plans.append(of(*args)) or plans[-1])
    expected = mnn_correct(*inputs(), **OPTIONS, restrict=ROWS)[0].obs["mnn_support"].to_numpy()
    with support.reading_all_cells():
        on_disk = mnn_correct(*inputs(lazy=True), **OPTIONS, restrict=ROWS, memory_limit=200_000)[0]
    assert [plan.tiled for plan in plans] == [False, True]
    np.testing.assert_array_equal(on_disk.obs["mnn_support"], expected)

    order = np.argsort(np.concatenate([np.arange(len(X)) for X in make_batches()]), kind="stable")
    mixed = ad.concat(inputs(), label="batch")[order].copy()  # batches alternate, each in its own order
    mixed.X = da.from_array(mixed.X, chunks=(50, -1))
    with support.reading_all_cells():
        one = mnn_correct(mixed, **OPTIONS, restrict=ROWS)[0]
    np.testing.assert_array_equal(one.obs["mnn_support"], expected[order])


def test_only_refined_results_have_support():
    given = inputs()
    given[0].obs["mnn_support"], given[1].obs["mnn_support"] = 0.5, "mine"
    with pytest.warns(UserWarning, match=r"leaves out obs\['mnn_support'\] \(mnndask writes a column"):
        plain = mnn_correct(*given, k=5)[0]
    assert "mnn_support" not in plain.obs
    assert "support" not in plain.uns["mnn"]["steps"]
    corrector = MNNCorrector(**OPTIONS)
    refined = corrector.fit_transform(inputs())
    assert refined.obs["mnn_support"].notna().sum() == 120
    assert "mnn_support" not in corrector.transform(inputs()).obs
    assert "mnn_support" not in corrector.transform(refined).obs
    with pytest.raises(InputError, match="batch_key is 'mnn_support', a column in which"):
        mnn_correct(*inputs(), batch_key="mnn_support")


def lacking(batches, *types, n=400):
    """Two batches of some cells each, of which the first lacks types."""
    first = batches[0][~batches[0].obs["cell_type"].isin(types)]
    out = [first[:n].copy(), batches[1][:n].copy()]
    assert [len(adata) for adata in out] == [n, n]
    return out


@pytest.mark.parametrize("seed", range(2))
def test_cells_of_types_that_the_reference_lacks_have_little_support(seed):
    given = simulate([950, 500], 1000, 2, n_types=6, seed=seed)
    for types in [("type1",), ("type0", "type3")]:
        options = {**RECOMMENDED, "var_subset": given[0].var_names, "diagnostics": False}
        result = mnn_correct(*lacking(given, *types), **options)[0]
        new = result.obs[result.obs["batch"] == "batch1"]
        absent = new["cell_type"].isin(types)
        assert 20 <= absent.sum() <= 380
        assert roc_auc_score(absent, -new["mnn_support"]) >= 0.9


@pytest.fixture(scope="module")
def lacking_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lacking")
    batches = lacking(simulate([900, 600], 1000, 2, n_types=4, seed=1), "type1", n=500)
    for name, batch in zip("ab", batches, strict=True):
        batch.write_zarr(folder / f"{name}.zarr")
    return folder


def test_the_command_writes_support_of_all_cells_and_names_what_it_may_mean(lacking_files, capsys):
    out, page = lacking_files / "out.zarr", lacking_files / "page.html"
    words = ["correct", *(f"{lacking_files}/{name}.zarr" for name in "ab"), "-o", out, "--recommended"]
    words += [
        "--sketch-size",
        "400",
        "--hvg-key",
        "highly_variable",
        "--report",
        page,
        "--label",
        "cell_type",
    ]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert not end.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert "cells paired, support 0." in said
    assert "of its cells have support below 0.5" in said
    assert "their type may be absent from the reference. This is a hint only" in said

    result = ad.read_zarr(out)
    new = result.obs[result.obs["batch"] == "batch1"]
    assert result.uns["mnn"]["steps"]["n_used"].tolist() == [400, 400]
    assert len(new) == 500
    assert new["mnn_support"].between(0, 1).all()
    assert result.obs.loc[result.obs["batch"] == "batch0", "mnn_support"].isna().all()
    means = new.groupby("cell_type", observed=True)["mnn_support"].mean()
    assert means.pop("type1") < 0.3 < 0.7 < means.min()

    text = page.read_text()
    assert "Cells labelled type1 of batch1 (0." in text
    assert text.count("Cells labelled") == 1
    assert "support in batch1" in text
    shown = " ".join(summary(Record.from_uns(result.uns["mnn"], "out"), result.shape, "out"))
    assert "may be absent from the reference" in shown


def test_no_hint_where_every_type_is_in_the_reference():
    batches = simulate([500, 500], 300, 2, n_types=4, seed=1)
    result = mnn_correct(*batches, **RECOMMENDED, var_subset=batches[0].var_names)[0]
    uns = result.uns["mnn"]
    assert uns["steps"]["support"].iloc[1] > 0.7
    (verdict,) = verdicts(uns["steps"], uns["mixing"], uns["parameters"])
    assert verdict.hint == ""
    assert (RecordedCells.of(result).support_by_label("cell_type") > 0.5).all(axis=None)
    result.obs["mnn_support"] = "x"  # results may be edited, and shown all the same
    assert RecordedCells.of(result).support_by_label("cell_type").isna().all(axis=None)
    del result.obs["mnn_support"]
    assert RecordedCells.of(result).support_by_label("cell_type").isna().all(axis=None)


def test_damaged_support_in_a_record_is_refused():
    uns = mnn_correct(*inputs(), k=5, refine=True)[0].uns["mnn"]
    Record.from_uns(uns, "it")
    for name in ("support", "unsupported"):
        for damage in ("x", np.inf):
            steps = uns["steps"].assign(**{name: damage})
            with pytest.raises(InputReadError, match="damaged"):
                Record.from_uns(uns | {"steps": steps}, "it")
