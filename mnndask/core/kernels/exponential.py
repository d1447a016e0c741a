"""Exponentials of values up to 0, compiled into the loops that use them."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from mnndask.core.kernels.jit import FAST_MATH, compiled


def exp_below(row: Any, top: Any, rate: Any, bits: Any) -> None:
    """Replace each value of a row by ``exp((top - value) * rate)``, whose exponent is at most 0.

    `bits` buffers as many integers of the values' size. For compiled functions only. NumPy's exponential
    takes three times as long on processors without AVX-512.
    """
    raise NotImplementedError


@overload(exp_below, jit_options={"fastmath": FAST_MATH})
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


@compiled(FAST_MATH)
def exp_in_place(values: Any, bits: Any) -> None:  # pragma: no cover
    """Exponential of values up to 0, shape ``(n_rows, n)``; `bits` buffers `n` integers of their size."""
    kind = values.dtype.type
    for i in range(values.shape[0]):
        exp_below(values[i], kind(0), kind(-1), bits)


@compiled(FAST_MATH)
def least_of(row: Any, bits: Any) -> Any:  # pragma: no cover
    """Smallest of values that are not negative; `bits` buffers an integer of their size.

    The bits of such values, read as integers, are in the same order, and a processor compares a whole vector
    of integers at once.
    """
    whole = row.view(bits.dtype)
    least = whole[0]
    for j in range(whole.size):
        least = min(least, whole[j])
    bits[0] = least
    return bits[:1].view(row.dtype)[0]
