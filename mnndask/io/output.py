"""Atomic output of results as AnnData stores: complete or absent."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import anndata as ad
import zarr
from zarr.abc.store import Store

from mnndask.errors import KEPT, MNNError, OutputError, OutputExistsError, with_notes_of
from mnndask.io.resume import ANNOTATED, RUN, ResumeRecord
from mnndask.stores.atomic_store import AtomicStore
from mnndask.stores.location import Location, is_denied, is_remote, unreachable
from mnndask.stores.missing_chunks import keys_in, missing_chunks
from mnndask.stores.output_target import Target, not_allowed


def check_output(
    target: Target, inputs: Sequence[Location], *, overwrite: bool, resume: ResumeRecord | None = None
) -> None:
    """Refuse an output that exists, that is, contains or is inside an input, or that is another run's."""
    target.check(inputs)
    check_free(target, overwrite=overwrite, resume=resume is not None)
    if resume is not None and target.unfinished():
        with _explaining_failures(target):
            _can_continue(target, resume)


def check_free(target: Target, *, overwrite: bool, resume: bool) -> None:
    """Refuse an output that exists, complete or unfinished, unless it is to be replaced or continued."""
    if target.exists() and not overwrite:
        what = f"The output {target} exists."
        raise OutputExistsError(
            what, "Remove it, choose another path, or replace it: --overwrite, or overwrite=True in Python."
        )
    if target.unfinished() and not (overwrite or resume):
        raise _unfinished(target)


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
    with _explaining_failures(target), target.only_writer():
        check_free(target, overwrite=overwrite, resume=resume)
        continued = resume and run is not None and target.unfinished() and _can_continue(target, run)
        target.sweep() if continued else target.clear()
        grown = root_last(target.store(), target.growing, target.check_ours)
        with _when_failed(target, run, keep=keep_unfinished), grown as root:
            if run is not None and not continued:
                root.create_group(RUN, attributes=run.record)
            yield root
            if run is not None:
                run.check_inputs()
        target.finish(overwrite=overwrite)


@contextmanager
def _explaining_failures(target: Target) -> Iterator[None]:
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


def _can_continue(target: Target, run: ResumeRecord) -> bool:
    """Whether an unfinished output can be continued; raises if it belongs to another run.

    If it has no record, its run was stopped before it wrote anything of value.
    """
    store = target.store(read_only=True)
    try:
        record = zarr.open_group(store, path=RUN, mode="r").attrs.asdict()
    except FileNotFoundError:
        return False
    run.check_same(record, target.growing)
    return bool(record.get(ANNOTATED))


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
        elif _is_kept(target):
            options = "overwrite=True" if run is None else "--resume continues it, --overwrite"
            if run is not None and getattr(error, "changed", False):  # --resume would refuse
                options = "--overwrite"
            error.add_note(f"{KEPT} {target.growing}: {options} replaces it.")
        raise


def _is_kept(target: Target) -> bool:
    try:
        return target.unfinished()
    except Exception:  # it cannot be reached now
        return True


@contextmanager
def root_last(store: Store, where: str, check: Callable[[], None] = lambda: None) -> Iterator[zarr.Group]:
    """Yield the root of an AnnData store, which cannot be opened unless all elements are written to it.

    `where` names it in messages; `check` is called before its root metadata is written.
    """
    atomic = AtomicStore(store)
    # An omitted chunk of zeros could not be distinguished from a lost one.
    always = {"array.write_empty_chunks": True}
    try:
        with zarr.config.set(always), _unsharded(), warnings.catch_warnings():
            # For record arrays, such as scanpy's uns["rank_genes_groups"], which anndata can read again.
            unspecified = "The data type .* does not have a Zarr V3 specification"
            warnings.filterwarnings("ignore", unspecified, category=UserWarning)
            warnings.filterwarnings("ignore", unspecified, category=FutureWarning)
            root = zarr.open_group(atomic, mode="a", zarr_format=3)
            root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            yield root
            if RUN in root:
                del root[RUN]
            _check_all_stored(_consolidated(atomic), where)
        check()
        atomic.finish()
    except BaseException:
        atomic.abandoned = True  # stops threads that have yet to write a chunk
        raise


def _check_all_stored(root: zarr.Group, where: str) -> None:
    """Raise if a chunk of any array is missing, since it would read as zeros."""
    keys = keys_in(root.store)
    for name, array in root.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.ndim and (missing := missing_chunks(array, keys)).any():
            what = f"{missing.sum()} of the {missing.size} chunks of {name} are missing from {where}."
            raise OutputError(what, "Write it again, and check whether anything removes files there.")


@contextmanager
def _unsharded() -> Iterator[None]:
    """Prevent anndata from sharding tables and embeddings, its default from 0.13."""
    known = hasattr(ad.settings, "auto_shard_zarr_v3")  # 0.12.3 has no such setting, and does not shard
    with ad.settings.override(**({"auto_shard_zarr_v3": False} if known else {})):
        yield


def _consolidated(store: Store) -> zarr.Group:
    with warnings.catch_warnings():
        # It will be: https://github.com/zarr-developers/zarr-specs/pull/373. anndata also writes it.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)
        return zarr.consolidate_metadata(store)
