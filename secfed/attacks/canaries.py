"""Does the noise hold what is claimed? A pipeline is run with canaries, and what it releases is held against the law.

A lower bound of epsilon moves by less than its own uncertainty when the noise is 10 % too small, or one client of
many forgets its share. The variance of the noise over all coordinates and rounds does not: with the contributions
known, what is left of a release has an exactly known law.

Threat model: the strongest reader of the release. It chooses every contribution, knows all but the coins, and sees
the released sum; against a pipeline without errors no reader does better than the claim.

What this does not see: noise of the right law that can be foreseen (a weak or leaked seed); a pipeline that behaves
only while it is audited; noise known to colluding clients; how clients are sampled and rounds compose, which no
single release shows; leaks outside of the sum. Passing is evidence, not proof: `SelfAudit.noise_resolution` and
`SelfAudit.clip_resolution` say how small an error would have been found.

Source: canaries in the released sum as in Nasr et al.: Tight Auditing of Differentially Private Machine Learning,
USENIX Security 2023.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from secfed.attacks.audit import AuditResult, audit
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# The chance of a false alarm is shared out evenly.
_CHECKS = 7
_MOST_PARTS = 16
# An error of the size that is called the resolution is missed at most this often.
_MISSED = 1e-3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was held against the claim.

    Attributes:
        name: What was checked; see `self_audit`.
        found: The number found; where several were compared, the one farthest out.
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


@dataclass(frozen=True, slots=True, eq=False)
class SelfAudit:
    """What `self_audit` found.

    Attributes:
        checks: All checks.
        epsilon: Lower bound of epsilon for one release, by the method `"gaussian"` at 95 % confidence.
        scores: Projection of the release on each canary, in units of `clip_norm`; shape `(canaries,)`.
        included: The coin of each canary; shape `(canaries,)`.
        noise_resolution: Noise whose standard deviation is too small by this fraction is found, but for at most one
            case in 1,000.
        clip_resolution: The same for contributions that all have a norm beyond the clip by this fraction.
    """

    checks: tuple[Check, ...]
    epsilon: AuditResult
    scores: Array
    included: npt.NDArray[np.bool_]
    noise_resolution: float
    clip_resolution: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return not self.failures

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(check.name for check in self.checks if not check.passed)

    def describe(self) -> str:
        """Return the outcome in words: a line for each check, then the bound and what would have been found."""
        lines = [
            f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.meaning} is {check.found:.4g}, "
            f"allowed {check.low:.4g} to {check.high:.4g}"
            for check in self.checks
        ]
        bound = self.epsilon
        shares = int(1 / (1 - (1 - self.noise_resolution) ** 2))
        lines += [
            f"epsilon of one release is at least {bound.epsilon_lower:.4g} at delta {bound.delta:g} "
            f"(confidence {bound.confidence:g}, {bound.canaries} canaries)",
            f"would be found: noise too small by {self.noise_resolution:.2%}, one share of noise missing among up to "
            f"{shares}, norms beyond the clip by {self.clip_resolution:.2%}",
        ]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Setting:
    """What is the same in all rounds."""

    clients: int
    size: int
    clip_norm: float
    noise_std: float
    oversize: float
    excluded: float  # what a client contributes whose coin says no, in units of its canary: 0 or -1

    @property
    def parts(self) -> int:
        return min(_MOST_PARTS, self.size // (4 * self.clients))


@dataclass(frozen=True, slots=True)
class _Round:
    """What one round left, in units of the claimed noise."""

    rest: Array  # noise without the directions of the canaries, which are taken out part by part
    freedom: int  # dimensions of `rest`
    part_freedom: int  # dimensions in each of the parts of equal size
    weights: Array  # of each canary: how often it should be in the sum
    excess: Array  # of each canary: its projection beyond what it should be


def self_audit(
    release: Callable[[list[Array], int], npt.ArrayLike],
    *,
    clients: int,
    size: int,
    clip_norm: float,
    noise_multiplier: float,
    generator: np.random.Generator,
    rounds: int = 8,
    adjacency: str = "add_remove",
    oversize: float = 10.0,
    rounding_std: float = 0.0,
    epsilon_upper: float | None = None,
    delta: float = 1e-5,
    false_alarm: float = 1e-6,
) -> SelfAudit:
    """Run a pipeline with canaries and hold what it releases against the claimed law.

    Every contribution is `oversize` times too long, so that the clip has to act. In even rounds the clients' canaries
    are orthogonal and coins decide who contributes; in odd rounds all clients push the same way, where a norm beyond
    the clip (or a sum that wraps around) shows most. A release less its clipped sum must be normal noise:

    * `"noise"`: its variance is the claimed one, neither less nor more (by the exact law, chi-squared). More may be
      two clients with the same noise;
    * `"noise_of_parts"`: so it is in each of up to 16 stretches of coordinates of each round;
    * `"fresh_rounds"`, `"fresh_parts"`: no two rounds, and no two such stretches, share noise;
    * `"clip"`, `"clip_of_each_client"`: contributions are in the sum with the norm `clip_norm`, neither more nor less
      (less would make the rest of the audit blind);
    * `"epsilon"`, if `epsilon_upper` is given: the lower bound of epsilon, at a confidence of one false alarm's share,
      is not above it.

    Args:
        release: The real thing, from clip to decoded sum: takes the contributions of all clients, a list of arrays of
            shape `(size,)` (its own to change; zeros where a coin says no under `"add_remove"`) and the round, from
            0, and returns the noisy sum, shape `(size,)`. It must draw its noise as it does in earnest.
        clients: Contributions in each sum.
        size: Coordinates, at least four times the clients.
        clip_norm: The claimed clip.
        noise_multiplier: The claimed noise of the sum: standard deviation in each coordinate, divided by `clip_norm`.
        generator: Where coins and directions come from.
        rounds: How many sums are released, at least 2.
        adjacency: `"add_remove"`: a coin puts a canary in or leaves it out. `"replace"`: in, or its opposite.
        oversize: Norm of the contributions divided by `clip_norm`, at least 1; 1 if `release` does not clip.
        rounding_std: Standard deviation that rounding adds to each coordinate of the sum, at most.
        epsilon_upper: The accountant's epsilon at `delta` for one such release, under `adjacency`.
        delta: Delta of that guarantee.
        false_alarm: Probability that a correct pipeline fails any check, at most. It is exact for normal noise;
            discrete Gaussian and Skellam noise of a few lattice units or more is as good as normal here.

    Raises:
        ConfigError: A parameter is out of range, or `release` returned another shape or something not finite.

    Security:
        See the module for what this does not see.

    >>> chance = np.random.default_rng(1)
    >>> def release(contributions, round):
    ...     clipped = [update / max(1.0, np.linalg.norm(update)) for update in contributions]
    ...     return sum(clipped) + chance.normal(0.0, 2.0, 20_000)
    >>> claim = dict(clients=10, size=20_000, clip_norm=1.0, generator=np.random.default_rng(2))
    >>> self_audit(release, noise_multiplier=2.0, **claim).failures
    ()
    >>> self_audit(release, noise_multiplier=2.1, **claim).failures
    ('noise',)
    """
    for name, number in {"clip_norm": clip_norm, "noise_multiplier": noise_multiplier}.items():
        if not 0 < number < math.inf:
            raise ConfigError(f"{name} {number} must be a positive finite number")
    if not (1 <= oversize < math.inf and 0 <= rounding_std < math.inf):
        raise ConfigError(f"oversize {oversize} must be at least 1, rounding_std {rounding_std} at least 0")
    if not (clients >= 1 and rounds >= 2 and size >= 4 * clients):
        found = f"{clients} clients, {size} coordinates and {rounds} rounds"
        raise ConfigError(f"{found}: needed at least 1 client, 4 coordinates for each client, and 2 rounds")
    if adjacency not in ("add_remove", "replace"):
        raise ConfigError(f"adjacency {adjacency!r} must be one of add_remove, replace")
    if not (0 < false_alarm < 1 and 0 < delta < 1):
        raise ConfigError(f"false_alarm {false_alarm} and delta {delta} must be above 0 and below 1")
    if epsilon_upper is not None and not epsilon_upper >= 0:
        raise ConfigError(f"epsilon_upper {epsilon_upper} must be at least 0")
    excluded = 0.0 if adjacency == "add_remove" else -1.0
    setting = _Setting(clients, size, clip_norm, noise_multiplier * clip_norm, oversize, excluded)
    seen = [_run(release, setting, number, generator) for number in range(rounds)]
    apart = seen[::2]
    # The most that rounding may add to a standard deviation.
    slack = math.hypot(1.0, rounding_std / setting.noise_std)
    share = false_alarm / _CHECKS

    noise, noise_resolution = _noise_check(seen, slack, share)
    clip, clip_resolution = _clip_check(seen, 1 / noise_multiplier, slack, share)
    checks = [
        noise,
        _parts_check(seen, setting.parts, slack, share),
        _fresh_check("fresh_rounds", "rounds", np.stack([each.rest for each in seen]), seen[0].freedom, share),
        _fresh_check("fresh_parts", "stretches", _by_parts(seen, setting.parts), apart[0].part_freedom, share),
        clip,
        _each_client_check(apart, 1 / noise_multiplier, slack, share),
    ]
    included = np.concatenate([each.weights for each in apart]) > 0
    scores = np.concatenate([each.weights + each.excess * noise_multiplier for each in apart])
    if epsilon_upper is not None:
        found_epsilon = _epsilon(scores, included, delta, 1 - share).epsilon_lower
        meaning = "the lower bound of epsilon"
        checks.append(Check("epsilon", found_epsilon, 0.0, float(epsilon_upper), meaning))
    bound = _epsilon(scores, included, delta, 0.95)
    return SelfAudit(tuple(checks), bound, scores, included, noise_resolution, clip_resolution)


def _run(
    release: Callable[[list[Array], int], npt.ArrayLike],
    setting: _Setting,
    number: int,
    generator: np.random.Generator,
) -> _Round:
    size, clients = setting.size, setting.clients
    signs = generator.integers(0, 2, size) * 2.0 - 1.0
    coins = generator.integers(0, 2, clients) > 0
    if number % 2 == 0:  # canary i is spread over every coordinate j with j % clients == i
        strides = [slice(client, None, clients) for client in range(clients)]
        owners = np.arange(size) % clients
        each = weights = np.where(coins, 1.0, setting.excluded)
    else:
        strides = [slice(None)] * clients
        owners = np.zeros(size, np.int64)
        each, weights = np.ones(clients), np.array([float(clients)])
    norms = np.sqrt(np.bincount(owners))
    contributions = []
    for stride, weight in zip(strides, each, strict=True):
        contribution = np.zeros(size)
        contribution[stride] = signs[stride]
        contribution *= weight * setting.oversize * setting.clip_norm / np.linalg.norm(contribution)
        contributions.append(contribution)
    released = np.asarray(release(contributions, number), np.float64)
    if released.shape != (size,) or not np.isfinite(released).all():
        raise ConfigError(f"release returned shape {released.shape}, needed {size} finite numbers")
    expected = signs * (weights / norms)[owners] * setting.clip_norm
    noise = (released - expected) / setting.noise_std

    excess = np.bincount(owners, noise * signs) / norms
    cells = np.arange(size) // (size // setting.parts) * len(norms) + owners
    counts = np.bincount(cells)
    rest = noise - signs * (np.bincount(cells, noise * signs) / np.maximum(counts, 1))[cells]
    freedom = size - int(np.count_nonzero(counts))
    return _Round(rest, freedom, size // setting.parts - len(norms), weights, excess)


def _by_parts(seen: list[_Round], parts: int) -> Array:
    """Return the stretches of all rounds, one a row; the few coordinates after the last whole stretch are left out."""
    width = len(seen[0].rest) // parts
    return np.concatenate([each.rest[: parts * width].reshape(parts, width) for each in seen])


def _noise_check(seen: list[_Round], slack: float, share: float) -> tuple[Check, float]:
    half = sum(each.freedom for each in seen) / 2
    found = math.sqrt(sum(float(each.rest @ each.rest) for each in seen) / (2 * half))
    low = math.sqrt(special.gammaincinv(half, share / 2) / half)
    high = slack * math.sqrt(special.gammainccinv(half, share / 2) / half)
    largest = math.sqrt(special.gammainccinv(half, _MISSED) / half)
    return Check("noise", found, low, high, "standard deviation of the noise / claimed"), 1 - low / largest


def _parts_check(seen: list[_Round], parts: int, slack: float, share: float) -> Check:
    halves = np.repeat([each.part_freedom / 2 for each in seen], parts)
    stretches = _by_parts(seen, parts)
    found = np.sqrt(np.einsum("ij,ij->i", stretches, stretches) / (2 * halves))
    error = share / (2 * len(found))
    low = np.sqrt(special.gammaincinv(halves, error) / halves)
    high = slack * np.sqrt(special.gammainccinv(halves, error) / halves)
    meaning = "standard deviation of the noise in a stretch / claimed"
    return _farthest("noise_of_parts", found, low, high, meaning)


def _fresh_check(name: str, what: str, rows: Array, freedom: int, share: float) -> Check:
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


def _clip_check(seen: list[_Round], canary: float, slack: float, share: float) -> tuple[Check, float]:
    """Fit the norm of all contributions at once; `canary` is the claimed one in units of the noise."""
    signal = sum(float(each.weights @ each.weights) for each in seen) * canary
    found = 1 + sum(float(each.weights @ each.excess) for each in seen) / signal
    spread = slack / math.sqrt(signal * canary)
    limit = -float(special.ndtri(share / 2)) * spread
    check = Check("clip", found, 1 - limit, 1 + limit, "norm of the contributions / clip_norm")
    return check, limit - float(special.ndtri(_MISSED)) * spread


def _each_client_check(apart: list[_Round], canary: float, slack: float, share: float) -> Check:
    weights, excess = np.stack([each.weights for each in apart]), np.stack([each.excess for each in apart])
    often = np.square(weights).sum(axis=0)
    contributed = often > 0
    found = 1 + (weights * excess).sum(axis=0)[contributed] / (canary * often[contributed])
    limit = -float(special.ndtri(share / (2 * len(often)))) * slack / (canary * np.sqrt(often[contributed]))
    return _farthest(
        "clip_of_each_client", found, 1 - limit, 1 + limit, "norm of one client's contributions / clip_norm"
    )


def _farthest(name: str, found: Array, low: Array, high: Array, meaning: str) -> Check:
    if not len(found):
        return Check(name, 1.0, 1.0, 1.0, meaning)
    at = int(np.argmax(np.abs(2 * found - low - high) / (high - low)))
    return Check(name, float(found[at]), float(low[at]), float(high[at]), meaning)


def _epsilon(scores: Array, included: npt.NDArray[np.bool_], delta: float, confidence: float) -> AuditResult:
    if len(scores) < 3 or included.all() or not included.any():  # rare and harmless: nothing can be told
        return AuditResult(0.0, 0.0, delta, confidence, "gaussian", len(scores), None, None)
    return audit(scores, included, delta=delta, confidence=confidence, method="gaussian")
