"""Compilation of inner loops by numba, and the folder in which it keeps the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from mnndask._library_state import exclusive
from mnndask.errors import warn

# Sums may be taken in the order that suits the processor's vector units, as in BLAS. Values are never NaN.
FAST_MATH = {"contract", "nsz", "nnan", "arcp"}
FAST_SUMS = FAST_MATH | {"reassoc"}
COMPILE_PATIENCE_SECONDS = 1.0  # whoever has the turn may wait for the thread that compiles
STRIP = 64  # values that are processed together: a constant, so that loops can be unrolled
_lost: set[str] = set()  # names of functions whose code cannot be kept


def compiled(maths: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function at its first call, and keep the code in ``NUMBA_CACHE_DIR``, if that is set.

    Otherwise it is kept beside the module, or else in the user's cache. Where none can be written, every
    process compiles anew.
    """

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            out = njit(nogil=True, fastmath=maths, cache=True)(function)
        except RuntimeError:  # no place is writable
            _lost.add(function.__name__)
            out = njit(nogil=True, fastmath=maths)(function)
        compile_unkept = out.compile

        def compile_alone(signature: Any) -> Any:
            try:
                with exclusive(COMPILE_PATIENCE_SECONDS):  # it changes filters of warnings
                    return compile_unkept(signature)
            except OSError:  # the disk is full, or the code of another process was removed
                _lost.add(function.__name__)
                return compile_unkept(signature)  # is compiled by now

        setattr(out, "compile", compile_alone)  # noqa: B010 - to the types, a method
        return out

    return compile_


def is_kept() -> bool:
    """Whether compiled code is kept for other processes."""
    return not _lost


def warn_of_loss() -> None:
    """Warn that compiled code is not kept."""
    what = "Compiled code cannot be kept: no folder of numba's cache can be written, or its disk is full."
    warn(what, "Until one can, every process compiles for up to 20 s. Name one: NUMBA_CACHE_DIR=FOLDER.")
