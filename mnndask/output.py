"""Writing results as AnnData stores that are whole, or not there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dask
import dask.array as da
import zarr
from anndata import AnnData
from anndata.io import write_elem
from zarr.abc.store import Store
from zarr.codecs import ZstdCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from mnndask.budget import CHUNK_BYTES
from mnndask.errors import KEPT, MNNError, OutputError, OutputExistsError, with_notes_of
from mnndask.io.anndata_compat import layer_names
from mnndask.io.raw import storable
from mnndask.lazy import rows_per_chunk
from mnndask.location import Location, is_denied, is_remote, unreachable
from mnndask.progress import counted, showing, stage
from mnndask.reduce import compute, tasks_of, threads
from mnndask.root_last import ROOT, root_last
from mnndask.run_record import ANNOTATED, RUN, Run
from mnndask.stored_chunks import missing_chunks, stored_chunks
from mnndask.target import Target, not_allowed, target_of

NAMES_PER_CHUNK = 65_536
LEVEL = -1  # of Zstandard: zeros shrink as much as by default, and what does not shrink takes half the time
PARTS_OF_SHARD = 8  # of an object: what a reader of a few cells has to fetch


def check_output(
    target: Target, inputs: Sequence[Location], *, overwrite: bool, resume: Run | None = None
) -> None:
    """Refuse an output that is taken, that an input is, holds or lies in, or that is of another run."""
    target.check(inputs)
    check_free(target, overwrite=overwrite, resume=resume is not None)
    if resume is not None and target.unfinished():
        with _failing_in_words(target):
            _continued(target, resume)


def check_free(target: Target, *, overwrite: bool, resume: bool) -> None:
    """Refuse an output that is there, whole or in part, unless it is to be replaced or continued."""
    if target.exists() and not overwrite:
        what = f"The output {target} exists."
        raise OutputExistsError(what, "Remove it, choose another path, or overwrite it with --overwrite.")
    if target.unfinished() and not (overwrite or resume):
        raise _unfinished(target)


def write_zarr(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    n_jobs: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    storage_options: Mapping[str, Any] | None = None,
    show_progress: bool | None = None,
) -> None:
    """Write a result as an AnnData zarr store, a block of cells at a time; see :func:`writing`.

    Triggers a compute of all that is lazy. Chunks are of whole cells, of about `chunk_bytes`.
    `show_progress` is as in :func:`mnndask.mnn_correct`.
    """
    target = target_of(Location.of(path, storage_options))
    adata = storable(adata)
    with showing(show_progress), writing(target, overwrite=overwrite) as root:
        write_annotations(adata, root, n_jobs, remote=target.remote)
        write_matrix(adata.X, root, n_jobs, chunk_bytes, remote=target.remote)


@contextmanager
def writing(
    target: Target, *, overwrite: bool = False, run: Run | None = None, resume: bool = False
) -> Iterator[zarr.Group]:
    """Root of a new AnnData store, to which first annotations are written, then ``X``.

    What takes the time comes last: what fails fails before. The store grows where nothing opens it before all
    of it is written. On failure the part is kept, a note on the error names it, and an older local store is
    left as it was. With `resume`, what the same `run` has written is kept.

    Raises
    ------
    OutputExistsError
        If an unfinished output is in the way, unless `overwrite`; or if another run is writing it.
    OutputError
        If it cannot be written, as on a disk that is full.
    """
    with _failing_in_words(target), target.only_writer():
        check_free(target, overwrite=overwrite, resume=resume)
        continued = resume and run is not None and target.unfinished() and _continued(target, run)
        target.sweep() if continued else target.clear()
        grown = root_last(target.store(), target.growing, target.check_ours)
        with _kept_when_failed(target, run), grown as root:
            if run is not None and not continued:
                root.create_group(RUN, attributes=run.record)
            yield root
        target.finish(overwrite=overwrite)


@contextmanager
def _failing_in_words(target: Target) -> Iterator[None]:
    """Say why an output cannot be written."""
    try:
        yield
    except MNNError:
        raise
    except Exception as error:
        if is_remote(error):
            raise with_notes_of(error, unreachable(f"the output {target}", error)) from error
        if not isinstance(error, OSError):
            raise
        if is_denied(error):
            failure = not_allowed(f"The output {target} could not be written", error)
        else:
            what = f"The output {target} could not be written: {error.strerror or error}."
            failure = OutputError(what, "Make room, or write to another place.")
        raise with_notes_of(error, failure) from error


def _continued(target: Target, run: Run) -> bool:
    """Whether there is a part that can be continued; raises if it is another run's.

    Without a record, a run was stopped before it wrote anything of worth.
    """
    store = target.store(read_only=True)
    try:
        record = zarr.open_group(store, path=RUN, mode="r").attrs.asdict()
    except FileNotFoundError:
        return False
    run.check_same(record, target.growing)
    return bool(record.get(ANNOTATED))


def write_annotations(
    adata: AnnData, root: zarr.Group, n_jobs: int | None = None, *, remote: bool = False
) -> None:
    """Write everything but ``X``, as ``AnnData.write_zarr`` does, unless the run that is resumed did.

    Triggers a compute of what is lazy. If `remote`, tables are made in memory and sent together.
    """
    run = root.get(RUN)
    if run is not None and ANNOTATED in run.attrs:
        return
    with dask.config.set(threads(n_jobs)):
        _write_annotations(adata, root, remote=remote)
    if run is not None:
        run.attrs[ANNOTATED] = True


def _write_annotations(adata: AnnData, root: zarr.Group, *, remote: bool) -> None:
    adata.strings_to_categoricals()
    if adata.raw is not None:
        adata.strings_to_categoricals(adata.raw.var)
    tables = zarr.open_group(MemoryStore(), zarr_format=3) if remote else root
    with zarr.config.set(
        {"async.concurrency": 1}
    ):  # strings take ten times their size while chunks are encoded
        for name in ("obs", "var"):
            write_elem(tables, name, getattr(adata, name), dataset_kwargs={"chunks": (NAMES_PER_CHUNK,)})
    slots = {name: dict(getattr(adata, name)) for name in ("obsm", "obsp", "varm", "varp", "uns")}
    slots["layers"] = {name: adata.layers[name] for name in layer_names(adata)}
    lazy: list[tuple[str, str, da.Array]] = []
    for slot, values in slots.items():
        lazy += [(slot, key, value) for key, value in values.items() if isinstance(value, da.Array)]
        held = {key: value for key, value in values.items() if not isinstance(value, da.Array)}
        write_elem(tables, slot, held)
    if remote:
        sync(_copy(tables.store, root.store))
    for slot, key, value in lazy:
        write_elem(root[slot], key, value)
    write_elem(root, "raw", adata.raw)


async def _copy(source: Store, target: Store) -> None:
    """Copy all values but the root's, at once."""

    async def one(key: str) -> None:
        value = await source.get(key, default_buffer_prototype())
        assert value is not None
        await target.set(key, value)

    await asyncio.gather(*[one(key) async for key in source.list() if key != ROOT])


def write_matrix(
    X: Any, root: zarr.Group, n_jobs: int | None, chunk_bytes: int, *, remote: bool = False
) -> None:
    """Write dense values as ``X``, each chunk by itself, but for those that are there.

    Triggers a compute of them. If `remote`, each is an object of parts that can be read by themselves.
    """
    array = root.get("X")
    if array is None:
        array = _empty_matrix(X, root, chunk_bytes, sharded=remote)
    rows = stored_chunks(array)[0]
    starts = range(0, X.shape[0], rows)
    # Chains of single tasks stay unfused, so that those who watch see the stage of each.
    with dask.config.set({"optimization.fuse.active": False}):
        blocks = da.asarray(X).rechunk((rows, -1)).to_delayed().ravel()
    missing = missing_chunks(array).ravel()
    n_cells = sum(
        min(rows, X.shape[0] - start) for start, wanted in zip(starts, missing, strict=True) if wanted
    )
    with stage("writing", n_cells):
        write, put = tasks_of("write"), counted(_put, rows=lambda _, __, block: len(block))
        tasks = [
            write(put, array, start, block)
            for start, block, wanted in zip(starts, blocks, missing, strict=True)
            if wanted
        ]
        compute(tasks, n_jobs, n_cells)


def _empty_matrix(X: Any, root: zarr.Group, chunk_bytes: int, *, sharded: bool) -> zarr.Array[Any]:
    n_cells, n_genes = X.shape
    rows = max(1, min(rows_per_chunk(n_genes, X.dtype.itemsize, chunk_bytes), n_cells))
    part = -(-rows // PARTS_OF_SHARD) if sharded else rows
    rows = -(-rows // part) * part
    return root.create_array(
        "X",
        shape=X.shape,
        dtype=X.dtype,
        chunks=(part, n_genes),
        shards=(rows, n_genes) if sharded else None,
        compressors=ZstdCodec(level=LEVEL),
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )


def _put(array: zarr.Array[Any], start: int, block: Any) -> None:
    with zarr.config.set({"array.write_empty_chunks": True}):
        array[start : start + len(block)] = block


def _unfinished(target: Target) -> OutputExistsError:
    what = f"An unfinished output, {target.growing}, exists."
    remedy = "Another run is writing it, or one failed: continue that with --resume, or use --overwrite."
    return OutputExistsError(what, remedy)


@contextmanager
def _kept_when_failed(target: Target, run: Run | None) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if _is_kept(target):
            resumes = "" if run is None else "--resume continues it, "
            error.add_note(f"{KEPT} {target.growing}: {resumes}--overwrite replaces it.")
        raise


def _is_kept(target: Target) -> bool:
    try:
        return target.unfinished()
    except Exception:  # it cannot be reached now
        return True
