"""What a correction did to each gene: columns of var, and the genes that changed most."""

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, as_anndata, make_batches

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.diagnostics import gene_changes
from mnndask.diagnostics.label_differences import SignChanges
from mnndask.errors import InputReadError
from mnndask.io.record import Record

OF_GENES = ["mnn_variance_removed", "mnn_correlation"]


def transcribed(before, after, batch):
    """The definition, gene by gene, on all cells."""
    removed, correlation = [], []
    for x, y in zip(before.T, after.T, strict=True):
        removed.append(1 - y.var() / x.var())
        within = [v - np.array([v[batch == b].mean() for b in batch]) for v in (x, y)]
        correlation.append(within[0] @ within[1] / np.sqrt((within[0] @ within[0]) * (within[1] @ within[1])))
    return removed, correlation


def batches(kind="memory"):
    given = make_batches()
    if kind == "lazy":
        given = [da.from_array(X, chunks=(17, -1)) for X in given]
    return [as_anndata(X, str(i)) for i, X in enumerate(given)]


@pytest.mark.parametrize("kind", ["memory", "lazy"])
@pytest.mark.parametrize(
    "options",
    [{}, {"cos_norm_out": False}, {"n_components": 10}, {"var_subset": GENES[3:30]}, {"refine": True}],
)
def test_columns_of_var_compare_corrected_with_uncorrected_values(kind, options):
    result = mnn_correct(*batches(kind), k=6, **options)[0]
    after = np.asarray(result.X)
    before = np.vstack(make_batches())
    if options.get("cos_norm_out", True):
        used = [GENES.index(gene) for gene in options.get("var_subset", GENES)]
        before = before / np.linalg.norm(before[:, used], axis=1, keepdims=True)
    batch = np.repeat([0, 1, 2], [60, 70, 50])
    for name, expected in zip(OF_GENES, transcribed(before, after, batch), strict=True):
        np.testing.assert_allclose(result.var[name], expected, atol=1e-4, err_msg=name)
        assert result.var[name].dtype == np.float32


def test_cells_of_a_sample_stand_for_their_batch(monkeypatch):
    whole = mnn_correct(*batches(), k=6)[0].var
    monkeypatch.setattr(gene_changes, "CELLS", 30)
    some = mnn_correct(*batches(), k=6)[0].var
    for name in OF_GENES:
        assert np.corrcoef(whole[name], some[name])[0, 1] > 0.6
        assert not np.allclose(whole[name], some[name])


def test_genes_that_do_not_vary_have_no_values():
    given = batches()
    for adata in given:
        adata.X[:, 7] = 0
    result = mnn_correct(*given, k=6)[0]
    assert result.var[OF_GENES].isna().all(axis=1).tolist() == [i == 7 for i in range(40)]
    assert np.isfinite(result.uns["mnn"]["genes"][OF_GENES]).all(axis=None)


def test_an_effect_on_one_gene_is_variance_removed():
    rng = np.random.default_rng(0)
    X = rng.normal(5, 1, (200, 30)) + 4 * np.eye(30)[rng.integers(4, size=200)]
    effect = np.zeros(30)
    effect[17] = 3
    parts = [as_anndata(X[:100], "a"), as_anndata(X[100:] + effect, "b")]
    var = mnn_correct(*parts, k=10, cos_norm_in=False, cos_norm_out=False)[0].var
    assert var["mnn_variance_removed"].idxmax() == GENES[17]
    assert var["mnn_variance_removed"].max() > 0.5


def test_nothing_is_read_for_it(monkeypatch):
    read = []

    def seen(X, block_info=None):
        read.append(block_info)
        return X

    lazy = [da.from_array(X, chunks=(17, -1)).map_blocks(seen, dtype=float) for X in make_batches()]
    given = [as_anndata(X, str(i)) for i, X in enumerate(lazy)]
    counts = []
    for diagnostics in (False, True):
        read.clear()
        mnn_correct(*given, k=6, diagnostics=diagnostics)
        counts.append(len([info for info in read if info]))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("options", [{"diagnostics": False}, {"n_components": 5, "genes": "none"}])
def test_there_are_no_columns_where_nothing_is_measured(options):
    result = mnn_correct(*batches(), k=6, **options)[0]
    assert not set(OF_GENES) & set(result.var)
    assert "genes" not in result.uns["mnn"]


def test_a_second_correction_replaces_the_columns_of_the_first():
    first = mnn_correct(*batches(), k=6)[0]
    second = mnn_correct(first, batch_key="batch", k=6)[0]
    assert list(second.var) == OF_GENES
    assert not np.allclose(first.var[OF_GENES], second.var[OF_GENES])


def test_genes_of_a_subset_and_of_separate_results():
    subset = mnn_correct(*batches(), k=6, var_subset=GENES[:20], genes="subset")[0]
    assert subset.var[OF_GENES].notna().all(axis=None)
    for part in mnn_correct(*batches(), k=6, do_concatenate=False)[0]:
        assert set(OF_GENES) <= set(part.var)


def test_the_report_lists_the_genes_that_changed_most(tmp_path):
    paths = [tmp_path / f"{i}.zarr" for i in range(3)]
    for adata, path in zip(batches(), paths, strict=True):
        adata.write_zarr(path)
    words = ["correct", *map(str, paths), "-k6", "-q", f"-o{tmp_path / 'out.zarr'}"]
    with pytest.raises(SystemExit):
        main([*words, f"--report={tmp_path / 'report.html'}"])
    written = ad.read_zarr(tmp_path / "out.zarr")
    listed = written.uns["mnn"]["genes"]
    page = (tmp_path / "report.html").read_text()
    assert "Genes that changed most" in page
    assert written.var["mnn_correlation"].idxmin() == listed["gene"].iloc[0]
    assert set(written.var["mnn_variance_removed"].nlargest(10).index) <= set(listed["gene"])
    assert all(gene in page for gene in listed["gene"])


def test_differences_between_labels_that_change_sign_are_counted():
    rng = np.random.default_rng(0)
    labels = np.array([*["a"] * 90, *["b"] * 90, *["rare"] * 5, *[None] * 15], object)
    before = rng.normal(0, 1, (200, 4))
    before[labels == "a", :3] += 5  # genes 0 to 2 differ beyond noise
    before[:, 3] = rng.permutation(np.tile([0.0, 1.0], 100))  # gene 3 does not
    after = before.copy()
    after[labels == "a", 1] -= 10  # turned round
    after[labels == "a", 2] -= 4  # smaller, but not turned round
    after[labels == "rare"] *= -100
    signs = SignChanges(4)
    signs.add_batch(before, after, labels)
    assert signs.counted.tolist() == [1, 1, 1, 0]
    np.testing.assert_array_equal(signs.shares(), [0, 1, 0, np.nan])
    signs.add_batch(before, before, labels)
    np.testing.assert_array_equal(signs.shares(), [0, 0.5, 0, np.nan])
    signs.add_batch(before, after, np.full(200, None))
    np.testing.assert_array_equal(signs.shares(), [0, 0.5, 0, np.nan])


def test_the_command_compares_labels(tmp_path):
    paths = [tmp_path / f"{i}.zarr" for i in range(3)]
    for adata, path in zip(batches(), paths, strict=True):
        adata.obs["kind"] = ["x", "y"] * (adata.n_obs // 2)
        adata.X[::2, 5] += 9
        adata.write_zarr(path)
    words = ["correct", *map(str, paths), "-k6", "-q", f"-o{tmp_path / 'out.zarr'}"]
    with pytest.raises(SystemExit):
        main([*words, f"--report={tmp_path / 'report.html'}", "--label=kind"])
    written = ad.read_zarr(tmp_path / "out.zarr")
    assert written.var.loc["g5", "mnn_signs_changed"] == 0
    assert written.uns["mnn"]["genes"].columns.tolist() == ["gene", *OF_GENES, "mnn_signs_changed"]
    assert "differences between labels reversed" in (tmp_path / "report.html").read_text()
    again = mnn_correct(written, batch_key="batch", k=6)[0]
    assert list(again.var) == OF_GENES


@pytest.mark.parametrize("damage", [lambda table: table.drop(columns="gene"), lambda table: "genes"])
def test_a_damaged_table_is_noticed(damage):
    uns = mnn_correct(*batches(), k=6)[0].uns["mnn"]
    uns["genes"] = damage(uns["genes"])
    with pytest.raises(InputReadError, match=r"uns\['mnn'\], genes"):
        Record.from_uns(uns, "it")


def test_a_fit_on_disk_has_none(tmp_path):
    result = mnn_correct(*batches("lazy"), k=6, memory_limit=300_000, n_jobs=1, scratch=tmp_path)[0]
    assert isinstance(result.var, pd.DataFrame)
    assert not set(OF_GENES) & set(result.var)
