"""Errors that users meet: the first line says what was wrong with which input, the second what to do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class MNNError(Exception):
    """Base of all errors that mnndask raises about its input."""

    def __reduce__(self) -> tuple[type[MNNError], tuple[object, ...]]:
        # OSError's and MemoryError's own ways differ; errors travel from workers.
        return type(self), self.args

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
    """NaN or infinity in the data."""


class InputNotFoundError(MNNError, FileNotFoundError, ValueError):
    """A path to nothing."""


class InputReadError(InputError, OSError):
    """An input that is damaged, or cannot be read."""


class ScratchError(MNNError, OSError):
    """A scratch folder that cannot be used, or has lost what was put there."""


class OutputExistsError(MNNError, FileExistsError, ValueError):
    """An output path that is taken."""


class OutputError(MNNError, OSError):
    """An output that could not be written to its end."""


class ResultTooLargeError(MNNError, MemoryError):
    """A dense result that would not fit in memory."""


def nonfinite(name: str, rows: NDArray[np.integer]) -> NonFiniteError:
    """Name the batch and the first and last of its rows that are not finite."""
    first, last = int(rows.min()), int(rows.max())
    where = f"row {first}" if first == last else f"rows {first} to {last} ({len(rows)} of them)"
    what = f"{name} holds NaN or infinity in {where}."
    remedy = "Remove these cells, or replace the values (numpy.nan_to_num), before correcting."
    return NonFiniteError(what, remedy)
