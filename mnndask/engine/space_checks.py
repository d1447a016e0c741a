"""What a run will write: the size of its output and of scratch data, compared with the space that is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from mnndask._blocks import GENES_PER_BLOCK
from mnndask._progress import announcements
from mnndask._resources import free_memory
from mnndask._typing import Floats
from mnndask.core.fit_cells import FitCells
from mnndask.core.gene_spaces import GeneSpaces
from mnndask.engine.memory_budget import GIVEN, Budget, in_words
from mnndask.errors import OutputError, ScratchError, warn
from mnndask.stores.disk_space import Space, compressed_share, existing, is_in_memory
from mnndask.stores.location import Location

VALUES = 2**18  # of each batch, by which compression is estimated
BATCHES = 8  # by which it is
SURE = 0.9  # of the estimate: with less space, the output does not fit
LIKELY = 1.1  # of the estimate: with more space, it does


@dataclass(frozen=True)
class Output:
    """Where the result of a call will be written.

    Parameters
    ----------
    space
        Space that is free there; None if that cannot be told.
    replaces
        Whether an older output stays until the new one is complete.
    compressed
        Whether values are compressed there.
    """

    space: Space | None
    replaces: bool
    compressed: bool = True


_output: ContextVar[Output | None] = ContextVar("mnndask_output", default=None)


@contextmanager
def written_to(output: Output) -> Iterator[None]:
    """Have fits announce the size of the output that their result is for, and check the space."""
    token = _output.set(output)
    try:
        yield
    finally:
        _output.reset(token)


def check_output_space(
    cells: Sequence[FitCells],
    n_cells: Sequence[int],
    spaces: GeneSpaces,
    reference: int,
    n_components: int | None = None,
) -> None:
    """Announce the size of the output, if there will be one, before the fit.

    Parameters
    ----------
    cells, n_cells
        Fitted cells of each batch, and the number of all of its cells.
    spaces
        Genes and precision of the result.
    reference
        Index of the batch that is not moved.
    n_components
        Most dimensions of an embedding that is written, too; None for none.

    Raises
    ------
    OutputError
        If there is not enough space even if values compress better than they seem to.
    """
    output = _output.get()
    if output is None:
        return
    per_cell = 0 if spaces.embeds_only else spaces.n_genes * spaces.dtype.itemsize
    dense = sum(n_cells) * per_cell
    of_reference, of_others = (0.0, 0.0) if spaces.embeds_only else _shares(cells, spaces, reference)
    unmoved = n_cells[reference] * per_cell
    estimate = int(unmoved * of_reference + (dense - unmoved) * of_others)
    if n_components is not None:  # coordinates hardly compress
        embedded = sum(n_cells) * spaces.dtype.itemsize * (spaces.n_components or spaces.n_near)
        dense, estimate = dense + embedded, estimate + embedded
    space = output.space
    sizes = f"{in_words(dense)} dense, about {in_words(estimate)} compressed"
    if not output.compressed:
        estimate, sizes = dense, f"{in_words(dense)}, not compressed"
    if space is None:
        announcements.info("output: %s; whether there is space for it is not known", sizes)
        return
    written = f", of which {in_words(space.written)} are written" if space.written else ""
    free = f"{in_words(space.free)} are free in {space.folder}"
    announcements.info("output: %s%s; %s", sizes, written, free)
    needed = estimate - space.written
    if needed * LIKELY <= space.free:
        return
    stays = ", beside the older one, which stays until then" if output.replaces else ""
    what = f"The output takes {sizes}{written}{stays}, but only {free}."
    fewer = ", or write fewer genes: genes='subset'" if len(spaces.rest) and spaces.subset is not None else ""
    if needed * SURE > space.free:
        raise OutputError(what, f"Free some space there, or write to another folder{fewer}.")
    warn(what, f"It may not fit: free some space there, or write to another folder{fewer}.")


def _shares(cells: Sequence[FitCells], spaces: GeneSpaces, reference: int) -> tuple[float, float]:
    """Estimate what part of their size corrected values take: of the reference, and of the other batches.

    Values of the reference are only divided by lengths. To the others a vector is added that differs from
    cell to cell, in all genes that any cell expresses.
    """
    step = -(-len(cells) // BATCHES)
    samples = {b: _sample(cells[b], spaces) for b in {reference, *range(0, len(cells), step)}}
    expressed = np.any([X.any(axis=0) for X in samples.values()], axis=0)
    moved = [_moved(X, expressed) for b, X in samples.items() if b != reference] or [samples[reference]]
    shares = [compressed_share(X) for X in (samples[reference], *moved) if X.size]
    return (shares[0], float(np.mean(shares[1:] or shares))) if shares else (1.0, 1.0)


def _sample(own: FitCells, spaces: GeneSpaces) -> Floats:
    """A few cells of a batch, divided by their lengths."""
    n = max(1, min(len(own.rows), VALUES // max(1, spaces.n_genes)))
    parts = [own.near(spaces, slice(0, n))] if spaces.n_components is None else []
    if len(spaces.rest):
        parts.append(own.rest(spaces, np.arange(n), slice(0, len(spaces.rest))))
    X: Floats = np.concatenate(parts, axis=1)
    X /= np.maximum(np.abs(X).max(axis=1, initial=0, keepdims=True), np.finfo(X.dtype).tiny)
    return X


def _moved(X: Floats, expressed: np.ndarray) -> Floats:
    vectors = np.random.default_rng(0).normal(0, 0.1, X.shape).astype(X.dtype)
    out: Floats = X + vectors * expressed
    return out


def check_scratch_space(
    n_used: Sequence[int], n_moved: int, spaces: GeneSpaces, scratch: Location, budget: Budget
) -> None:
    """Check that there is space for the matrices of a fit on disk, as far as their sizes are known.

    Parameters
    ----------
    n_used
        Number of fitted cells of each batch.
    n_moved
        Number of those that merges move, once for each merge.
    spaces
        Genes and precision of the fit.
    scratch
        Folder for them.
    budget
        Memory of the fit, beside which files may have to fit in memory.

    Raises
    ------
    ScratchError
        If there is not enough space.
    """
    if scratch.is_url:
        return
    n, itemsize = sum(n_used), spaces.dtype.itemsize
    n_spaces = 1 if spaces.coincide else 2
    near = spaces.n_near if spaces.n_components is None else spaces.n_components
    # As read; normalised; corrected.
    needed = n * _stored(spaces.n_near) * itemsize
    needed += (n + n_moved) * _stored(near) * itemsize * n_spaces
    folder = existing(scratch.path)
    free, kind = Space.of(folder / "none").free, ""
    if is_in_memory(folder):
        memory = free_memory().size
        of_work = budget.limit if budget.source == GIVEN else memory // 2
        free, kind = max(0, min(free, memory - of_work)), " for it, as it is in memory"
    announcements.info(
        "scratch: at least %s in %s, where %s are free", in_words(needed), folder, in_words(free)
    )
    if needed > free:
        what = (
            f"The fit needs at least {in_words(needed)} in the scratch folder {scratch}, but only "
            f"{in_words(free)} are free{kind or ' there'}."
        )
        raise ScratchError(what, "Name a folder with more space, on a disk: scratch=...")


def _stored(columns: int) -> int:
    """Number of columns as they are stored, in whole chunks."""
    chunk = max(1, min(GENES_PER_BLOCK, columns))
    return -(-columns // chunk) * chunk
