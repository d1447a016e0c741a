"""Checks of inputs that are already open: sparse matrices whose parts agree, and shapes that match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mnndask.errors import InputError, InputReadError
from mnndask.stores.read_errors import WRITE_AGAIN

COMPRESSED = {"csr", "csc", "bsr"}


def check_sparse(X: Any, label: str) -> None:
    """Refuse a sparse matrix in memory whose parts disagree.

    Raises
    ------
    InputError
        If they do; the message says how.
    """
    problem = sparse_problem(X)
    if problem is not None:
        what = f"{label} is an inconsistent sparse matrix: {problem}."
        raise InputError(what, "Create it again; if it only has unused values at its end, call its prune().")


def sparse_problem(X: Any) -> str | None:
    """How the parts of a sparse matrix disagree, or None. Compiled code would follow them out of memory."""
    try:
        if X.format in COMPRESSED:  # a new matrix, as the check trims arrays
            parts = X.data, X.indices, X.indptr
            type(X)(parts, shape=X.shape).check_format(full_check=True)
            n_values = len(X.data), len(X.indices)
            if n_values != (X.indptr[-1],) * 2:
                return f"indptr ends at {X.indptr[-1]}, but {n_values[0]} values are stored"
        elif X.format == "coo":
            type(X)((X.data, (X.row, X.col)), shape=X.shape)
    except ValueError as error:
        return str(error)
    return None


def check_shape(found: Sequence[int] | None, expected: tuple[int, int], name: str, label: str) -> None:
    """Refuse a stored matrix that has another shape than its tables, before anything is allocated for it.

    Raises
    ------
    InputReadError
        If the shapes differ.
    """
    if found is not None and len(found) == 2 and tuple(found) != expected:
        shape = " x ".join(f"{n:,}" for n in found)
        what = (
            f"{label} is damaged: {name} declares {shape} values, for {expected[0]:,} cells (obs) and "
            f"{expected[1]:,} genes (var)."
        )
        raise InputReadError(what, WRITE_AGAIN)
