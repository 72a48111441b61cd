"""Shamir sharing of 32-byte secrets over the field of p = 2^31 - 1, for many secrets at once.

A secret is 9 limbs of 30 bits, each shared by its own polynomial; a share is 9 field elements, 36 bytes. The holder's
client id is the coordinate.

Source: Shamir, *How to Share a Secret*, 1979; error correction: Gao, *A New Algorithm for Decoding Reed-Solomon Codes*,
2003.
"""

import secrets
from typing import Final

import numpy as np
import numpy.typing as npt

from secfed.crypto import field
from secfed.crypto.entropy import Entropy
from secfed.crypto.field import Elements

SECRET_BYTES: Final = 32
LIMBS: Final = 9
SHARE_BYTES: Final = 4 * LIMBS
_LIMB_BITS = 30
# One word in 2^31 is rejected; sixteen spare ones never run out.
_SPARE_WORDS = 16
# Rows of the difference matrix that are built at a time, to limit memory with thousands of holders.
_BLOCK_ELEMENTS = 1 << 21


def split(secret: bytes, threshold: int, points: npt.NDArray[np.integer], coefficients: Elements) -> Elements:
    """Split one or more secrets among holders.

    Args:
        secret: One or more 32-byte secrets, one after the other.
        threshold: How many shares are needed to recover the secret.
        points: Coordinates, shape `(holders,)`, distinct, in `[1, p)`.
        coefficients: Uniform elements, shape `(threshold - 1, 9 * secrets)`, from `draw_coefficients`.

    Returns:
        Shares, shape `(holders, 9 * secrets)`.

    Security:
        Fewer than `threshold` shares reveal nothing about a secret.
    """
    table = field.powers(points.astype(np.uint64), threshold - 1)
    products: Elements = field.matmul(table, coefficients)
    return field.add(products, to_limbs(secret))


def draw_coefficients(entropy: Entropy, threshold: int, count: int) -> Elements:
    """Draw exactly uniform elements for `split`, by rejection; shape `(threshold - 1, 9 * count)`."""
    needed = (threshold - 1) * LIMBS * count
    words = np.frombuffer(entropy.draw("shares", 4 * (needed + _SPARE_WORDS)), "<u4") & np.uint32(field.P)
    accepted = words[words != field.P][:needed]
    if len(accepted) < needed:
        raise RuntimeError("the random source returns one value again and again")
    coefficients: Elements = accepted.astype(np.uint64).reshape(threshold - 1, LIMBS * count)
    return coefficients


def lagrange_weights(points: Elements) -> Elements:
    """Return the weights that combine shares at these coordinates.

    Args:
        points: Coordinates, shape `(..., threshold)`, distinct along the last axis.

    Returns:
        Weights of the same shape: the secret is the weighted sum of the shares.
    """
    count = points.shape[-1]
    if points.ndim == 1 and count * count > _BLOCK_ELEMENTS:
        rows = max(1, _BLOCK_ELEMENTS // count)
        parts = [_denominators(points, slice(start, start + rows)) for start in range(0, count, rows)]
        denominators = np.concatenate(parts)
    else:
        denominators = _denominators(points, slice(None))
    return field.multiply(field.product(points)[..., None], field.inverse(denominators))


def _denominators(points: Elements, rows: slice) -> Elements:
    """Return `x_i * prod_{j != i} (x_j - x_i)` for the given rows i."""
    own = points[..., rows]
    differences = field.subtract(points[..., None, :], own[..., :, None])
    # A row's only zero is its difference with itself. It becomes x_i, because the numerator lacks this factor.
    return field.product(np.where(differences == 0, own[..., :, None], differences))


def combine(weights: Elements, shares: Elements) -> Elements:
    """Combine shares to limbs.

    Args:
        weights: From `lagrange_weights`, shape `(..., threshold)`.
        shares: Shape `(..., threshold, 9)`.

    Returns:
        Limbs, shape `(..., 9)`.
    """
    return field.reduce(field.multiply(weights[..., None], shares).sum(axis=-2, dtype=np.uint64))


def to_limbs(secret: bytes) -> Elements:
    """Cut 32-byte secrets into limbs, shape `(9 * secrets,)`."""
    numbers = [int.from_bytes(secret[i : i + SECRET_BYTES], "little") for i in range(0, len(secret), SECRET_BYTES)]
    mask = (1 << _LIMB_BITS) - 1
    return np.array([number >> _LIMB_BITS * i & mask for number in numbers for i in range(LIMBS)], np.uint64)


def from_limbs(limbs: Elements) -> bytes | None:
    """Join 9 limbs to the secret; None if they are not those of a secret (the shares did not belong together)."""
    number = 0
    for i, limb in enumerate(limbs.tolist()):
        if limb >> _LIMB_BITS:
            return None
        number |= limb << _LIMB_BITS * i
    return None if number >> 8 * SECRET_BYTES else number.to_bytes(SECRET_BYTES, "little")


def shares_to_bytes(shares: Elements) -> bytes:
    """Encode shares, 4 bytes an element."""
    return shares.astype("<u4").tobytes()


def shares_from_bytes(data: bytes) -> Elements | None:
    """Decode shares, shape `(shares, 9)`; None if an element is not below p."""
    words = np.frombuffer(data, "<u4")
    return None if (words >= field.P).any() else words.astype(np.uint64).reshape(-1, LIMBS)


def find_wrong(points: Elements, shares: Elements, threshold: int) -> npt.NDArray[np.bool_] | None:
    """Find the shares that do not lie on the polynomials of the others.

    Args:
        points: Coordinates, shape `(holders,)`.
        shares: Shape `(holders, 9)`.
        threshold: How many shares determine the polynomials.

    Returns:
        True where a share is wrong, shape `(holders,)`; None if more than `(holders - threshold) // 2` are wrong, so
        that no holder can be named.
    """
    # If any limb is wrong, one random combination of the limbs is wrong too, except with probability 2^-31. The final
    # check of the secret catches that case.
    mixing = np.array([secrets.randbelow(field.P - 1) + 1 for _ in range(shares.shape[1])], np.uint64)
    values = field.reduce(field.multiply(shares, mixing).sum(axis=1, dtype=np.uint64))
    polynomial = _decode(points, values, threshold)
    if polynomial is None:
        return None
    wrong = _evaluate(polynomial, points) != values
    return None if int(wrong.sum()) > (len(points) - threshold) // 2 else wrong


def _decode(points: Elements, values: Elements, threshold: int) -> Elements | None:
    """Decode a Reed-Solomon word to its polynomial (lowest coefficient first), or None."""
    vanishing = np.ones(1, np.uint64)
    interpolant = np.zeros(1, np.uint64)
    for i in range(len(points)):  # Newton interpolation: one more point in each step
        point = points[i : i + 1]
        missing = field.subtract(values[i : i + 1], _evaluate(interpolant, point))
        scale = field.multiply(missing, field.inverse(_evaluate(vanishing, point)))
        interpolant = _add(interpolant, field.multiply(vanishing, scale))
        shifted = np.concatenate((np.zeros(1, np.uint64), vanishing))
        vanishing = _add(shifted, field.multiply(vanishing, field.P - point))
    older, newer = vanishing, _trim(interpolant)
    locator_older, locator = np.zeros(1, np.uint64), np.ones(1, np.uint64)
    while 2 * (len(newer) - 1) >= len(points) + threshold and newer.any():
        quotient, rest = _divide(older, newer)
        older, newer = newer, rest
        locator_older, locator = (
            locator,
            _add(locator_older, field.subtract(np.zeros(1, np.uint64), _multiply(quotient, locator))),
        )
    polynomial, rest = _divide(newer, _trim(locator))
    return polynomial if not rest.any() and len(_trim(polynomial)) <= threshold else None


def _evaluate(polynomial: Elements, points: Elements) -> Elements:
    if len(points) == 1 and len(polynomial) > 1:
        terms = field.multiply(field.powers(points, len(polynomial) - 1)[0], polynomial[1:])
        return field.reduce(polynomial[:1] + terms.sum(dtype=np.uint64))
    result = np.zeros_like(points)
    for coefficient in polynomial[::-1]:
        result = field.reduce(result * points + coefficient)
    return result


def _trim(polynomial: Elements) -> Elements:
    degrees = np.flatnonzero(polynomial)
    return polynomial[: degrees[-1] + 1 if len(degrees) else 1]


def _add(left: Elements, right: Elements) -> Elements:
    result = np.zeros(max(len(left), len(right)), np.uint64)
    result[: len(left)] += left
    result[: len(right)] += right
    return field.reduce(result)


def _multiply(left: Elements, right: Elements) -> Elements:
    result = np.zeros(len(left) + len(right) - 1, np.uint64)
    for i in range(len(left)):
        result[i : i + len(right)] += field.multiply(right, left[i : i + 1])
        result = field.reduce(result)
    return result


def _divide(dividend: Elements, divisor: Elements) -> tuple[Elements, Elements]:
    rest = _trim(dividend).copy()
    size = len(divisor)
    if len(rest) < size:
        return np.zeros(1, np.uint64), rest
    quotient = np.zeros(len(rest) - size + 1, np.uint64)
    lead = field.inverse(divisor[-1:])
    for i in range(len(quotient) - 1, -1, -1):
        quotient[i : i + 1] = field.multiply(rest[i + size - 1 : i + size], lead)
        rest[i : i + size] = field.subtract(rest[i : i + size], field.multiply(divisor, quotient[i : i + 1]))
    return quotient, _trim(rest)
