"""Clipped vectors to integer vectors of bounded Euclidean norm, the bound that noise on whole numbers is calibrated to.

Rounding each value at random lengthens a vector. Rounding is therefore repeated until the length is below a bound that
few roundings exceed. The bound then always holds: it is the sensitivity of a sum of such vectors.

Source: Kairouz, Liu, Steinke: The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation, ICML 2021, section 4.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto import prg
from secfed.errors import ConfigError, EncodingError

# Values processed at a time, so that temporaries stay in the cache.
_CHUNK = 1 << 15
_RANDOM_STEPS = 2.0**32
# Each try succeeds with a chance above 0.39, so all fail once in 10^13 vectors.
_TRIES = 64
# sqrt(2 ln(1/beta)) for the authors' beta = exp(-1/2).
_SLACK = 1.0
# Norms below 2^26 steps: sums of squares stay below 2^53 and are exact in float64, in any order of adding.
_LONGEST = 2.0**26
# Beyond these, squares of values that matter leave the range of float64.
_LEAST_NORM, _LARGEST_NORM = 1e-100, 1e100


def clip_by_norm(values: npt.NDArray[np.floating[Any]], clip_norm: float) -> npt.NDArray[np.float64]:
    """Scale a vector down to a Euclidean norm of at most `clip_norm`; shorter ones stay as they are.

    Args:
        values: Shape `(size,)`.
        clip_norm: From 1e-100 to 1e100.

    Returns:
        A new array of shape `(size,)`. Its exact norm does not exceed `clip_norm`. To ensure this, a vector may become
        shorter than needed, by a relative `(size + 8) * 2**-50`.

    Raises:
        ConfigError: `clip_norm` is out of range.
        EncodingError: A value is not finite, or the shape has not one dimension.
    """
    _check_clip_norm(clip_norm)
    if values.ndim != 1:
        raise EncodingError(f"values have shape {values.shape}, needed one dimension")
    clipped = values.astype(np.float64)
    # Rounding errors of a sum of squares in any order of adding, with room for those of the scaling.
    error = (clipped.size + 8) * 2.0**-52
    with np.errstate(over="ignore"):
        square = float(clipped @ clipped)
    scale = 1.0
    if not _LEAST_NORM**2 < square < _LARGEST_NORM**2:  # too large or small to square, or not finite, or zero
        largest = float(np.max(np.abs(clipped), initial=0.0))
        if not math.isfinite(largest):
            raise EncodingError(f"value {int(np.argmin(np.isfinite(clipped)))} is not finite")
        if largest < _LEAST_NORM / max(1, clipped.size):
            return clipped
        scale = largest
        clipped /= scale
        square = float(clipped @ clipped)
    norm = math.sqrt(square)
    if norm * scale * (1 + error) <= clip_norm:
        return values.astype(np.float64)
    clipped *= clip_norm / norm * (1 - 2 * error)
    return clipped


@dataclass(frozen=True, slots=True)
class Lattice:
    """How clipped vectors become vectors of whole steps; public, and the same for all clients of a sum.

    Args:
        step: Length of a step of the lattice, in the unit of the values.
        clip_norm: Largest Euclidean norm of a vector before rounding; from 1e-100 to 1e100.
        dimension: Number of coordinates.

    Raises:
        ConfigError: A parameter is out of range, or `clip_norm / step + sqrt(dimension)` exceeds 2^26.

    Security:
        A release's privacy depends only on `largest_square`. No returned vector exceeds it: this is checked exactly, on
        whole numbers. How evenly the 32-bit random words round affects only accuracy. The time taken shows how often a
        vector was rounded.

    >>> lattice = Lattice(step=0.001, clip_norm=1.0, dimension=4)
    >>> lattice.largest_square, round(lattice.sensitivity, 3)  # 1000^2 + 4/4 + 1000 + 1, and its root
    (1001002, 1000.501)
    >>> steps = lattice.round(np.array([0.25, -0.5, 0.0, 0.75]), seed=bytes(32))
    >>> steps.tolist(), lattice.decode(steps).tolist()
    ([250, -500, 0, 750], [0.25, -0.5, 0.0, 0.75])
    """

    step: float
    clip_norm: float
    dimension: int

    def __post_init__(self) -> None:
        _check_clip_norm(self.clip_norm)
        if self.dimension < 1:
            raise ConfigError(f"dimension {self.dimension} must be at least 1")
        if not 0 < self.step < math.inf:
            raise ConfigError(f"step {self.step} must be a positive finite number")
        if not self.clip_norm / self.step + math.sqrt(self.dimension) <= _LONGEST:
            found = f"step {self.step} for vectors of norm {self.clip_norm} and {self.dimension} coordinates"
            raise ConfigError(f"{found}: needed clip_norm / step + sqrt(dimension) of at most 2^26, a longer step")

    @property
    def largest_square(self) -> int:
        """Largest squared Euclidean norm of a rounded vector, in square steps; a whole number, at least 1."""
        # dp.noise.distributed calibrates with the same bound. Neither package imports the other; a test compares them.
        norm, root = self.clip_norm / self.step, math.sqrt(self.dimension)
        bound = min(norm**2 + self.dimension / 4 + _SLACK * (norm + root / 2), (norm + root) ** 2)
        return max(1, math.floor(bound))

    @property
    def sensitivity(self) -> float:
        """Largest Euclidean norm of a rounded vector, in steps."""
        return math.sqrt(self.largest_square)

    @property
    def sensitivity_l1(self) -> float:
        """Largest 1-norm of a rounded vector, in steps."""
        return min(math.sqrt(self.dimension) * self.sensitivity, float(self.largest_square))

    @property
    def context(self) -> bytes:
        """The text that binds a secure-aggregation session to these parameters."""
        spec = f"step={float(self.step).hex()} clip_norm={float(self.clip_norm).hex()} dimension={self.dimension}"
        return b"secfed/encoding/v1 " + spec.encode()

    def round(self, values: npt.NDArray[np.floating[Any]], *, seed: bytes) -> npt.NDArray[np.int64]:
        """Round a vector at random, without bias, again and again until its norm is within the bound.

        Any vector of norm up to `clip_norm` is within it at the first try with a chance above 0.39; vectors whose
        fractions are spread evenly, as after a rotation, nearly always. Should all tries fail, values are rounded
        towards zero, which makes no vector longer.

        Args:
            values: Shape `(dimension,)`; clipped to `clip_norm` if that has not been done (or if a rotation's rounding
                errors brought the norm above it).
            seed: 32 bytes that decide how values are rounded; secret, fresh for every vector.

        Returns:
            Whole steps, shape `(dimension,)`; the sum of their squares is at most `largest_square`.

        Raises:
            EncodingError: A value is not finite, or the shape is another.
        """
        if values.shape != (self.dimension,):
            raise EncodingError(f"values have shape {values.shape}, needed ({self.dimension},)")
        steps = clip_by_norm(values, self.clip_norm)
        steps /= self.step
        most = self.largest_square
        seeds = prg.keystream(seed, _TRIES * prg.SEED_BYTES)
        for start in range(0, len(seeds), prg.SEED_BYTES):
            rounded = _rounded(steps, seeds[start : start + prg.SEED_BYTES])
            if float(rounded @ rounded) <= most:
                return rounded.astype(np.int64)
        # The bound exceeds (clip_norm / step)^2 by more than the rounding errors of the division: no check is needed.
        return np.trunc(steps).astype(np.int64)

    def decode(self, total: npt.NDArray[np.signedinteger[Any]]) -> npt.NDArray[np.float64]:
        """Return the values of a sum of rounded vectors, already centred about 0; same shape."""
        return total * np.float64(self.step)


def _rounded(steps: npt.NDArray[np.float64], seed: bytes) -> npt.NDArray[np.float64]:
    """Round each value to one of its two neighbours, the nearer the likelier; whole numbers as float64."""
    random = prg.expand(seed, len(steps), np.uint32)
    rounded = np.empty_like(steps)
    for start in range(0, len(steps), _CHUNK):
        piece, floor = steps[start : start + _CHUNK], rounded[start : start + _CHUNK]
        np.floor(piece, out=floor)
        fraction = piece - floor
        fraction *= _RANDOM_STEPS
        floor += random[start : start + _CHUNK] < fraction
    return rounded


def _check_clip_norm(clip_norm: float) -> None:
    if not _LEAST_NORM <= clip_norm <= _LARGEST_NORM:
        raise ConfigError(f"clip_norm {clip_norm} must be from 1e-100 to 1e100")
