"""Arrays in which values may be missing, as names and as columns: read as anndata reads them.

Writers leave out the chunks of a mask where nothing is missing.
"""

from __future__ import annotations

import shutil
import warnings
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata.io import read_elem, write_elem
from helpers import as_anndata, values, zarr_store
from spoiling import A, B, chunk_files

from mnndask import mnn_correct
from mnndask.cli.main import main
from mnndask.errors import InputError
from mnndask.io.anndata_store import open_lazily, read_record
from mnndask.stores.location import Location

KINDS = ("h5ad", "zarr2", "zarr3")
TABLES = ("obs", "var", "raw/var", "uns/table", "obsm/table")


def columns(names):
    """Columns of every type with a mask: of some, values are missing in the second half, or all are."""
    n = len(names)
    text, flag = [f"t{i % 3}" for i in range(n)], np.arange(n) % 3 == 0
    missing = (np.arange(n) >= n // 2) & (np.arange(n) % 2 == 0)
    made = {
        "integer": pd.array(np.arange(1, n + 1), dtype="Int32"),
        "flag": pd.array(np.where(missing, None, flag), dtype="boolean"),
        "text": pd.array(np.where(missing, None, text), dtype="string"),
        "some_integer": pd.array(np.where(missing, None, np.arange(n) + 1), dtype="Int64"),
        "no_text": pd.array([None] * n, dtype="string"),
    }
    return pd.DataFrame(made, index=pd.Index(names, dtype="string"))


def masked(X, name, *, arrays=True):
    """An AnnData that has such columns in all of its tables."""
    adata = as_anndata(X, name)
    obs, var = columns(adata.obs_names), columns(adata.var_names)
    out = ad.AnnData(X, obs=obs, var=var, obsm={"table": obs.copy()}, varm={"table": var.copy()})
    out.uns["table"] = var.copy()
    if arrays:
        out.uns["array"] = {"of": obs["some_integer"].array, "text": obs["text"].array}
    out.raw = out.copy()
    return out


def written(folder, X, kind, name, *, rows=None, arrays=True):
    adata, path = masked(X, name, arrays=arrays), folder / f"{name}.{'h5ad' if kind == 'h5ad' else 'zarr'}"
    with warnings.catch_warnings(), ad.settings.override(allow_write_nullable_strings=True):
        warnings.simplefilter("ignore")
        if kind == "h5ad":
            adata.write_h5ad(path)
            return path
        with zarr_store(path, int(kind[-1])) as root:
            write_elem(root, "/", adata)
            for slot in TABLES if rows else ():
                group, _, table = f"/{slot}".rpartition("/")
                options = {"dataset_kwargs": {"chunks": (rows,)}}
                write_elem(root[group] if group else root, table, read_elem(root[slot]), **options)
    return path


def as_read(path):
    return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Function that gives an undamaged store of a kind, to be read only; each is written once."""
    return cache(lambda kind: written(tmp_path_factory.mktemp(kind), A, kind, "a"))


@pytest.fixture(scope="module")
def in_chunks(tmp_path_factory):
    return written(tmp_path_factory.mktemp("chunks"), A, "zarr3", "a", rows=16)


@pytest.fixture
def path(in_chunks, tmp_path):
    """A store whose tables are in chunks of 16 rows, which may be spoiled."""
    return shutil.copytree(in_chunks, tmp_path / "a.zarr")


def check_tables(found, wanted):
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(found, slot), getattr(wanted, slot))
        pd.testing.assert_frame_equal(
            getattr(found, f"{slot}m")["table"], getattr(wanted, f"{slot}m")["table"]
        )
    pd.testing.assert_frame_equal(found.raw.var, wanted.raw.var)
    pd.testing.assert_frame_equal(found.uns["table"], wanted.uns["table"])
    for name, array in wanted.uns["array"].items():
        pd.testing.assert_extension_array_equal(found.uns["array"][name], array)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_read_as_anndata_reads_them(kind, whole):
    path = whole(kind)
    check_tables(open_lazily(Location.of(path), None, "batch 0"), as_read(path))


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_corrected_however_they_are_opened(kind, tmp_path):
    paths = [written(tmp_path, X, kind, name, arrays=False) for name, X in (("a", A), ("b", B))]
    openers = [str, ad.experimental.read_lazy]
    if kind == "h5ad":
        openers.append(lambda path: ad.read_h5ad(path, backed="r"))
    expected = mnn_correct(A, B, k=5)[0]
    for opener in openers:
        result = mnn_correct(*map(opener, paths), k=5)[0]
        np.testing.assert_allclose(values(result), expected, atol=1e-10)
        assert list(result.obs_names) == [f"a{i}-0" for i in range(60)] + [f"b{i}-1" for i in range(50)]
        assert list(result.var_names) == list(masked(A, "a").var_names)


def test_masks_of_which_some_chunks_are_stored(path):
    assert len(chunk_files(path, "obs/some_integer/mask")) == 3
    assert len(chunk_files(path, "obs/some_integer/values")) == 4
    assert not chunk_files(path, "obs/integer/mask")
    check_tables(
        open_lazily(Location.of(path), None, "batch 0", used=["some_integer", "no_text"]), as_read(path)
    )


@pytest.mark.parametrize("slot", TABLES)
def test_names_that_are_lost_are_refused(slot, path):
    chunk_files(path, f"{slot}/_index/values")[1].unlink()
    with pytest.raises(
        InputError, match=rf"lacks 1 of the \d chunks of {slot}/_index/values.*\nCopy or write it again.$"
    ):
        open_lazily(Location.of(path), None, "batch 0")


def test_values_that_are_lost_are_refused_where_they_are_used_and_else_warned_of(path):
    chunk_files(path, "obs/integer/values")[1].unlink()
    with pytest.raises(InputError, match="lacks 1 of the 4 chunks of obs/integer/values"):
        open_lazily(Location.of(path), None, "batch 0", used=["integer"])
    with pytest.warns(UserWarning, match="lacks chunks of obs/integer/values. They count as zeros"):
        open_lazily(Location.of(path), None, "batch 0")


@pytest.mark.parametrize("column", ["mask", "values", "codes", "categories"])
def test_columns_that_are_called_as_their_parts_are(column, tmp_path):
    adata = as_anndata(A)
    adata.obs[column] = np.arange(1, 61)
    adata.write_zarr(tmp_path / "a.zarr")
    (file,) = chunk_files(tmp_path / "a.zarr", f"obs/{column}")
    file.unlink()
    with pytest.raises(InputError, match=f"lacks 1 of the 1 chunks of obs/{column}"):
        open_lazily(Location.of(tmp_path / "a.zarr"), None, "batch 0", used=[column])


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_as_long_as_its_names(kind, whole):
    assert read_record(Location.of(whole(kind)))[2] == A.shape


def test_names_that_are_categories(tmp_path):
    adata = as_anndata(A[:5])
    adata.obs.index = pd.CategoricalIndex(["e", "d", "c", "b", "a"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(tmp_path / "a.zarr")
    assert read_record(Location.of(tmp_path / "a.zarr"))[2] == (5, 40)
    assert list(open_lazily(Location.of(tmp_path / "a.zarr"), None, "batch 0").obs_names) == list("edcba")


def test_info_and_report_of_what_the_command_wrote(tmp_path, capsys):
    inputs = [str(written(tmp_path, X, "zarr3", name)) for name, X in (("a", A), ("b", B))]
    result = mnn_correct(*inputs, k=5)[0]
    with warnings.catch_warnings(), ad.settings.override(allow_write_nullable_strings=True):
        warnings.simplefilter("ignore")
        result.write_zarr(tmp_path / "out.zarr")
    for words in (["info"], ["report", "-o", str(tmp_path / "out.html")]):
        with pytest.raises(SystemExit) as end:
            main([words[0], str(tmp_path / "out.zarr"), *words[1:]])
        assert end.value.code == 0
    assert "110 cells x 40 genes in 2 batches" in capsys.readouterr().out
