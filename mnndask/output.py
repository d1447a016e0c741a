"""Writing results as AnnData stores that are whole, or not there."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import dask
import dask.array as da
import zarr
from anndata import AnnData
from anndata.io import write_elem
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from mnndask.budget import CHUNK_BYTES
from mnndask.errors import InputError, InputNotFoundError, MNNError, OutputError, OutputExistsError
from mnndask.lazy import rows_per_chunk
from mnndask.reduce import threads
from mnndask.sources import layer_names
from mnndask.store import is_url
from mnndask.stored_chunks import missing_chunks
from mnndask.writer import only_writer

ROOT = "zarr.json"
KEPT = "The unfinished output is kept in"  # how the note begins that is put on what stopped a run


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
    older = _older(target)
    if older.exists():
        what = f"An older output, {older}, exists: a run was stopped while it replaced {path}."
        raise OutputExistsError(what, f"Rename it to {path}, or remove it.")
    if path.exists() and not overwrite:
        what = f"The output {path} exists."
        raise OutputExistsError(what, "Remove it, choose another path, or overwrite it with --overwrite.")
    if partial.exists() and not overwrite:
        raise _unfinished(partial)
    if not target.parent.is_dir():
        what = f"The folder of the output, {target.parent}, does not exist."
        raise InputNotFoundError(what, "Create it first.")


class RootLastStore(WrapperStore[LocalStore]):
    """A store whose root metadata is kept back until all else is written: without it, nothing opens it."""

    def __init__(self, store: LocalStore, root: dict[str, Buffer] | None = None) -> None:
        super().__init__(store)
        self.root = {} if root is None else root
        self.abandoned = False

    def _with_store(self, store: LocalStore) -> RootLastStore:
        return type(self)(store, self.root)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Value of a key."""
        return self.root.get(ROOT) if key == ROOT else await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a value, or hold the root's."""
        if self.abandoned:
            what = "the output was given up"
            raise OSError(what)
        if key == ROOT:
            self.root[ROOT] = value
        else:
            await self._store.set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a value unless there is one."""
        if not await self.exists(key):
            await self.set(key, value)

    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        for key, value in values:
            await self.set(key, value)

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return key in self.root if key == ROOT else await self._store.exists(key)

    def finish(self) -> None:
        """Write the root."""
        sync(self._store.set(ROOT, self.root[ROOT]))


def write_zarr(
    adata: AnnData,
    path: Path,
    *,
    overwrite: bool = False,
    n_jobs: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
) -> None:
    """Write a result as an AnnData zarr store, a block of cells at a time; see :func:`writing`.

    Triggers a compute of all that is lazy. Chunks are of whole cells, of about `chunk_bytes`.
    """
    with writing(path, overwrite=overwrite) as root:
        write_annotations(adata, root, n_jobs)
        write_matrix(adata.X, root, n_jobs, chunk_bytes)


@contextmanager
def writing(path: Path, *, overwrite: bool = False) -> Iterator[zarr.Group]:
    """Root of a new AnnData store, to which first annotations are written, then ``X``.

    What takes the time comes last: what fails fails before. The store grows beside its place as
    ``<path>.partial``, which nothing opens before all of it is written, and takes its place when complete. On
    failure the part is kept, a note on the error names it, and an older store at `path` is left as it was.

    Raises
    ------
    OutputExistsError
        If an unfinished output is in the way, unless `overwrite`; or if another run is writing it.
    OutputError
        If it cannot be written, as on a disk that is full.
    """
    partial = partial_of(path)
    try:
        with only_writer(partial):
            if partial.exists() and not overwrite:
                raise _unfinished(partial)
            if partial.exists():
                _remove(partial)
            with _kept_when_failed(partial), root_last(partial) as root:
                yield root
            _take_place(partial, path, overwrite=overwrite)
    except MNNError:
        raise
    except OSError as error:
        what = f"The output {path} could not be written: {error.strerror or error}."
        failure = OutputError(what, "Make room, or write to another place.")
        for note in kept_notes(error):
            failure.add_note(note)
        raise failure from error


@contextmanager
def root_last(partial: Path) -> Iterator[zarr.Group]:
    """Root of an AnnData store, to write all elements to; what is left of it does not open if that fails."""
    store = RootLastStore(LocalStore(partial))
    # A chunk of zeros that is not written could not be told from one that was lost.
    always = {"array.write_empty_chunks": True}
    try:
        with zarr.config.set(always), zarr_v3():
            root = zarr.open_group(store, mode="w", zarr_format=3)
            root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            yield root
            zarr.consolidate_metadata(store)
            _check_all_stored(root, partial)
        store.finish()
    except BaseException:
        store.abandoned = True  # threads that are yet to write a chunk
        raise


def write_annotations(adata: AnnData, root: zarr.Group, n_jobs: int | None = None) -> None:
    """Write everything but ``X``, as ``AnnData.write_zarr`` does. Triggers a compute of what is lazy."""
    with dask.config.set(threads(n_jobs)):
        _write_annotations(adata, root)


def _write_annotations(adata: AnnData, root: zarr.Group) -> None:
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    for name in ("obs", "var"):
        write_elem(root, name, getattr(adata, name))
    for name in ("obsm", "varm", "obsp", "varp", "uns"):
        write_elem(root, name, dict(getattr(adata, name)))
    write_elem(root, "layers", {name: adata.layers[name] for name in layer_names(adata)})
    write_elem(root, "raw", adata.raw)


def write_matrix(X: Any, root: zarr.Group, n_jobs: int | None, chunk_bytes: int) -> None:
    """Write dense values as ``X``, each chunk by itself. Triggers a compute of them."""
    n_cells, n_genes = X.shape
    rows = max(1, min(rows_per_chunk(n_genes, X.dtype.itemsize, chunk_bytes), n_cells))
    array = root.create_array(
        "X",
        shape=X.shape,
        dtype=X.dtype,
        chunks=(rows, n_genes),
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )
    with dask.config.set(threads(n_jobs)):
        da.store(da.asarray(X).rechunk(array.chunks), array, lock=False)  # type: ignore[arg-type]


def _check_all_stored(root: zarr.Group, partial: Path) -> None:
    """Raise if a chunk of any array is not there, rather than have it read as zeros ever after."""
    for name, array in root.members(max_depth=None, use_consolidated_for_children=False):
        if isinstance(array, zarr.Array) and array.ndim and (lost := missing_chunks(array)).any():
            what = f"{lost.sum()} of the {lost.size} chunks of {name} are missing from {partial}."
            raise OutputError(what, "Write again; has something removed files there?")


def partial_of(path: Path) -> Path:
    """Where the store at `path` grows."""
    return path.with_name(path.name + ".partial")


def _older(path: Path) -> Path:
    """Where a store at `path` is while another takes its place."""
    return path.with_name(path.name + ".replaced")


def _unfinished(partial: Path) -> OutputExistsError:
    what = f"An unfinished output, {partial}, exists."
    return OutputExistsError(what, "Another run is writing it, or one failed: remove it, or use --overwrite.")


def kept_notes(error: BaseException) -> list[str]:
    """Notes on an error that say what is left of the output."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith(KEPT)]


@contextmanager
def _kept_when_failed(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if partial.exists():
            error.add_note(f"{KEPT} {partial}: --overwrite replaces it.")
        raise


def _take_place(partial: Path, path: Path, *, overwrite: bool) -> None:
    """Rename a complete store into place; one that it replaces goes only after."""
    old = _older(path)
    replaced = overwrite and path.exists()
    try:
        if replaced:
            os.replace(path, old)
        os.replace(partial, path)
    except OSError as error:
        error.add_note(f"{KEPT} {partial}, which is complete: rename it.")
        if replaced and old.exists():
            os.replace(old, path)
        raise
    if replaced:
        try:
            _remove(old)
        except OSError as error:
            message = (
                f"{path} is complete, but the older output, now {old}, could not be removed: "
                f"{error.strerror or error}.\nRemove it."
            )
            warnings.warn(message, UserWarning, stacklevel=4)


@contextmanager
def zarr_v3() -> Iterator[None]:
    """Have anndata write zarr format 3, chunks unsharded, without its remarks on both choices."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        warnings.filterwarnings("ignore", "zarr v3 autosharding will be the default", UserWarning)
        # anndata 0.13 still needs the setting of which it says that 0.14 will do without it
        warnings.filterwarnings("ignore", "This setting will be removed in 0.14", DeprecationWarning)
        unsharded = {"auto_shardzarr_v3": False} if hasattr(ad.settings, "auto_shardzarr_v3") else {}
        with ad.settings.override(zarr_write_format=3, **unsharded):
            yield


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
