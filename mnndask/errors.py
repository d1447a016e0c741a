"""Errors that users meet: the first line says what was wrong with which input, the second what to do."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd


class MNNError(Exception):
    """Base of all errors that mnndask raises about its input."""

    def __reduce__(self) -> tuple[type[MNNError], tuple[object, ...], dict[str, object]]:
        # OSError's and MemoryError's own ways differ; errors travel from workers.
        return type(self), self.args, self.__dict__

    def __str__(self) -> str:
        # KeyError would print the repr of a two-line message.
        return "\n".join(str(a) for a in self.args)


class InputError(MNNError, ValueError):
    """A value that cannot be used."""


class InputTypeError(MNNError, TypeError):
    """An object of a kind that cannot be used."""


class InputKeyError(MNNError, KeyError):
    """A name that is not there."""


class GenesError(InputError):
    """Batches whose genes do not line up."""


class NonFiniteError(InputError):
    """NaN or infinity in the data.

    Attributes
    ----------
    genes
        Numbers of the genes for which no cell that was read has a value; none if it is cells that lack some.
    where
        What holds them.
    """

    genes: tuple[int, ...] = ()
    where: str = ""


class InputNotFoundError(MNNError, FileNotFoundError, ValueError):
    """A path to nothing."""


class InputReadError(InputError, OSError):
    """An input that is damaged, or cannot be read."""


class RemoteError(MNNError, OSError):
    """A place on another machine that denies access, or does not answer."""


class ScratchError(MNNError, OSError):
    """A scratch folder that cannot be used, or has lost what was put there."""


class OutputExistsError(MNNError, FileExistsError, ValueError):
    """An output path that is taken."""


class OutputError(MNNError, OSError):
    """An output that could not be written to its end."""


class ClusterError(MNNError, RuntimeError):
    """A cluster that cannot do the work, or was lost."""


class ResultTooLargeError(MNNError, MemoryError):
    """A dense result that would not fit in memory."""


KEPT = "The unfinished output is kept in"  # how the note begins that is put on what stopped a run


def kept_notes(error: BaseException) -> list[str]:
    """Notes on an error that say what is left of the output."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith(KEPT)]


def with_notes_of(error: BaseException, failure: MNNError) -> MNNError:
    """An error that is raised in place of another, which had such notes."""
    for note in kept_notes(error):
        failure.add_note(note)
    return failure


def nonfinite(name: str, rows: NDArray[np.integer], genes: Iterable[int] = ()) -> NonFiniteError:
    """Name the batch and the first and last of its rows that are not finite, or genes that are so in all."""
    first, last = int(rows.min()), int(rows.max())
    numbers = tuple(int(gene) for gene in genes)
    if numbers:
        where = f"{name}, in all of rows {first} to {last},"
        error = nonfinite_genes(where, [f"number {gene}" for gene in numbers])
        error.genes, error.where = numbers, where
        return error
    where = f"row {first}" if first == last else f"rows {first} to {last} ({len(rows)} of them)"
    what = f"{name} holds NaN or infinity in {where}."
    remedy = "Remove these cells, or replace the values (numpy.nan_to_num), before correcting."
    return NonFiniteError(what, remedy)


def nonfinite_genes(where: str, genes: Sequence[str]) -> NonFiniteError:
    """Name genes for which no cell there has a value."""
    listed = ", ".join(genes[:5]) + (f" and {len(genes) - 5} more" if len(genes) > 5 else "")
    what = f"{where} holds NaN or infinity for gene {listed}."
    return NonFiniteError(what, "Remove these genes from all batches before correcting, or give them values.")


@contextmanager
def naming_genes(names: pd.Index | None) -> Iterator[None]:
    """Call genes by their names in an error that knows their numbers."""
    try:
        yield
    except NonFiniteError as error:
        if names is None or not error.genes:
            raise
        raise nonfinite_genes(error.where, [repr(str(names[gene])) for gene in error.genes]) from error


def too_long(
    name: str, lengths: NDArray[np.floating], longest: float, dtype: np.dtype[np.floating]
) -> InputError:
    """Name the batch whose cells are longer than a precision allows to compute with."""
    what = (
        f"batch {name!r} holds {int((lengths > longest).sum())} cell(s) of length up to {lengths.max():.2g}, "
        f"which is too much for distances in {dtype} (at most {longest:.2g})."
    )
    wider = ", or give them in float64" if dtype != np.float64 else ""
    remedy = f"Divide the values of all batches by one large number{wider}."
    return InputError(what, remedy)


def warn(message: str) -> None:
    """Warn of the line outside the package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "mnndask":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)
