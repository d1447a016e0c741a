"""Labels and names of every kind are accepted, and end up in the result as they should."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from accepted_inputs import PLAIN, A, B, check
from helpers import GENES, as_anndata
from snapshots import snapshot

from mnndask import mnn_correct


def test_k_larger_than_a_batch():
    with pytest.warns(
        UserWarning, match=r"k=28 is more than the 26 cells used of batch 'y'.*\nGive a smaller k"
    ):
        corrected = mnn_correct(*labelled("x", "y"), k=28, batch_key="s")[0]
    with pytest.warns(UserWarning, match=r"k=26 .* 9 cells used of batch '0'"):
        mnn_correct(A, B, k=26, restrict=[np.arange(9), None])
    check(A, B, k=26, plain=mnn_correct(as_anndata(A), as_anndata(B, "b"), k=26)[0].X)
    assert corrected.n_obs == 56


def labelled(*labels):
    out = as_anndata(A), as_anndata(B, "b")
    for adata, label in zip(out, labels, strict=True):
        adata.obs["s"] = label
    return out


@pytest.mark.parametrize(
    "label",
    [
        lambda names, n: pd.Categorical([names[0]] * n, categories=["unused", *names]),
        lambda names, n: pd.array([names[0]] * n, dtype="string"),
        lambda names, n: np.array([names[0]] * n, dtype=object),
        lambda names, n: np.full(n, len(names[0])),
        lambda names, n: np.full(n, len(names[0]) > 4),
        lambda names, n: np.full(n, len(names[0]) / 2),
    ],
    ids=["categorical", "string", "object", "integer", "bool", "float"],
)
def test_kind_of_label(label):
    first, second = label(["naïf", "Ωmega"], 30), label(["Ωmega", "naïf"], 26)
    parts = labelled(first, second)
    before = snapshot(parts)
    apart = mnn_correct(*parts, k=5, batch_key="s")[0]
    whole = ad.concat(parts)
    whole.obs["s"] = whole.obs["s"].astype("string") if isinstance(first[0], str) else whole.obs["s"]
    together = mnn_correct(whole, k=5, batch_key="s")[0]
    for result in (apart, together):
        np.testing.assert_allclose(result.X, PLAIN, rtol=0, atol=1e-10)
        assert list(result.obs["s"]) == [first[0]] * 30 + [second[0]] * 26
        assert list(result.obs["s"].cat.categories) == [first[0], second[0]]
    assert snapshot(parts) == before


def test_names_in_any_script(tmp_path):
    genes = ["β-globin", "基因", "ген", " spaced ", "a/b", *GENES[5:]]
    parts = as_anndata(A, "細胞", genes), as_anndata(B, "κύτταρο", genes)
    corrected = check(*parts, batch_categories=["Zürich", "上海"], var_subset=genes)
    assert list(corrected.var_names) == genes
    assert corrected.obs_names[0] == "細胞0-Zürich"
    corrected.write_h5ad(tmp_path / "結果.h5ad")
    again = ad.read_h5ad(tmp_path / "結果.h5ad")
    assert list(again.obs["batch"].cat.categories) == ["Zürich", "上海"]
    pd.testing.assert_frame_equal(again.uns["mnn"]["steps"], corrected.uns["mnn"]["steps"])


def test_cell_names_shared_by_batches_are_told_apart():
    assert check(as_anndata(A), as_anndata(B)).obs_names.is_unique


def test_cell_names_left_duplicated_on_request():
    with pytest.warns(UserWarning, match="Cell names are not unique over the batches and are left unchanged"):
        corrected = mnn_correct(as_anndata(A), as_anndata(B), k=5, index_unique=None)[0]
    assert list(corrected.obs_names[30:32]) == ["a0", "a1"]


def test_duplicate_cell_names_are_made_unique():
    parts = as_anndata(A), as_anndata(B, "b")
    parts[0].obs_names = ["same"] * 30
    with pytest.warns(UserWarning, match="Cell names are not unique") as caught:
        corrected = mnn_correct(*parts, k=5)[0]
    assert len([w for w in caught if w.category is UserWarning]) == 1
    assert corrected.obs_names.is_unique
    assert list(corrected.obs_names[:2]) == ["same-0", "same-0-1"]
    assert set(parts[0].obs_names) == {"same"}


def test_views_of_one_anndata():
    whole = ad.concat(labelled("x", "y"))
    whole = whole[np.random.default_rng(0).permutation(56)].copy()
    whole.obs["s"] = whole.obs["s"].astype("category")
    before = snapshot(whole)
    parts = [whole[whole.obs["s"] == label] for label in ("x", "y")]
    corrected = mnn_correct(*parts, k=5, batch_key="s", var_subset=GENES[:20])[0]
    plain = mnn_correct(*(part.X for part in parts), k=5, var_index=GENES, var_subset=GENES[:20])[0]
    np.testing.assert_allclose(corrected.X, plain, rtol=0, atol=1e-10)
    assert all(part.is_view for part in parts)
    assert snapshot(whole) == before
