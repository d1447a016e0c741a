"""What is known of an unfinished output: the run that writes it, and the annotations that it has written.

The record is kept beside the output, as all names in the output are the users'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zarr.abc.store import Store
from zarr.core.sync import sync

from mnndask.errors import InputError, OutputExistsError, warn
from mnndask.io.resume import ResumeRecord
from mnndask.stores.atomic_store import ROOT, AtomicStore
from mnndask.stores.contents import Entry, altered_keys, changed_keys, sizes_in
from mnndask.stores.output_target import Target

FORMAT = "mnndask-run 1"


def begin(target: Target, run: ResumeRecord | None, *, overwrite: bool) -> None:
    """Record the run that begins to write an output; without `run`, it cannot be continued."""
    target.write_record(_record(run, overwrite))


def keep_annotations(
    target: Target, run: ResumeRecord, store: AtomicStore, *, overwrite: bool
) -> Callable[[], None]:
    """Return a function that records the annotations of an output once they are written and synced."""

    def keep() -> None:
        store.flush()
        # Workers may have written chunks of lazy elements.
        sizes = sizes_in(store.stored)
        matrices = tuple(f"{name}/" for name in run.matrices)
        found = {key: (size, "") for key, size in sizes.items() if not key.startswith(matrices)}
        target.write_record(_record(run, overwrite) | {"annotations": found | store.written})

    return keep


def _record(run: ResumeRecord | None, overwrite: bool) -> dict[str, Any]:
    return {"format": FORMAT, "run": run and run.record, "overwrite": overwrite}


def _known(target: Target) -> dict[str, Any]:
    """Return the record of an unfinished output; an empty one if there is none."""
    record = target.record()
    if record is None:
        return {}
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        what = f"{target.record_name} exists, which is no record of a run by this version of mnndask."
        raise OutputExistsError(what, "Remove or rename it, or write to another path.")
    return record


def replaces(target: Target) -> bool:
    """Whether the run that left a record was told to replace the output."""
    return bool(_known(target).get("overwrite"))


def same_run(target: Target, run: ResumeRecord) -> dict[str, Any]:
    """Return the record of an unfinished output; raise if it belongs to another run.

    An empty one means that a run was stopped before it wrote anything of value.
    """
    record = _known(target)
    if record.get("run"):
        remedy = "Give the inputs and options of that run, or start over with --overwrite."
        run.check_same(record["run"], f"The unfinished output {target.growing}", remedy)
    elif record or any(_has_matrix(target, name) for name in run.matrices):
        what = f"The unfinished output {target.growing} has no record of a run that could be continued."
        raise InputError(what, f"Start over with --overwrite, or put {target.record_name} back.")
    return record


def _has_matrix(target: Target, name: str) -> bool:
    return sync(target.store(read_only=True).exists(f"{name}/{ROOT}"))


def annotations_to_keep(target: Target, run: ResumeRecord) -> dict[str, Entry] | None:
    """Return the values of an unfinished output that are unchanged since they were written, all but ``X``.

    If any was removed or changed, all are removed, to be written again. None means that a run was stopped
    before it wrote anything of value.
    """
    annotations = same_run(target, run).get("annotations") if target.unfinished() else None
    if annotations is None:
        return None
    known: dict[str, Entry] = {key: (size, digest) for key, (size, digest) in annotations.items()}
    store = target.store()
    changed = changed_keys(store, known) or altered_keys(store, known)
    if not changed:
        return known
    what = (
        f"Something else removed or changed {len(changed)} of the {len(known)} files of annotations in "
        f"{target.growing}, such as {changed[0]}."
    )
    warn(what, "The annotations are written again.")
    sync(_remove_annotations(store, run.matrices))
    return {}


async def _remove_annotations(store: Store, matrices: Sequence[str]) -> None:
    """Remove all but matrices, some of which may be in slots."""
    await store.delete(ROOT)
    slots = {name.partition("/")[0] for name in matrices if "/" in name}
    for slot in slots:
        await store.delete(f"{slot}/{ROOT}")
    others = [name async for name in store.list_dir("") if name not in slots]
    for slot in slots:
        others += [f"{slot}/{name}" async for name in store.list_dir(slot) if name != ROOT]
    for name in others:
        if name not in matrices:
            await store.delete_dir(name)
