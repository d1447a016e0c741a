"""Errors that users see: the first line says what is wrong with which input, the second what to do."""

from __future__ import annotations

import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnndask._library_state import exclusive
from mnndask._text import printable

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ClusterError",
    "GenesError",
    "InputError",
    "InputKeyError",
    "InputNotFoundError",
    "InputReadError",
    "InputTypeError",
    "MNNError",
    "NonFiniteError",
    "OutputError",
    "OutputExistsError",
    "RemoteError",
    "ResultTooLargeError",
    "ScratchError",
]


def __dir__() -> list[str]:
    return sorted(__all__)


class MNNError(Exception):
    """Base class of all errors that mnndask raises for users."""

    def __reduce__(self) -> tuple[type[MNNError], tuple[object, ...], dict[str, object]]:
        # OSError and MemoryError pickle differently; workers send pickled errors.
        return type(self), self.args, self.__dict__

    def __str__(self) -> str:
        # KeyError would print the repr of a two-line message. Each argument is one line, whatever it quotes.
        return "\n".join(map(printable, self.args))


class InputError(MNNError, ValueError):
    """A value is invalid: of an option, in the data, or in an annotation."""


class InputTypeError(MNNError, TypeError):
    """An object has a type that is not supported."""


class InputKeyError(MNNError, KeyError):
    """A name does not exist: of a column, layer, gene or batch."""


class GenesError(InputError):
    """The genes of the batches, or of new cells and of a fit, do not match, or have equal names."""


class NonFiniteError(InputError):
    """The data contain NaN or infinity.

    Attributes
    ----------
    genes
        Column numbers of the genes that have no finite value in any cell read; empty if only some cells are
        affected.
    where
        Batch and rows that were read.
    """

    genes: tuple[int, ...] = ()
    where: str = ""


class InputNotFoundError(MNNError, FileNotFoundError, ValueError):
    """A path does not exist, or the folder that an output or scratch data should be in."""


class InputReadError(InputError, OSError):
    """An input is damaged, cannot be read, or has changed since it was opened.

    Attributes
    ----------
    changed
        Whether the input has changed since it was opened.
    """

    changed: bool = False


class RemoteError(MNNError, OSError):
    """A location on another machine denies access or does not respond.

    Attributes
    ----------
    status
        HTTP status of the response, if there was one.
    """

    status: int | None = None


class ScratchError(MNNError, OSError):
    """A scratch folder cannot be used, or its contents were removed."""


class OutputExistsError(MNNError, FileExistsError, ValueError):
    """An output path is already in use: there is an output, or another run is writing one."""


class OutputError(MNNError, OSError):
    """An output could not be written completely."""


class ClusterError(MNNError, RuntimeError):
    """A cluster cannot run the computation, or the connection to it was lost."""


class ResultTooLargeError(MNNError, MemoryError):
    """A dense result would not fit in memory: raised before the work."""


KEPT = "The unfinished output is kept in"  # start of a note on the error that stopped a run
COMPLETE = "The output is complete:"  # or of another


def kept_notes(error: BaseException) -> list[str]:
    """Return the notes on an error that say where an output is, unfinished or complete."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith((KEPT, COMPLETE))]


def with_notes_of(error: BaseException, failure: MNNError) -> MNNError:
    """Copy the notes on unfinished outputs from `error` to `failure`, which replaces it; return `failure`."""
    for note in kept_notes(error):
        failure.add_note(note)
    return failure


def nonfinite(name: str, rows: NDArray[np.integer], genes: Iterable[int] = ()) -> NonFiniteError:
    """Error naming a batch and its first and last row with NaN or infinity, or genes affected in all rows."""
    first, last = int(rows.min()), int(rows.max())
    numbers = tuple(int(gene) for gene in genes)
    if numbers:
        where = f"{name}, in all of rows {first} to {last},"
        error = nonfinite_genes(where, [f"number {gene}" for gene in numbers])
        error.genes, error.where = numbers, where
        return error
    where = f"row {first}" if first == last else f"rows {first} to {last} ({len(rows)} of them)"
    what = f"{name} contains NaN or infinity in {where}."
    remedy = "Remove these cells, or replace the values (numpy.nan_to_num), before correcting."
    return NonFiniteError(what, remedy)


def nonfinite_genes(where: str, genes: Sequence[str]) -> NonFiniteError:
    """Error naming genes that have no finite value in any of the rows."""
    listed = ", ".join(genes[:5]) + (f" and {len(genes) - 5} more" if len(genes) > 5 else "")
    what = f"{where} contains NaN or infinity for gene {listed}."
    return NonFiniteError(what, "Remove these genes from all batches before correcting, or give them values.")


@contextmanager
def naming_genes(names: pd.Index | None) -> Iterator[None]:
    """Replace the numbers of genes in a :class:`NonFiniteError` by their names."""
    try:
        yield
    except NonFiniteError as error:
        if names is None or not error.genes:
            raise
        raise nonfinite_genes(error.where, [repr(str(names[gene])) for gene in error.genes]) from error


def too_long(
    name: str, lengths: NDArray[np.floating], longest: float, dtype: np.dtype[np.floating]
) -> InputError:
    """Error naming a batch with cells that are too long for the precision of the distances."""
    what = (
        f"batch {name!r} contains {int((lengths > longest).sum())} cell(s) of length up to "
        f"{lengths.max():.2g}, which is too large for distances in {dtype} (at most {longest:.2g})."
    )
    wider = ", or give them in float64" if dtype != np.float64 else ""
    remedy = f"Divide the values of all batches by one large number{wider}."
    return InputError(what, remedy)


def this_worker() -> str | None:
    """Address and host of the worker of a cluster on which this runs; None elsewhere."""
    distributed = sys.modules.get("distributed")  # not imported: no worker
    if distributed is None:
        return None
    try:
        address = distributed.get_worker().address
    except ValueError:
        return None
    return f"worker {address} on {socket.gethostname()}"


_repeated: ContextVar[bool] = ContextVar("mnndask_repeated", default=False)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Issue no warnings of mnndask, which has given them before."""
    token = _repeated.set(True)
    try:
        yield
    finally:
        _repeated.reset(token)


def warn(what: str, remedy: str) -> None:
    """Issue a warning of two lines that refers to the first calling line outside the package."""
    if _repeated.get():
        return
    frame, level, passed = sys._getframe(1), 2, {"mnndask", "contextlib"}
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in passed:
        frame, level = frame.f_back, level + 1
    message = f"{printable(what)}\n{printable(remedy)}"
    with exclusive():  # not while library code ignores warnings on another thread
        warnings.warn(message, UserWarning, stacklevel=level)


def first_line(error: BaseException) -> str:
    """First line of the message of an error, without a full stop; its type if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
