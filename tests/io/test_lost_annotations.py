"""Faults of names and columns that are read: what a correction needs is refused, the rest is warned of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from helpers import as_anndata
from spoiling import OPENERS, A, B, chunk_files, lose, truncate

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError, InputReadError

by_all_openers = pytest.mark.parametrize("opener", OPENERS)


@by_all_openers
@pytest.mark.parametrize("slot", ["obs", "var"])
@pytest.mark.filterwarnings("ignore:.* names are not unique:UserWarning")  # anndata's, as all are empty
def test_lost_names(stores, opener, slot):
    paths = stores("zarr3")
    lose(paths[0], f"{slot}/_index")
    with pytest.raises(
        InputError, match=f"lacks 1 of the 1 chunks of {slot}/_index.*\nCopy or write it again.$"
    ):
        mnn_correct(*map(OPENERS[opener], paths), k=5)


def in_chunks(path, name, column):
    """Write a column again, 16 cells a chunk."""
    values = column.array if isinstance(column.dtype, pd.api.extensions.ExtensionDtype) else column.to_numpy()
    obs = zarr.open_group(path, path="obs", use_consolidated=False)
    write_elem(obs, name, values, dataset_kwargs={"chunks": (16,), "shards": None})


def split_in_three(path):
    """Cells of three batches, one after the other, in one store."""
    adata = as_anndata(np.vstack([A, B]))
    adata.obs["batch"] = pd.Categorical(np.repeat(["x", "y", "z"], [40, 35, 35]))
    adata.obs["half"] = pd.Categorical(["only"] * 110)
    adata.obs["count"] = pd.array([*range(1, 110), None], dtype="Int64")
    adata.obs["no"] = False
    adata.obs["zeros"] = np.arange(110) // 32
    adata.write_zarr(path)
    with zarr.config.set({"array.write_empty_chunks": True}):
        in_chunks(path, "batch", adata.obs["batch"])
    for column in ("half", "count", "no", "zeros"):
        in_chunks(path, column, adata.obs[column])
    zarr.consolidate_metadata(path)
    return path


@by_all_openers
def test_lost_codes_of_batches(tmp_path, opener):
    """Cells would be of the first batch."""
    path = split_in_three(tmp_path / "a.zarr")
    chunk_files(path, "obs/batch/codes")[1].unlink()
    with pytest.raises(InputError, match=r"batch 0 \(.*a.zarr\) lacks 1 of the 7 chunks of obs/batch/codes"):
        mnn_correct(OPENERS[opener](path), k=5)


@by_all_openers
def test_zeros_that_writers_left_out_of_obs_are_warned_of_where_they_may_be_lost(tmp_path, opener):
    """Neither codes of the only category there is, nor masks of columns in which nothing is missing."""
    path = split_in_three(tmp_path / "a.zarr")
    assert not chunk_files(path, "obs/half/codes")
    assert not chunk_files(path, "obs/no/")
    with pytest.warns(UserWarning, match="lacks chunks of") as caught:
        result = mnn_correct(OPENERS[opener](path), k=5)[0]
    said = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    assert [message.split(". ")[0].split()[-1] for message in said] == ["obs/zeros"]
    assert result.obs["batch"].value_counts().to_dict() == {"x": 40, "y": 35, "z": 35}


@pytest.mark.parametrize("option", ["--restrict", "--hvg-key"])
def test_lost_flags_that_the_command_goes_by(tmp_path, capsys, option):
    slot = {"--restrict": "obs", "--hvg-key": "var"}[option]
    for name, X in (("a", A), ("b", B)):
        adata = as_anndata(X, name)
        for table in (adata.obs, adata.var):
            table["flag"] = np.arange(len(table)) % 2 == 0
        adata.write_zarr(tmp_path / f"{name}.zarr")
    lose(tmp_path / "b.zarr", f"{slot}/flag")
    with pytest.raises(SystemExit):
        main(
            ["correct", *(str(tmp_path / f"{name}.zarr") for name in "ab"), option, "flag", "-o", "out.zarr"]
        )
    assert f"b.zarr) lacks 1 of the 1 chunks of {slot}/flag" in capsys.readouterr().err


def test_lost_names_of_categories(tmp_path):
    split_in_three(tmp_path / "a.zarr")
    lose(tmp_path / "a.zarr", "obs/half/categories")
    with pytest.raises(InputError, match="lacks 1 of the 1 chunks of obs/half/categories"):
        mnn_correct(tmp_path / "a.zarr", k=5)


def test_damaged_annotations(stores):
    paths = stores("zarr3")
    truncate(paths[1], "obs/depth")
    with pytest.raises(
        InputReadError, match=r"batch 1 \(.*b.zarr\) is damaged: obs cannot be read"
    ) as caught:
        mnn_correct(*paths, k=5)
    assert caught.value.__cause__ is not None
    (paths[1] / "zarr.json").write_text('{"zarr_format": 3, "node_')
    with pytest.raises(InputReadError, match="is damaged: its metadata cannot be read"):
        mnn_correct(*paths, k=5)
