"""Compilation of inner loops by numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from mnndask._library_state import exclusive

# Sums may be taken in the order that suits the processor's vector units, as in BLAS. Values are never NaN.
FAST_MATH = {"contract", "nsz", "nnan", "arcp"}
FAST_SUMS = FAST_MATH | {"reassoc"}
COMPILE_PATIENCE_SECONDS = 1.0  # whoever has the turn may wait for the thread that compiles
STRIP = 64  # values that are processed together: a constant, so that loops can be unrolled


def compiled(maths: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function at its first call, and cache the code beside the module or in the user's cache."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            out = njit(nogil=True, fastmath=maths, cache=True)(function)
        except RuntimeError:  # neither place is writable
            out = njit(nogil=True, fastmath=maths)(function)
        compile_alone = exclusive(COMPILE_PATIENCE_SECONDS)(out.compile)  # it changes filters of warnings
        setattr(out, "compile", compile_alone)  # noqa: B010 - to the types, a method
        return out

    return compile_
