"""Paths that cannot be read as batches, and what is said of them."""

from __future__ import annotations

import shutil

import h5py
import zarr
from bad_inputs import A, B, case
from helpers import as_anndata

from mnndask.errors import InputError, InputNotFoundError


def hdf5_at_a_url(folder):
    as_anndata(A).write_h5ad(folder / "a.h5ad")
    return ((folder / "a.h5ad").as_uri(),) * 2


def text_file(folder):
    (folder / "notes.h5ad").write_text("not HDF5")
    return (folder / "notes.h5ad",) * 2


def bare_hdf5(folder):
    with h5py.File(folder / "bare.h5ad", "w") as file:
        file["X"] = A
    return (folder / "bare.h5ad",) * 2


def hdf5_without_obs(folder):
    as_anndata(A).write_h5ad(folder / "torn.h5ad")
    with h5py.File(folder / "torn.h5ad", "a") as file:
        del file["obs"]
    return (folder / "torn.h5ad",) * 2


def plain_folder(folder):
    (folder / "plain").mkdir()
    return (str(folder / "plain"),) * 2


def bare_group(folder):
    zarr.open_group(folder / "bare.zarr", mode="w").create_array("X", data=A)
    return (folder / "bare.zarr",) * 2


def bare_array(folder):
    zarr.save_array(folder / "array.zarr", A)
    return (folder / "array.zarr",) * 2


def zarr_without_chunks(folder):
    as_anndata(A).write_zarr(folder / "a.zarr")
    as_anndata(B, "b").write_zarr(folder / "b.zarr")
    for file in (folder / "b.zarr" / "X").iterdir():
        if file.name[0].isdigit():  # zarr format 2
            file.unlink()
        elif file.name == "c":  # zarr format 3
            shutil.rmtree(file)
    return folder / "a.zarr", folder / "b.zarr"


# fmt: off
FILES = [
    case("missing-file", InputNotFoundError, "nowhere.zarr) does not exist", "Check the path",
        lambda f: (f / "nowhere.zarr", f / "b.zarr")),
    case("empty-path", InputError, "batch 0", "path", lambda _: ("", "b.zarr")),
    case("url", InputError, "nosuch://bucket/a.zarr cannot be reached: Protocol not known", "s3://",
        lambda _: ("nosuch://bucket/a.zarr", "nosuch://bucket/b.zarr")),
    case("h5ad-at-a-url", InputError, "a.h5ad) is an HDF5 file at a URL, which cannot be read in parts",
        "Download it, or store it there as .zarr: anndata.read_h5ad(FILE).write_zarr(FOLDER)", hdf5_at_a_url),
    case("text-file", InputError, "notes.h5ad) is not an HDF5 file", ".h5ad files", text_file),
    case("bare-hdf5", InputError, "bare.h5ad) is not an AnnData store", "write_h5ad", bare_hdf5),
    case("torn-hdf5", InputError, "torn.h5ad)", "write_h5ad", hdf5_without_obs),
    case("plain-folder", InputError, "plain) is not a zarr group", "AnnData stores", plain_folder),
    case("bare-group", InputError, "bare.zarr) is not an AnnData store", "write_zarr", bare_group),
    case("bare-array", InputError, "array.zarr) is not a zarr group", "AnnData stores", bare_array),
    case("lost-chunks", InputError, "b.zarr) lacks", "again", zarr_without_chunks),
]
# fmt: on
