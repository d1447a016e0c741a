"""What cannot be corrected or written is found before the fit, with a remedy that keeps the cells."""

from __future__ import annotations

import re

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers import GENES, KINDS, make_batches, told
from scipy import sparse as sp

from mnndask import MNNCorrector, mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError, InputNotFoundError, NonFiniteError

SIZES = (12, 10)


def batches(kind="anndata", folder=None):
    return [KINDS[kind](X, folder, f"b{i}") for i, X in enumerate(make_batches(SIZES))]


@pytest.fixture
def no_fit(monkeypatch):
    """Fail if a fit begins."""

    def refuse(*_):
        msg = "the fit began"
        raise AssertionError(msg)

    monkeypatch.setattr("mnndask.api.corrector.fit_inputs", refuse)


def command(*words):
    with pytest.raises(SystemExit) as caught:
        main(["correct", "-k", "3", *map(str, words)])
    return caught.value.code


# ---------------------------------------------------------------- tables


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("several", [True, False])
def test_a_batch_column_that_is_there_twice(several):
    datas = batches()
    for data, name in zip(datas, "xy", strict=True):
        data.obs["batch"] = name
    datas = datas if several else [ad.concat(datas)]
    for data in datas:
        data.obs = pd.concat([data.obs, data.obs[["batch"]]], axis=1)
    with pytest.raises(InputError, match=r"'batch' more than once in obs.\nKeep one: .*duplicated"):
        mnn_correct(*datas, k=3)


def test_other_columns_that_are_there_twice_are_numbered():
    datas = batches()
    for data in datas:
        data.obs = pd.concat([data.obs, data.obs[["depth"]] * 2], axis=1)
    with pytest.warns(UserWarning, match=r"obs\['depth'\] becomes 'depth_1'"):
        obs = mnn_correct(*datas, k=3)[0].obs
    assert list(obs["depth_1"]) == list(2 * obs["depth"])


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("slot", ["obs", "var"])
def test_names_that_are_missing(slot):
    datas = batches()
    names = getattr(datas[0], slot).index.astype("string").to_series()
    names.iloc[3] = pd.NA
    for data in datas:
        table = getattr(data, slot)
        table.index = pd.Index(names) if slot == "var" or data is datas[0] else table.index
    with pytest.raises(
        InputError, match=rf"batch 0 has 1 missing name\(s\) in {slot}_names.\nGive them names"
    ):
        mnn_correct(*datas, k=3)


@pytest.mark.parametrize("missing", [pd.NA, None, np.nan])
def test_masks_with_missing_values(missing, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mask = pd.array([True, False, missing] * 4, dtype="boolean")
    for given in (mask, list(mask)):
        with pytest.raises(InputError, match=r"restrict of batch '0' has 4 missing value.*\n.*fillna"):
            mnn_correct(*make_batches(SIZES), restrict=[given, None], k=3)
    for i, data in enumerate(batches()):
        data.obs["used"] = mask[: data.n_obs]
        data.var["marked"] = pd.array([True, missing] * 20, dtype="boolean")
        data.write_h5ad(f"{i}.h5ad")
    for option, column in (("--restrict", "obs['used']"), ("--hvg-key", "var['marked']")):
        assert command("0.h5ad", "1.h5ad", option, column[5:-2], "-o", "out.zarr") == 2
        (line,) = told(capsys.readouterr().err)
        assert re.search(re.escape(column) + r" of (batch 0 \()?0\.h5ad\)? has", line)
        assert f"adata.{column} = adata.{column}.fillna(False)" in line


def test_masks_that_may_be_missing_and_are_not():
    mask = pd.array([True, False] * 6, dtype="boolean")
    X = make_batches(SIZES)
    with_mask = mnn_correct(*X, restrict=[mask, None], k=3)[0]
    np.testing.assert_array_equal(with_mask, mnn_correct(*X, restrict=[np.arange(0, 12, 2), None], k=3)[0])


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("kind", ["ndarray", "csr_matrix", "anndata", "dask", "path-h5ad", "path-zarr"])
def test_a_gene_without_values_is_named(kind, tmp_path):
    X = make_batches(SIZES)
    X[1][:, [3, 7]] = np.nan
    datas = [KINDS[kind](x, tmp_path, f"b{i}") for i, x in enumerate(X)]
    names = "number 3, number 7" if kind in {"ndarray", "csr_matrix", "dask"} else "'g3', 'g7'"
    with pytest.raises(
        NonFiniteError, match=f"in all of rows 0 to 9, .* for gene {names}.\nRemove these genes"
    ):
        mnn_correct(*datas, k=3)


def test_a_gene_without_values_that_is_not_used_for_distances():
    datas = batches()
    datas[0].X[:, 5] = np.inf
    with pytest.raises(NonFiniteError, match="for gene 'g5'"):
        mnn_correct(*datas, var_subset=GENES[10:], k=3)


def test_cells_without_values_are_named_where_genes_have_some():
    X = make_batches(SIZES)
    X[0][4] = np.nan
    with pytest.raises(NonFiniteError, match=r"in row 4.\nRemove these cells"):
        mnn_correct(*X, k=3)


# ---------------------------------------------------------------- files


@pytest.mark.usefixtures("no_fit")
def test_backed_by_a_file_that_is_closed(tmp_path):
    datas = batches("backed", tmp_path)
    datas[1].file.close()
    with pytest.raises(InputError, match=r"batch 1 is backed by .*, which is closed.\nOpen it again"):
        mnn_correct(*datas, k=3)


@pytest.mark.usefixtures("no_fit")
def test_backed_by_a_file_that_is_gone(tmp_path):
    datas = batches("backed", tmp_path)
    (tmp_path / "b0-dense.h5ad").unlink()
    with pytest.raises(InputNotFoundError, match=r"batch 0 .*is read lazily from .*, which no longer exists"):
        mnn_correct(*datas, k=3)


@pytest.mark.usefixtures("no_fit")
@pytest.mark.parametrize("opener", [lambda path: ad.read_h5ad(path, backed="r"), ad.read_h5ad, str])
def test_without_x(opener, tmp_path):
    paths = [tmp_path / f"{i}.h5ad" for i in range(2)]
    for data, path in zip(batches(), paths, strict=True):
        data.layers["log"] = data.X
        data.X = None
        data.write_h5ad(path)
    with pytest.raises(InputError, match=r"has no X.\nName the layer .*: layer=... \(one of: .*log"):
        mnn_correct(*map(opener, paths), k=3)


def test_without_x_a_layer_is_corrected(tmp_path):
    paths = [tmp_path / f"{i}.h5ad" for i in range(2)]
    for data, path in zip(batches(), paths, strict=True):
        data.layers["log"], data.X = data.X, None
        data.write_h5ad(path)
    expected = mnn_correct(*make_batches(SIZES), k=3)[0]
    backed = [ad.read_h5ad(path, backed="r") for path in paths]
    for datas in (paths, backed):
        np.testing.assert_allclose(
            np.asarray(mnn_correct(*datas, layer="log", k=3)[0].X), expected, atol=1e-10
        )


# ---------------------------------------------------------------- all in good time


@pytest.mark.parametrize("call", ["fit_transform", "transform"])
def test_warnings_come_before_the_work(call, monkeypatch):
    datas = batches()
    for data in datas:
        data.obs["a/b"], data.uns["f"] = 1, len
        data.obsm["odd"] = np.full((data.n_obs, 1), None, object)
    datas[0].layers["only"] = datas[0].X
    fitted = MNNCorrector(k=3).fit(batches())
    begun = []
    for name in ("fit_inputs", "correct_inputs"):
        original = getattr(__import__("mnndask.api.corrector", fromlist=[name]), name)
        monkeypatch.setattr(
            f"mnndask.api.corrector.{name}",
            lambda *args, original=original, **options: begun.append(len(said)) or original(*args, **options),
        )
    with pytest.warns(UserWarning, match="The result") as said:
        getattr(fitted, call)(datas)
    ours = [str(warning.message).startswith("The result") for warning in said]
    assert sum(ours) == 2
    assert all(warning.filename == __file__ for warning, own in zip(said, ours, strict=True) if own)
    assert begun
    assert not any(ours[min(begun) :])


def test_layers_that_are_sparse_in_one_batch_only(tmp_path):
    X = make_batches(SIZES)
    for make in (lambda x: x, lambda x: da.from_array(x, chunks=(5, 40))):
        datas = batches()
        datas[0].layers["l"] = make(X[0])
        datas[1].layers["l"] = sp.csr_matrix(X[1])
        result = mnn_correct(*datas, k=3)[0]
        result.write_zarr(tmp_path / "out.zarr")
        back = ad.read_zarr(tmp_path / "out.zarr").layers["l"]
        np.testing.assert_array_equal(back.toarray(), np.vstack(X))
