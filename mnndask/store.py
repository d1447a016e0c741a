"""Files: opening AnnData stores lazily, and writing results that are whole or not there."""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import dask.array as da
import h5py
import zarr
from anndata import AnnData
from anndata.experimental import read_elem_lazy
from anndata.io import read_elem, write_elem

from mnndask.errors import InputError, InputKeyError, InputNotFoundError, OutputExistsError
from mnndask.lazy import rows_per_chunk, threads
from mnndask.sources import layer_names


def open_lazily(path: Path, layer: str | None, label: str) -> AnnData:
    """Open an AnnData store (``.zarr`` or ``.h5ad``): annotations in memory, matrices left in the file.

    Raises
    ------
    InputNotFoundError
        If there is nothing at `path`.
    InputError
        If what is there is not an AnnData store.
    """
    if is_url(path):
        what = f"{label} is a URL, and only local paths can be read."
        raise InputError(what, "Download it, or open it with anndata.experimental.read_lazy and pass that.")
    if not path.exists():
        what = f"{label} does not exist."
        raise InputNotFoundError(what, "Check the path.")
    group = _open_group(path, label)
    try:
        encoding = group.attrs.get("encoding-type")
        if encoding != "anndata":
            what = f"{label} is not an AnnData store (encoding-type: {encoding})."
            raise InputError(what, "Write it with AnnData.write_zarr or write_h5ad.")
        _check_whole(group, "X" if layer is None else f"layers/{layer}", label)
        if layer is not None and layer not in group.get("layers", {}):
            what = f"{label} has no layer {layer!r}."
            raise InputKeyError(what, f"Its layers are: {', '.join(group.get('layers', {})) or 'none'}.")
        obs, var = read_elem(group["obs"]), read_elem(group["var"])
        raw = None
        if isinstance(group.get("raw"), h5py.Group | zarr.Group):  # newer stores say that there is none
            raw = AnnData(lazy_matrix(group["raw"]["X"]), obs=obs[[]], var=read_elem(group["raw"]["var"]))
        return AnnData(
            X=lazy_matrix(group["X"]) if "X" in group else None,
            obs=obs,
            var=var,
            uns=read_elem(group["uns"]) if "uns" in group else {},
            raw=raw,
            varm=read_elem(group["varm"]) if "varm" in group else {},
            varp=read_elem(group["varp"]) if "varp" in group else {},
            obsm={key: _lazy_unless_table(group["obsm"][key]) for key in group.get("obsm", {})},
            layers={key: lazy_matrix(group["layers"][key]) for key in group.get("layers", {})},
            obsp={key: lazy_matrix(group["obsp"][key]) for key in group.get("obsp", {})},
        )
    finally:
        if isinstance(group, h5py.File):
            group.close()


def is_url(path: Path) -> bool:
    """Whether a path names another machine's storage (``Path`` makes one slash of two)."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) is not None


def _check_whole(group: Any, name: str, label: str) -> None:
    """Refuse a store that lost its tables, or chunks that would read as zeros."""
    missing = [table for table in ("obs", "var") if table not in group]
    if missing:
        what = f"{label} has no {' and no '.join(missing)}."
        raise InputError(what, "Write it again with AnnData.write_zarr or write_h5ad.")
    if not isinstance(group, zarr.Group) or name not in group:
        return
    elem = group[name]
    values: Any = elem["data"] if isinstance(elem, zarr.Group) else elem
    held, all_ = values.nchunks_initialized, values.nchunks
    # Writers may leave out chunks of zeros of dense matrices, but not all of them, nor values of sparse ones.
    if held < all_ and (isinstance(elem, zarr.Group) or held == 0):
        what = f"{label} lacks {all_ - held} of the {all_} chunks of {name}."
        raise InputError(what, "Copy or write it again.")


def _lazy_unless_table(elem: Any) -> Any:
    return read_elem(elem) if elem.attrs.get("encoding-type") == "dataframe" else read_elem_lazy(elem)


def _open_group(path: Path, label: str) -> Any:
    try:
        if path.is_dir():
            return zarr.open_group(path, mode="r")
        return h5py.File(path, "r")
    except (OSError, ValueError, KeyError) as error:
        kind = "a zarr group" if path.is_dir() or path.suffix == ".zarr" else "an HDF5 file"
        what = f"{label} is not {kind}."
        raise InputError(what, "Inputs are AnnData stores: .zarr directories or .h5ad files.") from error


def lazy_matrix(stored: Any) -> da.Array:
    """Matrix of an open store as a dask array of whole rows, each chunk of moderate size when dense."""
    options: dict[str, Any] = {}
    shape: Any
    if not hasattr(stored, "dtype"):  # a group: sparse
        shape, itemsize, at_least = stored.attrs["shape"], stored["data"].dtype.itemsize, 1
    else:  # whole chunks of the file, so that none is read twice
        shape, itemsize, at_least = stored.shape, stored.dtype.itemsize, (stored.chunks or (1,))[0]
    n_cells, n_genes = (int(n) for n in shape)
    if stored.attrs.get("encoding-type") != "csc_matrix":
        rows = max(1, rows_per_chunk(n_genes, itemsize) // at_least) * at_least
        options["chunks"] = (max(1, min(rows, n_cells)), n_genes)
    out: da.Array = read_elem_lazy(stored, **options)
    return out


def check_output(path: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse an output that is taken, or that an input is, holds or lies in."""
    if is_url(path):
        what = f"The output {path} is a URL, and only local paths can be written."
        raise InputError(what, "Give a local path, and copy the store from there.")
    if path.suffix != ".zarr":
        what = f"The output {path} does not end in .zarr."
        raise InputError(what, "Results are written as zarr stores: give a path such as corrected.zarr.")
    target = path.resolve()
    partial = partial_of(target)
    for source in inputs:
        real = source.resolve()
        if partial == real or partial in real.parents:
            what = f"The output {path} grows in {partial}, where the input {source} lies."
            raise InputError(what, "Write to another path, or rename the input.")
        if target == real or target in real.parents or real in target.parents:
            relation = "is" if target == real else "contains" if target in real.parents else "is inside"
            what = f"The output {path} {relation} the input {source}."
            raise InputError(what, "Write to another path; --overwrite does not lift this.")
    if path.exists() and not overwrite:
        what = f"The output {path} exists."
        raise OutputExistsError(what, "Remove it, choose another path, or overwrite it with --overwrite.")
    if partial.exists() and not overwrite:
        what = f"An unfinished output, {partial}, exists."
        raise OutputExistsError(
            what, "Another run is writing it, or one failed: remove it, or use --overwrite."
        )
    if not target.parent.is_dir():
        what = f"The folder of the output, {target.parent}, does not exist."
        raise InputNotFoundError(what, "Create it first.")


def write_zarr(adata: AnnData, path: Path, *, overwrite: bool = False, n_jobs: int | None = None) -> None:
    """Write a result as an AnnData zarr store, a block of cells at a time.

    The store grows beside its place as ``<path>.partial`` and takes it when complete. On failure the part
    is removed, and an older store at `path` is left as it was. Triggers a compute of all that is lazy.
    """
    partial = partial_of(path)
    if partial.exists():
        _remove(partial)
    n_cells, n_genes = adata.shape
    rows = max(1, min(rows_per_chunk(n_genes, adata.X.dtype.itemsize), n_cells))
    X = adata.X.rechunk((rows, n_genes)) if isinstance(adata.X, da.Array) else adata.X
    whole = AnnData(X, layers={name: adata.layers[name] for name in layer_names(adata)})
    for slot in ("obs", "var", "obsm", "varm", "obsp", "varp", "uns"):
        setattr(whole, slot, getattr(adata, slot))
    try:
        # A chunk of zeros that is not written could not be told from one that was lost.
        always = {"array.write_empty_chunks": True}
        with zarr.config.set(always), _zarr_v3(), dask.config.set(threads(n_jobs)):
            whole.write_zarr(partial, chunks=(rows, n_genes))
            if adata.raw is not None:  # by itself, for `chunks` would be taken for its X too
                write_elem(zarr.open_group(partial, use_consolidated=False), "raw", adata.raw)
                zarr.consolidate_metadata(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _take_place(partial, path, overwrite=overwrite)


def partial_of(path: Path) -> Path:
    """Where the store at `path` grows."""
    return path.with_name(path.name + ".partial")


def _take_place(partial: Path, path: Path, *, overwrite: bool) -> None:
    """Rename a complete store into place; one that it replaces goes only after."""
    old = path.with_name(path.name + ".replaced")
    replaced = overwrite and path.exists()
    if replaced:
        os.replace(path, old)
    try:
        os.replace(partial, path)
    except OSError:
        if replaced:
            os.replace(old, path)
        raise
    if replaced:
        _remove(old)


@contextmanager
def _zarr_v3() -> Iterator[None]:
    """Have anndata write zarr format 3, chunks unsharded, without its remarks on both choices."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        # anndata 0.13 still needs the setting of which it says that 0.14 will do without it
        warnings.filterwarnings("ignore", "This setting will be removed in 0.14", DeprecationWarning)
        with ad.settings.override(zarr_write_format=3, auto_shard_zarr_v3=False):
            yield


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
