"""Compilation of the loops that a fit needs, before it begins: a stage of its own, the first time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np
from numba import types
from numba.core import event

from mnndask._progress import advance, stage
from mnndask.core.kernels import csr_rows, few_dims, jit, nearest, pairs, quantiles, refinement
from mnndask.core.kernels.exponential import exp_in_place
from mnndask.core.kernels.few_dims import MOST_DIMS

Signature: TypeAlias = tuple[Any, ...]
_done: set[tuple[str, bool, bool, bool, bool]] = set()  # what this process has loaded or compiled


def compile_ahead(dtype: np.dtype, n_dims: int, *, var_adj: bool, sparse: bool, refine: bool = False) -> None:
    """Load, or compile, the loops that a fit calls. There is a stage only if any has to be compiled.

    Parameters
    ----------
    dtype
        Of the cells: single or double precision.
    n_dims
        Number of genes, or components, in which distances are computed.
    var_adj
        Whether the variance is adjusted.
    sparse
        Whether cells are projected as sparse rows, to be drawn.
    refine
        Whether pairs are refined.
    """
    few = n_dims <= MOST_DIMS
    asked = str(dtype), var_adj, few, sparse, refine
    if asked in _done:
        return
    loops = list(_needed(dtype, var_adj=var_adj, few=few, sparse=sparse, refine=refine))
    with ExitStack() as stages:
        opened = _FirstCompilation(lambda: stages.enter_context(stage(_title(), len(loops), "functions")))
        with event.install_listener("numba:compile", opened):
            for loop, signature in loops:
                loop.compile(signature)
                advance(1 if opened.seen else 0)
    if opened.seen and not jit.is_kept():
        jit.warn_of_loss()
    _done.add(asked)


def _title() -> str:
    return f"compiling, {'once per installation' if jit.is_kept() else 'in every process'}"


class _FirstCompilation(event.Listener):
    """Calls a function when this thread compiles for the first time, rather than loads."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function, self.thread, self.seen = function, threading.get_ident(), False

    def on_start(self, _: Any) -> None:
        """Call the function."""
        if not self.seen and threading.get_ident() == self.thread:
            self.seen = True
            self.function()

    def on_end(self, _: Any) -> None:
        """Do nothing."""


def _needed(
    dtype: np.dtype, *, var_adj: bool, few: bool, sparse: bool, refine: bool = False
) -> Iterator[tuple[Any, Signature]]:
    """Yield loops, and the types that they are called with. The longest to compile come last."""
    # Where single precision leaves doubt, double decides.
    precisions = [np.dtype(dtype)] if dtype == np.float64 else [np.dtype(dtype), np.dtype(np.float64)]
    last: list[tuple[Any, Signature]] = []
    for precision in precisions:
        if sparse:
            yield from _of_sparse_rows(precision)
        yield from _of_neighbours(precision)
        if refine:
            yield from _of_refinement(precision)
        if var_adj:
            *first, longest = _of_variance(precision, few=few)
            yield from first
            last.append(longest)
    yield from last


def _types(dtype: np.dtype) -> tuple[Any, Any, Any, Any]:
    """Types of a value, a vector, a matrix, and of a vector of integers of the same size."""
    value = types.float32 if dtype == np.float32 else types.float64
    integer = types.int32 if dtype == np.float32 else types.int64
    return value, value[::1], value[:, ::1], integer[::1]


DOUBLES, FLAGS, NUMBERS = types.float64[::1], types.boolean[::1], types.intp[:, ::1]


def _of_sparse_rows(dtype: np.dtype) -> Iterator[tuple[Any, Signature]]:
    _, vector, _, _ = _types(dtype)
    matrix, indices = types.float64[:, ::1], types.int32[::1]
    yield csr_rows.csr_row_norms, (vector, indices, DOUBLES)
    yield csr_rows.project_rows, (vector, indices, indices, matrix, matrix)


def _of_neighbours(dtype: np.dtype) -> Iterator[tuple[Any, Signature]]:
    value, vector, matrix, bits = _types(dtype)
    for layout in (matrix, value[::1, :]):  # some genes of all are in the other
        yield pairs.dots_of_rows, (layout, layout, DOUBLES)
    yield exp_in_place, (matrix, bits)
    kept = (matrix, NUMBERS, matrix, NUMBERS)
    yield nearest.keep_smallest, (matrix, vector, vector, types.intp, *kept, vector)
    yield nearest.keep_nearest, (matrix, vector, vector, types.intp, matrix, NUMBERS)
    sums = (vector, DOUBLES, DOUBLES)
    yield pairs.weigh_by_distance, (matrix, vector, vector, value, vector, vector, *sums[1:], bits)


def _of_refinement(dtype: np.dtype) -> Iterator[tuple[Any, Signature]]:
    _, _, matrix, _ = _types(dtype)
    yield refinement.add_members, (matrix, types.intp, types.int32[:, ::1], types.float64[:, ::1])
    yield refinement.sum_squared_weights, (matrix, types.intp[::1], types.int32[::1], DOUBLES)


def _of_variance(dtype: np.dtype, *, few: bool) -> Iterator[tuple[Any, Signature]]:
    value, vector, matrix, bits = _types(dtype)
    norms = (vector, vector, vector, value)
    yield pairs.weigh_by_lines, (matrix, matrix, types.boolean, *norms, vector, bits)
    if few:
        yield few_dims.pack, (matrix, matrix)
        sides = (matrix, matrix, matrix)
        yield few_dims.weigh_by_lines_in_few_dims, (*sides, *norms, matrix, matrix, vector, bits)
    if dtype == np.float32:
        yield pairs.settle_small, (matrix, value, DOUBLES, matrix, matrix, matrix)
    yield pairs.sum_weights, (matrix, matrix, value, value, DOUBLES, DOUBLES, FLAGS)
    yield quantiles.weighted_quantiles_of, (matrix, matrix, DOUBLES, types.float64, DOUBLES, FLAGS)
