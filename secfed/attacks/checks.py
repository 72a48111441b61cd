"""Checks of the noise as a whole, of stretches of it, of its freshness, and of the clip."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from secfed.attacks.canary_rounds import Round

Array = npt.NDArray[np.float64]

# An error as large as the resolution is missed at most this often.
MISSED = 1e-3


@dataclass(frozen=True, slots=True)
class Check:
    """One number compared with the claim.

    Attributes:
        name: What was checked; see `self_audit`.
        found: The number found; of several, the most extreme one.
        low: Its lower limit.
        high: Its upper limit.
        meaning: What the number is.
    """

    name: str
    found: float
    low: float
    high: float
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the number is within the limits."""
        return self.low <= self.found <= self.high


def by_parts(seen: list[Round], parts: int) -> Array:
    """Return the stretches of all rounds, one a row; the few coordinates after the last whole stretch are left out."""
    width = len(seen[0].rest) // parts
    return np.concatenate([each.rest[: parts * width].reshape(parts, width) for each in seen])


def noise(seen: list[Round], slack: float, share: float) -> tuple[Check, float]:
    """Compare the variance over all coordinates and rounds with the claimed one.

    Args:
        seen: All rounds.
        slack: Most by which rounding may multiply the standard deviation.
        share: Probability of a false alarm.

    Returns:
        The check, and the resolution: see `SelfAudit.noise_resolution`.
    """
    half = sum(each.freedom for each in seen) / 2
    found = math.sqrt(sum(float(each.rest @ each.rest) for each in seen) / (2 * half))
    low = math.sqrt(special.gammaincinv(half, share / 2) / half)
    high = slack * math.sqrt(special.gammainccinv(half, share / 2) / half)
    largest = math.sqrt(special.gammainccinv(half, MISSED) / half)
    return Check("noise", found, low, high, "standard deviation of the noise / claimed"), 1 - low / largest


def noise_of_parts(seen: list[Round], parts: int, slack: float, share: float) -> Check:
    """Split each round into this many stretches, and compare the variance in each with the claimed one."""
    halves = np.repeat([each.part_freedom / 2 for each in seen], parts)
    stretches = by_parts(seen, parts)
    found = np.sqrt(np.einsum("ij,ij->i", stretches, stretches) / (2 * halves))
    error = share / (2 * len(found))
    low = np.sqrt(special.gammaincinv(halves, error) / halves)
    high = slack * np.sqrt(special.gammainccinv(halves, error) / halves)
    meaning = "standard deviation of the noise in a stretch / claimed"
    return _farthest("noise_of_parts", found, low, high, meaning)


def fresh(name: str, what: str, rows: Array, freedom: int, share: float) -> Check:
    """Compare all pairs: given one row, the other's direction is uniform in at least `freedom` dimensions.

    The cosine c of a uniform direction with a fixed one obeys: 1 - c^2 is Beta((freedom - 1) / 2, 1/2). A fixed one
    that is partly outside of those dimensions only makes it smaller.
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows / np.where(norms > 0, norms, 1.0)) @ rows.T / np.where(norms > 0, norms, 1.0).T
    pairs = cosines[np.triu_indices(len(rows), 1)]
    found = float(pairs[np.argmax(np.abs(pairs))]) if len(pairs) else 0.0
    limit = math.sqrt(1 - special.betaincinv((freedom - 1) / 2, 0.5, share / max(len(pairs), 1)))
    return Check(name, found, -limit, limit, f"largest cosine between the noise of two {what}")


def clip(name: str, seen: list[Round], canary: float, slack: float, share: float) -> tuple[Check, float]:
    """Fit the norm of all contributions at once.

    Args:
        name: Name of the check.
        seen: All rounds.
        canary: The claimed norm in units of the noise.
        slack: Most by which rounding may multiply the standard deviation of the noise.
        share: Probability of a false alarm, at most.

    Returns:
        The check, and the resolution: see `SelfAudit.clip_resolution`.
    """
    signal = sum(float(each.weights @ each.weights) for each in seen) * canary
    found = 1 + sum(float(each.weights @ each.excess) for each in seen) / signal
    spread = slack / math.sqrt(signal * canary)
    limit = -float(special.ndtri(share / 2)) * spread
    check = Check(name, found, 1 - limit, 1 + limit, "norm of the contributions / clip_norm")
    return check, limit - float(special.ndtri(MISSED)) * spread


def aligned_rounds(clients: int, canary: float, slack: float, share: float, resolution: float) -> int:
    """Return how many rounds with all clients pushing the same way find a clip that is wrong by this much.

    In such a round the clients' signals add up and the noise is that of one release. Over rounds the signal grows with
    their number, the noise with its square root.
    """
    deviations = -float(special.ndtri(share / 2) + special.ndtri(MISSED))
    return math.ceil((deviations * slack / (resolution * canary * clients)) ** 2)


def clip_of_each_client(name: str, apart: list[Round], canary: float, slack: float, share: float) -> Check:
    """Fit the norm of each client's contributions, from the rounds with orthogonal canaries; as `clip`."""
    weights, excess = np.stack([each.weights for each in apart]), np.stack([each.excess for each in apart])
    often = np.square(weights).sum(axis=0)
    contributed = often > 0
    found = 1 + (weights * excess).sum(axis=0)[contributed] / (canary * often[contributed])
    limit = -float(special.ndtri(share / (2 * len(often)))) * slack / (canary * np.sqrt(often[contributed]))
    return _farthest(name, found, 1 - limit, 1 + limit, "norm of one client's contributions / clip_norm")


def _farthest(name: str, found: Array, low: Array, high: Array, meaning: str) -> Check:
    if not len(found):
        return Check(name, 1.0, 1.0, 1.0, meaning)
    at = int(np.argmax(np.abs(2 * found - low - high) / (high - low)))
    return Check(name, float(found[at]), float(low[at]), float(high[at]), meaning)
