"""K along a contour: the moments of all releases at t + iu, for many u at once."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secfed.dp.contour.fourier_sums import ROUNDINGS, fourier_sums, transform_work
from secfed.dp.contour.moments import Releases
from secfed.dp.contour.nodes import Cut, Nodes
from secfed.dp.contour.path import ContourPath, frequencies
from secfed.dp.contour.privacy_loss import ROUNDOFF, Reals
from secfed.dp.contour.quadrature import grids

Complexes = npt.NDArray[np.complex128]
# Side of the blocks of a matrix product.
_TILE = 32
# Exponentials that fit in the processor's cache.
_CACHE = 1 << 16
# Of rows with consecutive counts, each 16th has an exponential of its own.
_STRIDE = 16
# A node with less than this part of the mass is left out of sums.
_NOTHING = 1e-32
# Smallest modulus of a release's moment, relative to its moment at u = 0.
_LEAST = 1e-7


@dataclass(frozen=True, slots=True)
class Cgf:
    """K along a contour, for some releases. The values of two compositions add up.

    Attributes:
        log: K(t).
        log_error: Bound on its rounding error, which all u share.
        mean: Mean of the tilted loss.
        exponent: K(t + iu) - K(t) - iu mean, at each u.
        error: Bound on its error at each u, from quadrature and rounding.
        tail: Bound on its real part for every u beyond the last; with a cut, of the Gaussian releases only.
        beyond: With a cut, log of the most that the parts beyond it add for those u.
    """

    log: float
    log_error: float
    mean: float
    exponent: Complexes = field(repr=False)
    error: Reals = field(repr=False)
    tail: float
    beyond: float | None = None

    def alone(self) -> "CgfRows":
        """Return it as a single row."""
        # An empty composition has nothing beyond a cut.
        beyond = None if self.beyond is None else -np.inf
        nothing = Cgf(0.0, 0.0, 0.0, np.zeros(1, np.complex128), np.zeros(1), 0.0, beyond)
        return nothing.plus(self, np.ones(1))

    def plus(self, other: "Cgf", times: Reals) -> "CgfRows":
        """Add another composition `times` times, `(rows,)`."""
        tail = self.tail + times * other.tail
        error = np.multiply.outer(times, other.error)
        error += self.error
        if self.beyond is not None and other.beyond is not None:
            tail += np.logaddexp(self.beyond, np.log(times) + other.beyond)
        return CgfRows(
            self.log + times * other.log,
            self.log_error + times * other.log_error,
            self.mean + times * other.mean,
            *_exponentials(self.exponent, other.exponent, times),
            error,
            tail,
        )


@dataclass(frozen=True, slots=True)
class CgfRows:
    """K of several compositions on one contour: the fields of `Cgf`, with a leading axis of rows.

    Attributes:
        factor: The exponential of `Cgf.exponent`.
        size: Modulus of `factor`.
    """

    log: Reals
    log_error: Reals
    mean: Reals
    factor: Complexes = field(repr=False)
    size: Reals = field(repr=False)
    error: Reals = field(repr=False)
    tail: Reals


def _exponentials(first: Complexes, each: Complexes, times: Reals) -> tuple[Complexes, Reals]:
    """Return exp(first + times * each) and its modulus, both of shape `(rows, frequencies)`."""

    def exp(exponent: Complexes) -> tuple[Complexes, Reals]:
        size = np.exp(exponent.real)
        return size * (1 + turned(exponent.imag)), size

    rows = len(times)
    if rows <= _STRIDE or not (np.diff(times) == 1).all():
        return exp(first + times[:, None] * each)
    # A product of two exponentials takes less time than another one.
    factor, size = exp(first + times[::_STRIDE, None] * each)
    ahead, shrunk = exp(np.arange(_STRIDE)[:, None] * each)
    factors, sizes = factor[:, None] * ahead, size[:, None] * shrunk
    return factors.reshape(-1, len(each))[:rows], sizes.reshape(-1, len(each))[:rows]


def evaluate(
    releases: Releases, path: ContourPath, tolerance: float, known_tail: float | None = None
) -> tuple[Cgf, Cgf | None]:
    """Evaluate K along a contour.

    Args:
        releases: The composition.
        path: Where the contour runs.
        tolerance: Target error of K.
        known_tail: `ContourPath.tail`, if the path was chosen for this composition.

    Returns:
        K of the whole, and with a cut K of the part below it, whose K(t) is relative to that of the whole.
    """
    at, across = frequencies(path)
    order, top, step = path.order, float(at[-1]), float(at[1])
    gaussian = releases.gaussian
    log, mean, log_error = gaussian * order * (order + 1) / 2, gaussian * (order + 0.5), 0.0
    whole = (-0.5 * gaussian * at**2).astype(np.complex128)
    error, error_below = np.zeros(len(at)), np.zeros(len(at))
    below, beyond, mass_below = whole.copy(), [-np.inf], 0.0
    # Without a known tail bound, start from that of the Gaussian releases; sampled ones are added below.
    tail = float(whole.real[-1]) if known_tail is None else known_tail
    for laws in releases.laws:
        for found in grids(laws, order, top, tolerance, stretch=path.stretch, rows=2 * across + 4):
            count = found.laws.count
            moment, center, _ = (row[0] for row in found.moments(np.array([order])))
            exponent = order * found.loss
            tilted = np.exp(found.mass + exponent - moment[:, None])
            centred = found.loss - center[:, None]
            log += float(moment @ count)
            mean += float(center @ count)
            if path.cut is None:
                wave, inexact = waves(tilted, centred, step, across)
                if known_tail is None:
                    tail += float(count @ found.decay(tilted, order, top))
            else:
                cut = Cut.at(found, path.cut, path.stretch)
                beyond.extend(np.log(count) + found.decay(tilted, order, top, cut))
                parts = tilted * (1 - cut.weight), tilted * cut.weight
                (wave_below, one), (wave_above, two) = (waves(part, centred, step, across) for part in parts)
                wave, inexact = wave_below + wave_above, one + two
            whole += np.einsum("i,ij->j", count, log1p(wave))
            lifted, each = _roundings(tilted, exponent, centred, inexact, at)
            each += _quadrature_error(found, top, order, path.stretch, moment)[:, None]
            log_error += float(count @ lifted)
            error += np.einsum("i,ij->j", count, np.log1p(relative(each, wave)))
            if path.cut is None:
                continue
            mass, above = (part.sum(axis=1) for part in parts)
            wave_below /= mass[:, None]
            # The masses sum to 1. If few lie beyond the cut, the difference from 1 keeps their digits.
            few = above < 0.5
            mass_below += float(count @ np.where(few, np.log1p(-np.minimum(above, 0.5)), np.log(mass)))
            below += np.einsum("i,ij->j", count, log1p(wave_below))
            error_below += np.einsum(
                "i,ij->j", count, np.log1p(relative((each + lifted[:, None]) / mass[:, None], wave_below))
            )
            error_below += 200 * ROUNDOFF * float(count @ np.where(few, 2 * above, 1.0))
    if path.cut is None:
        return Cgf(log, log_error, mean, whole, error, tail), None
    whole_of = Cgf(log, log_error, mean, whole, error, tail, float(np.logaddexp.reduce(beyond)))
    return whole_of, Cgf(mass_below, 0.0, 0.0, below, error_below, tail)


def _quadrature_error(found: Nodes, top: float, order: float, stretch: float, moment: Reals) -> Reals:
    """Bound the error of E[exp((t + iu) loss)] relative to E[exp(t loss)] for u up to the last; shape `(n,)`."""
    quadrature = found.discretization(order, top, stretch) + found.truncation(order, moment)
    return np.asarray(quadrature + found.discretization(order, top) if stretch > 1 else quadrature)


def _roundings(tilted: Reals, exponent: Reals, centred: Reals, inexact: Reals, at: Reals) -> tuple[Reals, Reals]:
    """Bound rounding errors of the moment at t, shape `(n,)`, and of the moments at each u relative to it.

    Probabilities have the relative errors of their exponents, t times the loss among them, and of the moment at t that
    they are divided by. An error that they have in common is in that moment alone.

    Args:
        tilted: Tilted probabilities, shape `(n, nodes)`.
        exponent: t times the loss, same shape.
        centred: Losses, same shape.
        inexact: Error of the sums in `waves`, shape `(n, frequencies)`.
        at: The frequencies.
    """
    lifted = np.minimum(2.0, (tilted * np.abs(np.expm1(np.minimum(-exponent, 700.0)))).sum(axis=1))
    sizes = tilted * np.abs(exponent)
    most, slope = 2 * sizes.sum(axis=1), (sizes * np.abs(centred)).sum(axis=1)
    each = np.minimum(most[:, None], slope[:, None] * at) * ROUNDOFF
    # `inexact` has at least 100 roundings of what differs from 1.
    each += inexact * (1 + 2 * lifted)[:, None]
    return 200 * ROUNDOFF * lifted, each


def waves(tilted: Reals, centred: Reals, step: float, across: int) -> tuple[Complexes, Reals]:
    """Return the sums of tilted * (exp(iu loss) - 1) at u = 0, step, 2 step, ..., and a bound on their error.

    Args:
        tilted: Masses, not negative, shape `(n, nodes)`.
        centred: Losses, same shape.
        step: Distance of the frequencies.
        across: Square root of their number.

    Returns:
        Both of shape `(n, across**2)`.
    """
    count, total = across**2, tilted.sum(axis=1)[:, None]
    # On one side of a cut, most nodes have hardly any mass.
    some = (tilted >= _NOTHING * total).any(axis=0)
    left_out = 2 * tilted[:, ~some].sum(axis=1)
    if not some.all():
        tilted, centred = tilted[:, some], centred[:, some]
    if tilted.shape[1] * count <= transform_work(tilted.shape[1], count):
        (sums, roundings), inexact = _products(tilted, centred, step, across), np.zeros(len(tilted))
    else:
        rows = [fourier_sums(*row, step, count) for row in zip(tilted, centred, strict=True)]
        sums, inexact = np.array([row for row, _ in rows]), np.array([error for _, error in rows])
        roundings = ROUNDINGS
    # The terms, and the exponentials they are made of, differ from 1 by at most this.
    moduli = np.minimum(2.0 * total, np.arange(count) * (step * (tilted * np.abs(centred)).sum(axis=1)[:, None]))
    return sums, (inexact + left_out)[:, None] + moduli * ((roundings + 100) * ROUNDOFF)


def _products(tilted: Reals, centred: Reals, step: float, across: int) -> tuple[Complexes, int]:
    """Return E[exp(iu loss)] - 1 under tilted probabilities at u = 0, step, 2 step, ...; shape `(n, across**2)`.

    exp(iu loss) - 1 for u = (a * across + b) * step is built from a few such factors by matrix products, which keep the
    small differences from 1. Also return the length of the longest chain of additions.
    """
    # Products of at most 32 x 32 x 32: BLAS uses one thread for these, and more threads cost more CPU time.
    tiles = -(-across // _TILE)
    tile = -(-across // tiles)
    wide, some = tiles * tile, _TILE**3 // tile**2
    mixed = np.zeros((len(tilted), tiles, tiles, tile, tile), np.complex128)
    alone = np.zeros((2, len(tilted), wide), np.complex128)
    # Few enough nodes at a time for the cache. Allocate once: allocating for each block takes longer than filling it.
    block = min(some * min(8, max(1, _CACHE // (len(tilted) * wide * some))), tilted.shape[1])
    turns = np.empty((2, len(tilted), wide, block), np.complex128)
    product = np.empty_like(mixed)
    for start in range(0, tilted.shape[1], block):
        loss, weight = centred[:, start : start + block], tilted[:, start : start + block]
        one = _turns(loss * step, turns[0, ..., : loss.shape[1]])
        two = _turns(loss * (across * step), turns[1, ..., : loss.shape[1]])
        two *= weight[:, None]
        for first in range(0, loss.shape[1], some):
            left, right = two[..., first : first + some], one[..., first : first + some]
            alone[0] += np.matmul(left, np.ones(left.shape[2]))
            alone[1] += np.matmul(right, weight[:, first : first + some, None])[..., 0]
            left = left.reshape(len(tilted), tiles, 1, tile, -1)
            right = right.reshape(len(tilted), 1, tiles, tile, -1).swapaxes(3, 4)
            mixed += np.matmul(left, right, out=product)
    whole = mixed.transpose(0, 1, 3, 2, 4).reshape(len(tilted), wide, wide)
    whole = whole + alone[0][:, :, None] + alone[1][:, None, :]
    return whole[:, :across, :across].reshape(len(tilted), -1), some + -(-tilted.shape[1] // some)


def log1p(wave: Complexes) -> Complexes:
    """Return log(1 + wave). NumPy's own takes the modulus first and loses a small real part."""
    x, y = wave.real, wave.imag
    result = np.empty(wave.shape, np.complex128)
    # A moment of 0 counts as `_LEAST`; `relative` bounds the error of that.
    result.real = 0.5 * np.log1p(np.maximum(x * (2 + x) + y * y, _LEAST**2 - 1))
    # The square of a small moment would be a difference of numbers near 1 and lose half the digits.
    small = x < -0.5
    result.real[small] = np.log(np.maximum(np.hypot(1 + x[small], y[small]), _LEAST))
    result.imag = np.arctan2(y, 1 + x)
    return result


def relative(each: Reals, wave: Complexes) -> Reals:
    """Return the error of 1 + wave relative to its size, or to `_LEAST` if the size is smaller."""
    size = np.abs(1 + wave)
    with np.errstate(over="ignore"):
        return np.asarray((each + 2 * _LEAST * (size < 2 * _LEAST)) / np.maximum(size, _LEAST))


def turned(angle: Reals) -> Complexes:
    """Return exp(i angle) - 1 without cancellation; the tangent of half the angle is faster than sine and cosine."""
    half, result = np.tan(angle / 2), np.empty(angle.shape, np.complex128)
    part = half * half
    part += 1
    np.divide(2 * half, part, out=part)
    result.imag = part
    part *= half
    np.negative(part, out=result.real)
    return result


def _turns(angle: Reals, result: Complexes) -> Complexes:
    """Fill in exp(i k angle) - 1 for k = 0, 1, ... without cancellation; `(n, count, nodes)`.

    Each step appends two turned copies of what is there. Doubling would take more calls of `turned`.
    """
    count, done = result.shape[1], 1
    result[:, 0] = 0.0
    while done < count:
        ahead, size = turned(angle * done)[:, None], done
        factor = 1 + ahead
        for start in (size, 2 * size):
            done = min(start + size, count)
            # (1 + before) (1 + ahead) - 1
            after = result[:, start:done]
            np.multiply(result[:, start - size : done - size], factor, out=after)
            after += ahead
    return result
