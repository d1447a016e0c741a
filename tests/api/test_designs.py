"""Designs: nested batches, groups that are corrected apart, cells to fit on, columns to protect."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, as_anndata, make_batches

from mnndask import MNNCorrector, mnn_correct
from mnndask.errors import InputError, InputKeyError, InputTypeError

SIZES = (30, 26, 24, 28)
STUDIES, DONORS = ["A", "A", "B", "B"], ["1", "2", "1", "2"]
NESTED = [[0, 1], [2, 3]]


def parts():
    """Batches of two studies whose donors have the same names, a half of each being controls."""
    out = []
    for i, X in enumerate(make_batches(SIZES, 25)):
        part = as_anndata(X, f"c{i}_", GENES[:25])
        n = len(X)
        part.obs["study"], part.obs["donor"], part.obs["tissue"] = STUDIES[i], DONORS[i], "st"[i % 2]
        part.obs["control"] = np.arange(n) % 2 == 0
        part.obs["condition"] = pd.Categorical(np.where(part.obs["control"], "healthy", "ill"))
        out.append(part)
    return out


def whole(shuffled=True):
    adata = ad.concat(parts())
    rows = np.random.default_rng(0).permutation(adata.n_obs) if shuffled else slice(None)
    return adata[rows].copy()


def matrices():
    return make_batches(SIZES, 25)


KEY = ["study", "donor"]


def test_donors_merge_within_studies_first():
    expected = mnn_correct(*matrices(), k=5, mnn_order=NESTED)[0]
    adata = whole(shuffled=False)
    corrected, tables, _ = mnn_correct(adata, k=5, batch_key=KEY)
    np.testing.assert_allclose(corrected.X, expected, rtol=0, atol=1e-10)
    assert list(corrected.obs["study_donor"].unique()) == ["A_1", "A_2", "B_1", "B_2"]
    assert list(corrected.obs["study"]) == list(adata.obs["study"])
    record = corrected.uns["mnn"]
    assert json.loads(record["order"]) == ["A_1", "A_2", ["B_1", "B_2"]]
    assert record["parameters"]["batch_key"] == "study_donor"
    assert list(record["parameters"]["nested_batch_key"]) == KEY
    assert "study_donor" not in adata.obs
    assert "merge" in tables[3]


def test_several_objects_are_nested_by_their_columns():
    expected = mnn_correct(*matrices(), k=5, mnn_order=NESTED)[0]
    corrected = mnn_correct(*parts(), k=5, batch_key=KEY)[0]
    np.testing.assert_allclose(corrected.X, expected, rtol=0, atol=1e-10)
    assert list(corrected.obs["study_donor"].unique()) == ["A_1", "A_2", "B_1", "B_2"]


@pytest.mark.parametrize("kind", ["zarr", "h5ad"])
def test_stores_are_nested_by_their_columns(kind, tmp_path):
    paths = [tmp_path / f"{i}.{kind}" for i in range(4)]
    for part, path in zip(parts(), paths, strict=True):
        getattr(part, f"write_{kind}")(path)
    expected = mnn_correct(*matrices(), k=5, mnn_order=NESTED)[0]
    corrected = mnn_correct(*paths, k=5, batch_key=KEY)[0]
    np.testing.assert_allclose(corrected.X.compute(), expected, rtol=0, atol=1e-10)


def test_three_columns_are_two_levels():
    batches = make_batches((20, 21, 22, 23, 24), 12)
    levels = [("x", "A", "1"), ("x", "A", "2"), ("x", "B", "1"), ("y", "A", "1"), ("y", "A", "2")]
    adata = []
    for i, (X, values) in enumerate(zip(batches, levels, strict=True)):
        adata.append(as_anndata(X, f"c{i}_", GENES[:12]))
        adata[-1].obs[["site", "study", "donor"]] = values
    corrected = mnn_correct(ad.concat(adata), k=5, batch_key=["site", "study", "donor"])[0]
    assert json.loads(corrected.uns["mnn"]["order"]) == ["x_A_1", "x_A_2", "x_B_1", ["y_A_1", "y_A_2"]]
    expected = mnn_correct(*batches, k=5, mnn_order=[[[0, 1], 2], [3, 4]])[0]
    np.testing.assert_allclose(corrected.X, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["auto", "share", "tree"])
def test_automatic_orders_keep_nests_together(kind):
    corrected = mnn_correct(whole(), k=5, batch_key=KEY, mnn_order=kind)[0]
    tree = json.loads(corrected.uns["mnn"]["order"])
    first, second, nest = tree
    assert {first[0], second[0]} in ({"A"}, {"B"})
    assert {name[0] for name in nest} == {"A", "B"} - {first[0]}


@pytest.mark.parametrize("order", [None, "auto", "share", "tree", ["b2", "b0", "b3", "b1"]])
def test_groups_do_not_see_each_other(order):
    own = parts()
    for i, part in enumerate(own):
        part.obs["batch"] = f"b{i}"
    together = mnn_correct(*own, k=5, within="tissue", mnn_order=order)[0]
    named = isinstance(order, list)
    for first, second in ((0, 2), (1, 3)):
        inside = [b for b in order if int(b[1]) in (first, second)] if named else order
        alone = mnn_correct(own[first], own[second], k=5, mnn_order=inside)[0]
        rows = together.obs["batch"].isin([f"b{first}", f"b{second}"])
        np.testing.assert_allclose(together[rows.to_numpy()].X, alone.X, rtol=0, atol=1e-10)
    trees = json.loads(together.uns["mnn"]["order"])
    assert list(trees) == ["s", "t"]
    assert [sorted(tree) for tree in trees.values()] == [["b0", "b2"], ["b1", "b3"]]


def test_changing_one_group_leaves_the_others_as_they_are():
    own, other = parts(), parts()
    other[1].X = other[1].X[:, ::-1]
    found = [mnn_correct(*p, k=5, within="tissue", do_concatenate=False)[0] for p in (own, other)]
    for b in (0, 2):
        np.testing.assert_allclose(found[0][b].X, found[1][b].X, rtol=0, atol=1e-10)


def test_a_group_of_one_batch_stays_as_it_is():
    own = parts()[:3]
    own[2].obs["tissue"] = "other"
    own[1].obs["tissue"] = "s"
    corrected, tables, _ = mnn_correct(*own, k=5, within="tissue", do_concatenate=False)
    X = own[2].X
    np.testing.assert_allclose(corrected[2].X, X / np.linalg.norm(X, axis=1, keepdims=True), atol=1e-12)
    assert len(tables[2]) == 0
    steps = corrected[0].uns["mnn"]["steps"].set_index("batch")
    assert steps["n_pairs"].tolist()[2] == 0
    assert np.isnan(steps["paired"].tolist()[2])


@pytest.mark.parametrize(
    "restrict", ["control", {"control": True}, {"condition": "healthy"}, {"condition": ["healthy"]}]
)
@pytest.mark.parametrize("one", [True, False], ids=["one", "several"])
def test_cells_to_fit_on_are_those_of_a_column(restrict, one):
    masks = [part.obs["control"].to_numpy() for part in parts()]
    expected = MNNCorrector(k=5, restrict=masks).fit(matrices())
    data = [whole(shuffled=False)] if one else parts()
    key = {"batch_key": KEY, "mnn_order": "share"} if one else {}
    given = mnn_correct(*data, k=5, restrict=restrict, **key)[0]
    fitted = MNNCorrector(k=5, restrict=restrict, **key).fit(data[0] if one else data)
    for ours, theirs in zip(fitted.sketch_, expected.sketch_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if not one:
        np.testing.assert_allclose(given.X, expected.transform(matrices()), atol=1e-10)


@pytest.mark.parametrize("kind", [np.asarray, pd.Series, lambda mask: pd.array(mask, "boolean")])
def test_a_mask_over_obs_says_which_cells_of_one_object(kind):
    adata = whole()
    mask = adata.obs["control"].to_numpy()
    ours, theirs = (mnn_correct(adata, k=5, batch_key=KEY, restrict=r)[0].X for r in (kind(mask), "control"))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match="is a mask of 107 cells, not of 108"):
        mnn_correct(adata, k=5, batch_key=KEY, restrict=kind(mask[1:]))


def test_a_condition_that_is_the_batch_is_warned_of():
    own = parts()
    for part, name in zip(own, "abab", strict=True):
        part.obs["treatment"] = name
    with pytest.warns(UserWarning, match=r"obs\['treatment'\] is constant in each batch") as caught:
        corrected = mnn_correct(*own, k=5, protect="treatment")[0]
    assert len([w for w in caught if "treatment" in str(w.message)]) == 1
    assert corrected.uns["mnn"]["confounded"] == "treatment"


@pytest.mark.parametrize("name", ["condition", "constant"])
def test_other_conditions_are_not(name, recwarn):
    own = parts()
    for part in own:
        part.obs["constant"] = "x"
    corrected = mnn_correct(*own, k=5, protect=name)[0]
    assert "confounded" not in corrected.uns["mnn"]
    assert not [w for w in recwarn if "constant in each batch" in str(w.message)]


def test_a_condition_that_is_the_group_is_safe(recwarn):
    corrected = mnn_correct(*parts(), k=5, protect="tissue", within="tissue")[0]
    assert "confounded" not in corrected.uns["mnn"]
    assert not [w for w in recwarn if "constant in each batch" in str(w.message)]


def test_a_fit_corrects_cells_of_nested_batches():
    fitted = MNNCorrector(k=5, batch_key=KEY, within="tissue2", protect="condition")
    adata = whole()
    adata.obs["tissue2"] = adata.obs["study"]
    corrected = fitted.fit_transform(adata)
    again = fitted.transform(adata[:40].copy())
    np.testing.assert_allclose(again.X, corrected[:40].X, rtol=0, atol=1e-10)
    assert list(again.obs["study_donor"]) == list(corrected.obs["study_donor"][:40])


BAD = {
    "matrices": (InputTypeError, "batch_key names the column 'study'", {"batch_key": KEY}),
    "none": (InputError, "batch_key is []", {"batch_key": []}),
    "twice": (InputError, "batch_key is ['study', 'study']", {"batch_key": ["study", "study"]}),
    "number": (InputTypeError, "batch_key is 3", {"batch_key": ["study", 3]}),
    "missing": (InputKeyError, "no column 'plate' in obs, which within names", {"within": "plate"}),
    "unprotected": (InputKeyError, "no column 'plate' in obs, which protect names", {"protect": "plate"}),
    "unrestricted": (InputKeyError, "no column 'plate' in obs, which restrict names", {"restrict": "plate"}),
    "in several groups": (InputError, "cells of 2 groups in obs['tissue']", {"within": "tissue"}),
    "groups of one": (
        InputError,
        "No group of obs['batch_of_its_own'] has two",
        {"within": "batch_of_its_own"},
    ),
    "both orders": (InputError, "Both mnn_order and several columns", {"mnn_order": [3, 2, 1, 0]}),
    "no flags": (InputError, "obs['condition'] of batch 0 has type category", {"restrict": "condition"}),
    "no cells": (InputError, "restrict leaves no cell of batch", {"restrict": {"study": "A"}}),
    "a value misspelt": (
        InputError,
        "restrict names 'hale'",
        {"restrict": {"condition": ["healthy", "hale"]}},
    ),
    "two columns": (InputError, "restrict names 2 columns", {"restrict": {"control": True, "study": "A"}}),
}


@pytest.mark.parametrize(("kind", "message", "options"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_one_line_before_the_work(kind, message, options, monkeypatch):
    monkeypatch.setattr("mnndask.engine.fit_batches.choose_cells", None)
    data = matrices() if "names the column 'study'" in message else [whole()]
    if "batch_of_its_own" in options.values():
        data[0].obs["batch_of_its_own"] = data[0].obs["study"] + data[0].obs["donor"]
    if options.get("within") == "tissue":
        data[0].obs["tissue"] = np.where(np.arange(data[0].n_obs) % 2, "s", "t")
    with pytest.raises(kind) as caught:
        mnn_correct(*data, k=5, **{"batch_key": KEY, **options})
    assert message in str(caught.value).split("\n")[0]
    assert len(str(caught.value).split("\n")) == 2


def test_names_that_are_alike_when_joined_are_refused():
    adata = whole()
    adata.obs["study"] = np.where(adata.obs["study"] == "A", "x_y", "x")
    adata.obs["donor"] = np.where(adata.obs["study"] == "x_y", "z", "y_z")
    with pytest.raises(InputError, match="named alike when joined"):
        mnn_correct(adata, k=5, batch_key=KEY)


def test_a_column_of_the_joined_name_is_not_replaced():
    adata = whole()
    adata.obs["study_donor"] = "mine"
    with pytest.raises(InputError, match="has a column 'study_donor' in obs"):
        mnn_correct(adata, k=5, batch_key=KEY)
