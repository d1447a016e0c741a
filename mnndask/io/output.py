"""Atomic output of results as AnnData stores: complete or absent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import zarr
from zarr.abc.store import Store

from mnndask._library_state import ignoring
from mnndask._text import printable
from mnndask.errors import (
    KEPT,
    InputError,
    MNNError,
    OutputError,
    OutputExistsError,
    RemoteError,
    with_notes_of,
)
from mnndask.io.anndata_compat import writing_elements
from mnndask.io.resume import ResumeRecord
from mnndask.io.unfinished import annotations_to_keep, begin, keep_annotations, replaces, same_run
from mnndask.stores.atomic_store import AtomicStore
from mnndask.stores.contents import filled_keys
from mnndask.stores.local_target import not_allowed
from mnndask.stores.location import Location, is_denied, is_remote, unreachable
from mnndask.stores.missing_chunks import missing_chunks
from mnndask.stores.output_target import Target

RUN = "mnndask-run"  # attribute of the root: the run that wrote the output
OTHER = "Give the inputs and options of that run, another output, or replace it with --overwrite."


def check_output(
    target: Target, inputs: Sequence[Location], *, overwrite: bool, resume: ResumeRecord | None = None
) -> None:
    """Refuse an output that exists, that is, contains or is inside an input, or that is another run's."""
    target.check(inputs)
    check_free(target, overwrite=overwrite, resume=resume is not None)
    if resume is not None and target.unfinished():
        with explaining_failures(target):
            same_run(target, resume)


def is_complete(output: Location, target: Target, run: ResumeRecord) -> bool:
    """Whether there is a complete output of the same run.

    Raises
    ------
    InputError
        If there is a complete output of another run, or one that does not say of which.
    OutputError
        If chunks of it are missing.
    """
    if target.unfinished() or not target.exists():
        return False
    root = zarr.open_group(output.store(read_only=True), mode="r")
    kept = root.attrs.get(RUN)
    if not isinstance(kept, dict):
        what = f"The complete output {target} does not say of which run it is."
        raise InputError(what, OTHER)
    run.check_same(kept, f"The complete output {target}", OTHER)
    _check_chunks(filled_keys(root.store), str(target), root)
    return True


def check_free(target: Target, *, overwrite: bool, resume: bool) -> None:
    """Refuse an output that exists, complete or unfinished, unless it is to be replaced or continued."""
    ours = replaces(target)
    target.check_older(proceed=overwrite or resume, ours=ours)
    begun = target.unfinished()
    if begun and not (overwrite or resume) and (ours or not target.exists()):
        raise _unfinished(target)
    if target.exists() and not overwrite and not (resume and ours and begun):
        what = f"The output {target} exists."
        raise OutputExistsError(
            what, "Remove it, choose another path, or replace it: --overwrite, or overwrite=True in Python."
        )


@contextmanager
def writing(
    target: Target,
    *,
    overwrite: bool = False,
    run: ResumeRecord | None = None,
    resume: bool = False,
    keep_unfinished: bool = True,
) -> Iterator[zarr.Group]:
    """Yield the root of a new AnnData store; write annotations to it first, then ``X``.

    ``X`` takes most of the time and comes last, so that failures occur early. The store cannot be opened
    until it is complete. On failure, an unfinished store is kept if `keep_unfinished`, a note on the error
    names it, and an older local store is unchanged. With `resume`, the output of the same `run` is continued.

    Raises
    ------
    OutputExistsError
        If an unfinished output exists, unless `overwrite`, or if another run is writing the output.
    OutputError
        If the output cannot be written, for example on a full disk.
    """
    with explaining_failures(target), target.only_writer():
        check_free(target, overwrite=overwrite, resume=resume)
        replacing = overwrite or (resume and replaces(target))
        kept = annotations_to_keep(target, run) if resume and run is not None else None
        if overwrite or resume:
            target.settle(finish=kept is None)
        target.clear() if kept is None else target.sweep()
        store = AtomicStore(target.store(), annotations=kept)
        if run is not None and not kept:
            store.annotations_done = keep_annotations(target, run, store, overwrite=replacing)
        with _when_failed(target, run, keep=keep_unfinished):
            if kept is None:
                begin(target, run, overwrite=replacing)
            with root_last(store, target.growing, target.check_ours) as root:
                if run is not None:
                    root.attrs[RUN] = run.record
                yield root
                if run is not None:
                    run.check_inputs()
        target.finish(overwrite=replacing)


@contextmanager
def explaining_failures(target: object) -> Iterator[None]:
    """Raise errors of mnndask that explain why an output cannot be written."""
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
            failure = OutputError(what, "Free some space, or write to another place.")
        raise with_notes_of(error, failure) from error


def _unfinished(target: Target) -> OutputExistsError:
    what = f"An unfinished output, {target.growing}, exists."
    remedy = (
        "Another run is writing it, or one has failed. The command continues it with --resume. Replace it: "
        "--overwrite, or overwrite=True in Python."
    )
    return OutputExistsError(what, remedy)


@contextmanager
def _when_failed(target: Target, run: ResumeRecord | None, *, keep: bool) -> Iterator[None]:
    """Add a note to an error that names the unfinished output, or remove that output."""
    try:
        yield
    except BaseException as error:
        if not keep:
            target.clear()
        elif _is_kept(target, error):
            options = "overwrite=True" if run is None else "--resume continues it, --overwrite"
            if run is not None and getattr(error, "changed", False):  # --resume would refuse
                options = "--overwrite"
            error.add_note(printable(f"{KEPT} {target.growing}: {options} replaces it."))
        raise


def _is_kept(target: Target, error: BaseException) -> bool:
    """Whether there is an unfinished output of this run."""
    if isinstance(error, OutputExistsError | RemoteError):  # it is another run's now, or cannot be reached
        return isinstance(error, RemoteError)
    try:
        return target.unfinished()
    except Exception:  # it cannot be reached now
        return True


@contextmanager
def root_last(store: Store, where: str, check: Callable[[], None] = lambda: None) -> Iterator[zarr.Group]:
    """Yield the root of an AnnData store, which cannot be opened unless all elements are written to it.

    `where` names it in messages; `check` is called before its root metadata is written.
    """
    atomic = store if isinstance(store, AtomicStore) else AtomicStore(store)
    try:
        root = zarr.open_group(atomic, mode="a", zarr_format=3)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        yield root
        consolidated = _consolidated(atomic)
        atomic.flush()
        _check_written(atomic, where)
        _check_chunks(filled_keys(atomic.stored), where, consolidated)
        check()
        atomic.finish()
        try:
            _check_written(atomic, where)  # nothing of it went while it was synced
        except OutputError:
            atomic.reopen()
            raise
    except BaseException as error:
        atomic.abandoned = True  # stops threads that have yet to write a chunk
        if isinstance(error, Exception) and not isinstance(error, MNNError) and not is_remote(error):
            _check_written(atomic, where, error)  # raises if that is the cause
        raise
    finally:
        atomic.close_early()


def _check_written(store: AtomicStore, where: str, cause: Exception | None = None) -> None:
    """Raise if anything that was written is missing or has changed."""
    if gone := store.changed():
        what = (
            f"Something else removed or changed {len(gone)} of the {len(store.written)} files that were "
            f"written to {where}, such as {gone[0]}."
        )
        raise OutputError(what, "Write it again, and check what removes files there.") from cause


def _check_chunks(keys: Collection[str], where: str, root: zarr.Group) -> None:
    """Raise if any chunk is missing or empty, which workers may have written."""
    for name, array in root.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.ndim and (missing := missing_chunks(array, keys)).any():
            what = f"{missing.sum()} of the {missing.size} chunks of {name} are missing from {where}."
            raise OutputError(what, "Write it again, and check whether anything removes files there.")


def _consolidated(store: Store) -> zarr.Group:
    # It will be: https://github.com/zarr-developers/zarr-specs/pull/373. anndata also writes it.
    with writing_elements(), ignoring(("Consolidated metadata is currently not part", UserWarning)):
        return zarr.consolidate_metadata(store)
