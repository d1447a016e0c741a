"""Columns whose types differ between batches: as anndata joins them, or as a warning says."""

from __future__ import annotations

import itertools
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from columns import LABELS, TEXT, kinds, plain
from helpers import as_anndata, make_batches

from mnndask import mnn_correct

SIZES = (12, 10)


def joined_by_anndata(a, b):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ad.concat(
                [ad.AnnData(obs=a.to_frame("x")), ad.AnnData(obs=b.to_frame("x"))], join="outer"
            ).obs["x"]
        except TypeError:  # categories that cannot be sorted together
            return None


@pytest.fixture(scope="module")
def pairs():
    """Two batches that hold a column for each pair of kinds."""
    datas = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches(SIZES))]
    columns = [kinds(data.n_obs, data.obs_names) for data in datas]
    for i, data in enumerate(datas):
        data.obs = pd.DataFrame(
            {f"{a}:{b}": columns[i][(a, b)[i]] for a, b in itertools.product(*columns)}, index=data.obs_names
        )
    return datas


@pytest.fixture(scope="module")
def corrected(pairs):
    """The result, and what was said of each column: what it became, or nothing if it was left out."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        result = mnn_correct(*pairs, k=3)[0]
    notes = {word: "" for word in ("leaves out", "converts")}
    for warning in said:
        for word in notes:
            if f"The result {word}" in str(warning.message):
                notes[word] += str(warning.message)
    converted = dict(re.findall(r"obs\['([^']+)'\] to ([\w -]+)", notes["converts"]))
    return result, converted, set(re.findall(r"obs\['([^']+)'\]", notes["leaves out"]))


def test_every_pair_is_as_anndata_joins_it_or_said(pairs, corrected):
    result, converted, left_out = corrected
    assert not left_out & set(result.obs)
    for column in pairs[0].obs:
        wanted = joined_by_anndata(*(data.obs[column] for data in pairs))
        if column not in result.obs:
            assert column in left_out
        elif column not in converted:
            assert wanted is not None, column
            assert plain(result.obs[column]) == plain(wanted), column


def test_text_is_made_only_where_there_was_some(corrected):
    result, converted, _ = corrected
    for column, what in converted.items():
        if "text" in what and column in result.obs:
            kinds_of = set(column.split(":"))
            assert kinds_of & (TEXT | LABELS), column
            values = set(plain(result.obs[column])) - {None}
            assert not values & {"nan", "None", "<NA>", "NaT"}, column
            if not kinds_of & TEXT:
                assert not values & {"1.0", "1", "True"}, column


def test_no_value_is_missing_that_was_there(pairs, corrected):
    result, _, _ = corrected
    for column in result.obs.columns.intersection(pairs[0].obs.columns):
        wanted = [value is None for data in pairs for value in plain(data.obs[column])]
        assert [value is None for value in plain(result.obs[column])] == wanted, column


@pytest.mark.parametrize("suffix", ["zarr", "h5ad"])
def test_every_pair_is_written_and_read(corrected, suffix, tmp_path):
    result = corrected[0].copy()
    alike = {(str(result.obs[column].dtype), str(plain(result.obs[column]))): column for column in result.obs}
    assert 30 < len(alike) < len(result.obs.columns)
    result.obs = result.obs[[*alike.values()]]  # of those that hold the same, one
    path = tmp_path / f"out.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(result, f"write_{suffix}")(path)
        back = getattr(ad, f"read_{suffix}")(path).obs
    for column in result.obs:
        assert plain(back[column]) == plain(result.obs[column]), column


@pytest.mark.parametrize("values", [[True, None], [True, np.nan]])
def test_flags_that_one_batch_lacks_stay_flags(values):
    datas = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches(SIZES))]
    datas[0].obs["doublet"] = [True, False] * 6
    datas[1].obs["doublet"] = [values[1]] * 10
    column = mnn_correct(*datas, k=3)[0].obs["doublet"]
    assert column.dtype == "boolean"
    assert plain(column) == [True, False] * 6 + [None] * 10


def test_integers_and_masked_floats_stay_numbers():
    datas = [as_anndata(X, f"b{i}") for i, X in enumerate(make_batches(SIZES))]
    datas[0].obs["age"] = pd.array([30, None] * 6, dtype="Int64")
    datas[1].obs["age"] = np.linspace(20, 40, 10)
    column = mnn_correct(*datas, k=3)[0].obs["age"]
    assert column.dtype == np.float64
    assert plain(column)[:2] == [30, None]
