"""Arithmetic modulo p = 2^31 - 1 on numpy `uint64` arrays.

Products of two elements fit 62 bits, and 2^31 = 1 modulo p, so reduction is a shift and an addition. Not constant-time:
numpy's integer operations take the same time for all values on common processors, but nothing here promises it.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

P: Final = (1 << 31) - 1

Elements = npt.NDArray[np.uint64]
_SHIFT = np.uint64(31)
_P = np.uint64(P)
# Sums of 2^20 products of 16-bit halves stay below 2^53: exact in float64.
_EXACT_TERMS = 1 << 20


def reduce(values: Elements) -> Elements:
    """Reduce an array of any `uint64` values to `[0, p)`."""
    folded = values >> _SHIFT
    folded += values & _P
    high = folded >> _SHIFT
    folded &= _P
    folded += high
    return _below_p(folded)


def multiply(left: Elements, right: Elements) -> Elements:
    """Return `left * right`; both in `[0, p)`, at least one an array."""
    values = left * right
    folded = values >> _SHIFT
    values &= _P
    folded += values
    return _below_p(folded)


def _below_p(values: Elements) -> Elements:
    """Subtract p in place from values in [p, 2p). Smaller values stay: their difference wraps to a huge number."""
    np.minimum(values, values - _P, out=values)
    return values


def add(left: Elements, right: Elements) -> Elements:
    """Return `left + right`; both in `[0, p)`."""
    total: Elements = left + right
    return _below_p(total)


def subtract(left: Elements, right: Elements) -> Elements:
    """Return `left - right`; both in `[0, p)`."""
    return _below_p(left + (_P - right))


def power(values: Elements, exponent: int) -> Elements:
    """Raise elements to a public exponent."""
    result = np.ones_like(values)
    square = values
    while exponent:
        if exponent & 1:
            result = multiply(result, square)
        square = multiply(square, square)
        exponent >>= 1
    return result


def inverse(values: Elements) -> Elements:
    """Return the multiplicative inverses (of 0: 0)."""
    return power(values, P - 2)


def product(values: Elements) -> Elements:
    """Multiply along the last axis."""
    while values.shape[-1] > 1:
        half = values.shape[-1] // 2
        pairs = multiply(values[..., :half], values[..., half : 2 * half])
        values = np.concatenate((pairs, values[..., 2 * half :]), axis=-1)
    return values[..., 0]


def powers(points: Elements, count: int) -> Elements:
    """Return `points**1 .. points**count` as rows, shape `(len(points), count)`."""
    table = np.empty((count, len(points)), np.uint64)
    table[:1] = points
    known = 1
    # Doubling: powers m+1..2m are powers 1..m times the m-th power.
    while known < count:
        step = min(known, count - known)
        table[known : known + step] = multiply(table[:step], table[known - 1])
        known += step
    return table.T


def matmul(left: Elements, right: Elements) -> Elements:
    """Multiply matrices of elements.

    numpy multiplies integer matrices slowly. So elements are split into 16-bit halves, whose products are exact in
    float64, where the linear algebra library does the work.

    Args:
        left: Shape `(rows, inner)`, `inner` at most 2^20.
        right: Shape `(inner, columns)`.

    Returns:
        Shape `(rows, columns)`.
    """
    if left.shape[1] > _EXACT_TERMS:
        raise ValueError(f"{left.shape[1]} inner terms are not exact in float64, {_EXACT_TERMS} are")
    half = np.uint64(16)
    low_bits = np.uint64(0xFFFF)
    left_low, left_high = (left & low_bits).astype(np.float64), (left >> half).astype(np.float64)
    right_low, right_high = (right & low_bits).astype(np.float64), (right >> half).astype(np.float64)
    low = (left_low @ right_low).astype(np.uint64)
    middle = (left_low @ right_high + left_high @ right_low).astype(np.uint64)
    high = (left_high @ right_high).astype(np.uint64)
    # 2^32 = 2 modulo p.
    return reduce(reduce(low) + (reduce(middle) << half) + (reduce(high) << np.uint64(1)))
