"""Compilation of inner loops by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums may be taken in the order that suits the processor's vector units, as in BLAS. Values are never NaN.
FAST_MATH = {"contract", "nsz", "nnan", "arcp"}
FAST_SUMS = FAST_MATH | {"reassoc"}
STRIP = 64  # values that are processed together: a constant, so that loops can be unrolled


def compiled(maths: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function at its first call, and cache the code beside the module or in the user's cache."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(nogil=True, fastmath=maths, cache=True)(function)
        except RuntimeError:  # neither place is writable
            return njit(nogil=True, fastmath=maths)(function)

    return compile_
