"""A chunk of texts that states another number of texts than its shape is an error, before memory is taken."""

from __future__ import annotations

import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem
from helpers import as_anndata, zarr_store
from spoiling import A, B, chunk_files
from zarr.dtype import VariableLengthBytes, VariableLengthUTF8

from mnndask import mnn_correct
from mnndask.errors import InputReadError
from mnndask.io.stored_elements import read_element

STATED = 10**6
MOST = 4 * STATED  # bytes; numcodecs takes 8 for each text
FORMATS = ("zarr2", "zarr3", "shards")
PLACES = ("obs/_index", "obs/kind/categories", "obs/note", "var/_index")
PLACES += ("uns/texts", "uns/nested/word", "uns/nested/table/_index", "uns/nested/table/note")
by_all_formats = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Stores of each format with texts in every kind of element."""
    adata = as_anndata(A)
    adata.obs["kind"] = pd.Categorical(["x", "y", "z"] * 20)
    adata.obs["note"] = [f"cell {i}" for i in range(60)]
    table = pd.DataFrame({"note": ["one", "two"]}, index=["p", "q"])
    adata.uns = {"texts": np.array(["red", "blue"]), "nested": {"word": "kind", "table": table}}
    folder = tmp_path_factory.mktemp("texts")
    for form in FORMATS:
        with zarr_store(folder / form, 2 if form == "zarr2" else 3) as root:
            write_elem(root, "/", adata)
            if form == "shards":
                for place in PLACES:
                    in_shards(root, place)
    return folder


def texts_in(root, place):
    """Array of texts of an element; newer pandas has a mask beside it."""
    return root[place] if isinstance(root[place], zarr.Array) else root[place]["values"]


def in_shards(root, place):
    """Write texts again, in a shard."""
    old = texts_in(root, place)
    values, attributes, shape = old[...], dict(old.attrs), old.shape
    if shape:
        parent, _, name = old.path.rpartition("/")
        new = root[parent].create_array(
            name,
            shape=shape,
            dtype=old.dtype,
            chunks=shape,
            shards=shape,
            attributes=attributes,
            overwrite=True,
        )
        new[...] = values


@pytest.fixture
def copied(sound, tmp_path):
    """Function that copies a store, and returns its path."""
    return lambda form: shutil.copytree(sound / form, tmp_path / "a.zarr")


def miscount(path, place, chunk=0):
    """Replace a chunk of texts by one of numbers, the first of which counts as the number of texts."""
    array = texts_in(zarr.open_group(path, mode="r"), place)
    version, name = array.metadata.zarr_format, "numbers.zarr"
    numbers = zarr.create_array(
        path.with_name(name), shape=array.shape, chunks=array.chunks, shards=array.shards, dtype="uint32",
        compressors=array.compressors, zarr_format=version, overwrite=True,
    )  # fmt: skip
    numbers[...] = STATED
    shutil.copy(chunk_files(path.with_name(name), "")[chunk], chunk_files(path, array.path)[chunk])
    assert peak_of(lambda: zarr.open_group(path, mode="r")[array.path][...], ValueError) > 8 * STATED


def peak_of(read, error):
    """Peak of memory while a function fails; see ``error.value`` for how."""
    tracemalloc.start()
    try:
        with pytest.raises(error):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@by_all_formats
@pytest.mark.parametrize("place", PLACES)
def test_chunk_of_another_array_is_named_before_memory_is_taken(form, place, copied):
    path = copied(form)
    miscount(path, place)
    slot, caught = place.split("/")[0], []

    def read():
        with pytest.raises(InputReadError) as failed:
            read_element(zarr.open_group(path, mode="r"), slot, "input 1")
        caught.append(str(failed.value))
        raise failed.value

    assert peak_of(read, InputReadError) < MOST
    assert caught[0].startswith(f"input 1 is damaged: {slot} cannot be read (ItemCountError: {place}/")
    assert f" states {STATED:,} texts, not " in caught[0]


@by_all_formats
def test_sound_texts_are_read(form, sound):
    root = zarr.open_group(sound / form, mode="r")
    assert texts_in(root, "obs/note").shards == ((60,) if form == "shards" else None)
    obs, uns = read_element(root, "obs", ""), read_element(root, "uns", "")
    assert [obs.note.iloc[-1], obs.kind.iloc[1], *uns["texts"]] == ["cell 59", "y", "red", "blue"]
    assert [uns["nested"]["word"], *uns["nested"]["table"].note] == ["kind", "one", "two"]


@by_all_formats
def test_correction_names_the_input_and_the_chunk(form, copied, tmp_path):
    path, other = copied(form), tmp_path / "b.zarr"
    as_anndata(B).write_zarr(other)
    miscount(path, "obs/kind/categories")
    with pytest.raises(InputReadError, match=r"a\.zarr.* is damaged: .*obs/kind/categories/(c/)?0 states"):
        mnn_correct(str(path), str(other), k=5)


@pytest.mark.parametrize("dtype", [VariableLengthUTF8(), VariableLengthBytes()], ids=["texts", "bytes"])
@pytest.mark.parametrize(("version", "shards"), [(2, None), (3, None), (3, (8,))])
@pytest.mark.filterwarnings("ignore:.*does not have a Zarr V3 specification")
def test_the_chunk_is_named_among_several(dtype, version, shards, tmp_path):
    path, values = tmp_path / "a.zarr", ["a", "bc"] * 12
    root = zarr.open_group(path, mode="w", zarr_format=version)
    array = root.create_array("texts", shape=(24,), chunks=(4,), shards=shards, dtype=dtype)
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    values = [text.encode() for text in values] if isinstance(dtype, VariableLengthBytes) else values
    array[:] = np.array(values, dtype=object)
    group = zarr.open_group(path, mode="r")
    assert read_element(group, "texts", "input 1").tolist() == values
    miscount(path, "texts", chunk=1)
    number = "1" if version == 2 else "c/1"
    with pytest.raises(InputReadError, match=rf"texts/{number} states {STATED:,} texts, not 4\)"):
        read_element(group, "texts", "input 1")


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
def test_categories_of_tables_of_old_anndata(tmp_path):
    path = tmp_path / "a.zarr"
    obs = zarr.open_group(path, mode="w", zarr_format=2).create_group("obs")
    obs.attrs.update(
        {
            "encoding-type": "dataframe",
            "encoding-version": "0.1.0",
            "_index": "_index",
            "column-order": ["kind"],
        }
    )
    for name, values in {"_index": ["p", "q"], "__categories/kind": ["x", "y"]}.items():
        obs.create_array(name, shape=(2,), dtype="string")[:] = np.array(values, dtype=object)
    obs.create_array("kind", shape=(2,), dtype="int8")[:] = [1, 0]
    obs["kind"].attrs["categories"] = "__categories/kind"
    read = read_element(zarr.open_group(path, mode="r"), "obs", "input 1")
    assert read.kind.tolist() == ["y", "x"]
    miscount(path, "obs/__categories/kind")
    with pytest.raises(InputReadError, match=r"obs/__categories/kind/0 states 1,000,000 texts, not 2"):
        read_element(zarr.open_group(path, mode="r"), "obs", "input 1")
