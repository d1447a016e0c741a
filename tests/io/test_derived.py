"""Results leave out what was computed from the uncorrected values, and say so."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from helpers import as_anndata, make_batches, one_anndata
from scipy import sparse

from mnndask import mnn_correct

DERIVED = {
    "obsm": (
        "X_pca",
        "X_umap",
        "X_tsne",
        "X_diffmap",
        "X_draw_graph_fa",
        "X_draw_graph_fr",
        "hvg_pca",
        "map",
    ),
    "varm": ("PCs", "hvg_pca"),
    "obsp": ("connectivities", "distances", "wide_connectivities", "wide_distances", "near"),
    "uns": (
        *("pca", "neighbors", "wide", "odd", "umap", "map", "tsne", "diffmap_evals", "draw_graph", "hvg_pca"),
        *("rank_genes_groups", "rank_genes_groups_filtered", "ranked", "dendrogram_kind", "paga"),
    ),
}
KEPT = {
    "obsm": ("X_scVI", "spatial", "X_pca_harmony"),
    "varm": ("loadings",),
    "obsp": ("spatial_connectivities", "of_spots"),
    "uns": ("log1p", "hvg", "kind_colors", "leiden", "spatial_neighbors", "spots", "mine"),
}
UNS = {
    "pca": {"variance": np.ones(2), "variance_ratio": np.ones(2), "params": {}},
    "hvg_pca": {"variance": np.ones(2), "variance_ratio": np.ones(2), "params": {}},
    "neighbors": {"connectivities_key": "connectivities", "distances_key": "distances"},
    "wide": {"connectivities_key": "wide_connectivities", "distances_key": "wide_distances"},
    "odd": {"connectivities_key": "near", "distances_key": "near", "params": {"n_neighbors": 5}},
    "map": {"params": {"a": 0.5, "b": 0.8}},
    "ranked": {"params": {"groupby": "kind"}, "names": np.array(["g0"]), "scores": np.ones(1)},
    "spatial_neighbors": {
        "connectivities_key": "spatial_connectivities",
        "distances_key": "of_spots",
        "params": {"coord_type": "grid"},
    },
    "log1p": {"base": 2.0},
    "hvg": {"flavor": "seurat"},
    "kind_colors": ["#ff0000", "#00ff00"],
    "leiden": {"params": {"resolution": 1.0}},
    "spots": {"connectivities": 3},
}


def analysed(adata):
    """Put into an AnnData what scanpy, and users, compute."""
    n, n_genes = adata.shape
    adata.obs["kind"] = (["a", "b"] * n)[:n]
    adata.obs["leiden"] = (["0", "1", "1"] * n)[:n]
    adata.var["highly_variable"] = True
    adata.obsm.clear()
    adata.obsp.clear()
    adata.uns.clear()
    for key in (*DERIVED["obsm"], *KEPT["obsm"]):
        adata.obsm[key] = np.ones((n, 2))
    for key in (*DERIVED["varm"], *KEPT["varm"]):
        adata.varm[key] = np.ones((n_genes, 2))
    for key in (*DERIVED["obsp"], *KEPT["obsp"]):
        adata.obsp[key] = sparse.eye(n, format="csr")
    for key in (*DERIVED["uns"], *KEPT["uns"]):
        adata.uns[key] = UNS.get(key, {"params": {"n": 1}})
    return adata


def keys(adata):
    """All keys of a result by slot, but for what mnndask writes."""
    own = {"mnn", "sample_colors"}
    return {slot: set(getattr(adata, slot)) - own for slot in ("obsm", "varm", "obsp", "uns")}


def opened(adata, how, folder):
    if how == "memory":
        return adata
    path = folder / f"{adata.obs_names[0]}.{how}"
    (adata.write_zarr if how == "zarr" else adata.write_h5ad)(path)
    return path


@pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:The data type")
@pytest.mark.parametrize("how", ["memory", "zarr", "h5ad"])
def test_one_result_keeps_only_what_describes_it(how, tmp_path):
    adata, _ = one_anndata(["x", "y", "z"])
    data = opened(analysed(adata), how, tmp_path)
    with pytest.warns(
        UserWarning, match=r"(?s)uncorrected values: .*sc\.pp\.pca.*keep_derived=True"
    ) as warned:
        result, _, _ = mnn_correct(data, batch_key="sample", k=10)
    assert len(warned) == 1
    said = str(warned[0].message)
    assert [key for slot, names in DERIVED.items() for key in names if f"{slot}[{key!r}]" not in said] == []
    assert [key for slot, names in KEPT.items() for key in names if f"{slot}[{key!r}]" in said] == []
    assert keys(result) == {slot: set(names) for slot, names in KEPT.items()}
    assert {"kind", "leiden"} <= set(result.obs)
    assert "highly_variable" in result.var
    assert result.uns["log1p"] == {"base": 2.0}
    whole, _, _ = mnn_correct(data, batch_key="sample", k=10, keep_derived=True)
    assert keys(whole) == {slot: {*names, *KEPT[slot]} for slot, names in DERIVED.items()}


@pytest.mark.parametrize("joined", [True, False])
def test_results_of_several_inputs_keep_only_what_describes_them(joined):
    batches = [analysed(as_anndata(X, f"b{i}_")) for i, X in enumerate(make_batches())]
    del batches[1].uns["hvg_pca"]  # an embedding that one records as such is one in all
    with pytest.warns(UserWarning, match="uncorrected values") as warned:
        results, _, _ = mnn_correct(*batches, k=10, do_concatenate=joined)
    assert len(warned) == 1
    result = results if joined else results[1]
    assert set(result.obsm) == set(KEPT["obsm"])
    assert set(result.varm) == set(KEPT["varm"])
    assert ("obsp['near']" in str(warned[0].message)) == (not joined)
    assert {"log1p", "hvg"} <= set(result.uns)
    assert not set(result.uns) & set(DERIVED["uns"])


def test_records_on_which_inputs_differ_are_of_none():
    batches = [as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches())]
    for base, batch in zip((2.0, 2.0, 10.0), batches, strict=True):
        batch.uns |= {"log1p": {"base": base}, "hvg": {"flavor": "seurat"}}
    result, _, _ = mnn_correct(*batches, k=10)
    assert "log1p" not in result.uns
    assert result.uns["hvg"] == {"flavor": "seurat"}


@pytest.mark.parametrize("slot", ["layers", "obsm"])
def test_what_one_batch_lacks_is_named(slot):
    batches = [as_anndata(X, f"b{i}_") for i, X in enumerate(make_batches())]
    for batch in batches[:2]:
        getattr(batch, slot)["rare"] = batch.X if slot == "layers" else np.ones((batch.n_obs, 2))
    with pytest.warns(UserWarning, match=rf"{slot}\['rare'\] \(batch 2 has none\)"):
        result, _, _ = mnn_correct(*batches, k=10)
    assert "rare" not in getattr(result, slot)


def test_the_command_names_its_own_option(tmp_path, capsys):
    from mnndask.cli.main import main

    adata, _ = one_anndata(["x", "y", "z"])
    analysed(adata).write_zarr(tmp_path / "in.zarr")
    for options, kept in ([], False), (["--keep-derived"], True):
        out = tmp_path / f"out{kept}.zarr"
        with pytest.raises(SystemExit, match="0"):
            main(["correct", str(tmp_path / "in.zarr"), "--batch-key", "sample", "-o", str(out), *options])
        err = capsys.readouterr().err
        assert ("or keep it: --keep-derived." in err) == (not kept)
        assert "keep_derived" not in err
        assert ("X_pca" in ad.read_zarr(out).obsm) == kept
