"""Compiling inner loops by numba, and the exponentials that they need."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

# Sums may be taken in any order that suits the processor's vectors, as BLAS does. There are no NaN.
MATHS = {"contract", "nsz", "nnan", "arcp"}
SUMS = MATHS | {"reassoc"}
STRIP = 64  # values that are looked at together, a number known when loops are compiled


def compiled(maths: set[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile when first called; what is compiled is kept beside the module, or in the user's cache."""

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(nogil=True, fastmath=maths, cache=True)(function)
        except RuntimeError:  # neither can be written
            return njit(nogil=True, fastmath=maths)(function)

    return compile_


def exp_below(row: Any, top: Any, rate: Any, bits: Any) -> None:
    """Exponential of ``(top - value) * rate``, which is up to 0, of each value of a row, in place.

    `bits` is room for as many integers of their size.

    For compiled functions only. NumPy's takes three times as long on processors without AVX-512.
    """
    raise NotImplementedError


@overload(exp_below, jit_options={"fastmath": MATHS})
def _exp_below(row: Any, top: Any, rate: Any, bits: Any) -> Callable[..., None]:
    return _exp_single if row.dtype == types.float32 else _exp_double


def _exp_single(row: Any, top: Any, rate: Any, bits: Any) -> None:  # pragma: no cover
    """Moshier's polynomial (Cephes, expf); within 1.5e-7 of the result."""
    powers = bits.view(np.float32)
    for j in range(row.size):
        x = max((top - row[j]) * rate, np.float32(-88))  # whose power is 0
        k = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)
        r = (x - k * np.float32(0.693359375)) + k * np.float32(2.12194440e-4)
        p = np.float32(1.9875691500e-4)
        p = p * r + np.float32(1.3981999507e-3)
        p = p * r + np.float32(8.3334519073e-3)
        p = p * r + np.float32(4.1665795894e-2)
        p = p * r + np.float32(1.6666665459e-1)
        p = p * r + np.float32(5.0000001201e-1)
        row[j] = p * r * r + r + np.float32(1)
    for j in range(row.size):
        row[j] *= powers[j]


_TAYLOR = tuple(1 / factorial(n) for n in range(13, 1, -1))


def _exp_double(row: Any, top: Any, rate: Any, bits: Any) -> None:  # pragma: no cover
    """Taylor's polynomial over half a power of two; within 1.3e-15 of the result."""
    powers = bits.view(np.float64)
    for j in range(row.size):
        x = max((top - row[j]) * rate, -709.0)  # whose power is 0
        k = np.floor(x * 1.4426950408889634 + 0.5)
        bits[j] = (np.int64(k) + 1023) << 52
        r = (x - k * 0.693145751953125) - k * 1.42860682030941723e-06
        p = _TAYLOR[0]
        p = p * r + _TAYLOR[1]
        p = p * r + _TAYLOR[2]
        p = p * r + _TAYLOR[3]
        p = p * r + _TAYLOR[4]
        p = p * r + _TAYLOR[5]
        p = p * r + _TAYLOR[6]
        p = p * r + _TAYLOR[7]
        p = p * r + _TAYLOR[8]
        p = p * r + _TAYLOR[9]
        p = p * r + _TAYLOR[10]
        p = p * r + _TAYLOR[11]
        row[j] = p * r * r + r + 1.0
    for j in range(row.size):
        row[j] *= powers[j]


@compiled(MATHS)
def exp_in_place(values: Any, bits: Any) -> None:  # pragma: no cover
    """Exponential of values up to 0, shape ``(n_rows, n)``; `bits` is room for `n` integers of their size."""
    kind = values.dtype.type
    for i in range(values.shape[0]):
        exp_below(values[i], kind(0), kind(-1), bits)


@compiled(MATHS)
def least_of(row: Any, bits: Any) -> Any:  # pragma: no cover
    """Smallest of values of at least 0; `bits` is room for an integer of their size.

    Such values have the order of their bits, and integers a processor compares a vector at once.
    """
    whole = row.view(bits.dtype)
    least = whole[0]
    for j in range(whole.size):
        least = min(least, whole[j])
    bits[0] = least
    return bits[:1].view(row.dtype)[0]
