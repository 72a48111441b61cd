"""Does the noise hold what is claimed? A pipeline is run with canaries, and what it releases is held against the law.

A lower bound of epsilon moves by less than its own uncertainty when the noise is 10 % too small, or one client of
many forgets its share. The variance of the noise over all coordinates and rounds does not: with the contributions
known, what is left of a release has an exactly known law. A few coordinates without noise do not move that variance:
each coordinate is looked at by itself, across rounds (`coordinate_checks`).

Threat model: the strongest reader of the release. It chooses every contribution, knows all but the coins, and sees
the released sum; against a pipeline without errors no reader does better than the claim.

What this does not see: noise of the right law that can be foreseen (a weak or leaked seed); a pipeline that behaves
only while it is audited; noise known to colluding clients; how clients are sampled and rounds compose, which no
single release shows; leaks outside of the sum. Passing is evidence, not proof: `SelfAudit.noise_resolution`,
`SelfAudit.coordinate_resolution` and `SelfAudit.clip_resolution` say how small an error would have been found.

Source: canaries in the released sum as in Nasr et al.: Tight Auditing of Differentially Private Machine Learning,
USENIX Security 2023.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from secfed.attacks import checks, coordinate_checks
from secfed.attacks.audit import AuditResult, audit, gaussian_epsilon
from secfed.attacks.canary_rounds import Release, Setting, run, step
from secfed.attacks.checks import Check
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# The chance of a false alarm is shared out evenly.
_CHECKS, _QUIET_CHECKS = 11, 2
# Without a quiet release there are as many rounds as find a clip that is wrong by this much, within these limits.
_CLIP_RESOLUTION = 0.2
_FEWEST_ROUNDS, _MOST_ROUNDS = 8, 64
_QUIET_ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class SelfAudit:
    """What `self_audit` found.

    Attributes:
        checks: All checks.
        epsilon: Lower bound of epsilon for one release, by the method `"gaussian"`. It is the number that the check
            `"epsilon"` judges, at the same confidence: where that check passes it is not above the claim.
        scores: Projection of the release on each canary, in units of `clip_norm`; shape `(canaries,)`.
        included: The coin of each canary; shape `(canaries,)`.
        rounds: How many sums were released, without those of `quiet_release`.
        noise_resolution: Noise whose standard deviation is too small by this fraction is found, except in at most one
            case in 1,000.
        coordinate_resolution: The same where one coordinate alone has noise that is too small by this fraction.
        clip_resolution: The same for contributions that all have a norm beyond the clip by this fraction; those of
            `quiet_release` if that tells more.
    """

    checks: tuple[Check, ...]
    epsilon: AuditResult
    scores: Array
    included: npt.NDArray[np.bool_]
    rounds: int
    noise_resolution: float
    coordinate_resolution: float
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
            f"(wrong with probability {1 - bound.confidence:.1g} at most, {bound.canaries} canaries)",
            f"would be found in {self.rounds} rounds: noise too small by {self.noise_resolution:.2%}, one share of "
            f"noise missing among up to {shares}, noise of one coordinate too small by "
            f"{self.coordinate_resolution:.2%}, norms beyond the clip by {self.clip_resolution:.2%}",
        ]
        if self.clip_resolution > _CLIP_RESOLUTION:
            lines.append(
                f"not shown: whether a clip that is {_CLIP_RESOLUTION:.0%} too long would be found; that takes more "
                "rounds or quiet_release"
            )
        return "\n".join(lines)


def self_audit(
    release: Release,
    *,
    clients: int,
    size: int,
    clip_norm: float,
    noise_multiplier: float,
    generator: np.random.Generator,
    rounds: int | None = None,
    adjacency: str = "add_remove",
    oversize: float = 10.0,
    rounding_std: float = 0.0,
    quiet_release: Release | None = None,
    quiet_noise_multiplier: float = 0.05,
    epsilon_upper: float | None = None,
    delta: float = 1e-5,
    false_alarm: float = 1e-6,
) -> SelfAudit:
    """Run a pipeline with canaries and hold what it releases against the claimed law.

    Every contribution is `oversize` times too long, so that the clip has to act. In even rounds the clients' canaries
    are orthogonal and coins decide who contributes; in odd rounds, and in those that are added by default, all clients
    push the same way, where a norm beyond the clip (or a sum that wraps around) shows most: the signal is that of all
    clients, the noise that of one release. A release less its clipped sum must be normal noise:

    * `"noise"`: its variance is the claimed one, neither less nor more (by the exact law, chi-squared). More may be
      two clients with the same noise;
    * `"noise_of_parts"`: so it is in each of up to 16 stretches of coordinates of each round;
    * `"noise_of_each_coordinate"`: over all rounds, no coordinate has too little;
    * `"noise_of_scattered_coordinates"`: not too many coordinates have little, wherever they are;
    * `"noise_of_blocks"`, `"noise_of_combs"`: neither has a stretch of 2, 4, 8, ... coordinates too little over all
      rounds, nor every k-th coordinate, for k up to 64;
    * `"fresh_rounds"`, `"fresh_parts"`: no two rounds, and no two such stretches, share noise;
    * `"clip"`, `"clip_of_each_client"`: contributions are in the sum with the norm `clip_norm`, neither more nor less
      (less would make the rest of the audit blind);
    * `"clip_when_quiet"`, `"clip_of_each_client_when_quiet"`: the same for `quiet_release`, if it is given;
    * `"epsilon"`: the lower bound of epsilon, at a confidence of one false alarm's share, is not above the claim.

    Args:
        release: The real thing, from clip to decoded sum: takes the contributions of all clients, a list of arrays of
            shape `(size,)` (its own to change; zeros where a coin says no under `"add_remove"`) and the round, from
            0, and returns the noisy sum, shape `(size,)`. It must draw its noise as it does in production.
        clients: Contributions in each sum.
        size: Coordinates, at least four times the clients.
        clip_norm: The claimed clip.
        noise_multiplier: The claimed noise of the sum: standard deviation in each coordinate, divided by `clip_norm`.
        generator: Where coins and directions come from.
        rounds: How many sums are released, at least 2. By default 8, and without `quiet_release` more, up to
            64: as many as find a clip that is 20 % too long, except in one case in 1,000. With 10 clients that is 22
            rounds at a noise multiplier of 1; at 2, or with 20 clients at 4, 64 rounds do not suffice, and
            `SelfAudit.clip_resolution` says what they find.
        adjacency: `"add_remove"`: a coin puts a canary in or leaves it out. `"replace"`: in, or its opposite.
        oversize: Norm of the contributions divided by `clip_norm`, at least 1; 1 if `release` does not clip.
        rounding_std: Standard deviation that rounding adds to each coordinate of the sum, at most.
        quiet_release: The same pipeline with little noise, where a clip that is slightly wrong shows, and also that
            of one client alone; called in 4 rounds, from 0, with contributions of all clients. Its noise is not
            judged.
        quiet_noise_multiplier: The noise of `quiet_release`, at most; as `noise_multiplier`.
        epsilon_upper: The accountant's epsilon at `delta` for one such release, under `adjacency`. By default
            that of normal noise with `noise_multiplier`.
        delta: Delta of that guarantee.
        false_alarm: Probability that a correct pipeline fails any check, at most; each of the 11 checks (13 with
            `quiet_release`) has an equal share, divided again among all that it compares. It holds for normal noise;
            discrete Gaussian and Skellam noise of a few lattice units or more is as good as normal here, and where
            few units matter (one coordinate alone) the limits count the lattice.

    Returns:
        All checks, and how small an error would have been found.

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
    >>> "noise" in self_audit(release, noise_multiplier=2.1, **claim).failures
    True
    """
    positive = {
        "clip_norm": clip_norm,
        "noise_multiplier": noise_multiplier,
        "quiet_noise_multiplier": quiet_noise_multiplier,
    }
    for name, number in positive.items():
        if not 0 < number < math.inf:
            raise ConfigError(f"{name} {number} must be a positive finite number")
    if not (1 <= oversize < math.inf and 0 <= rounding_std < math.inf):
        raise ConfigError(f"oversize {oversize} must be at least 1, rounding_std {rounding_std} at least 0")
    if not (clients >= 1 and (rounds is None or rounds >= 2) and size >= 4 * clients):
        found = f"{clients} clients, {size} coordinates and {rounds} rounds"
        raise ConfigError(f"{found}: needed at least 1 client, 4 coordinates for each client, and 2 rounds")
    if adjacency not in ("add_remove", "replace"):
        raise ConfigError(f"adjacency {adjacency!r} must be one of add_remove, replace")
    if not (0 < false_alarm < 1 and 0 < delta < 1):
        raise ConfigError(f"false_alarm {false_alarm} and delta {delta} must be above 0 and below 1")
    if epsilon_upper is not None and not epsilon_upper >= 0:
        raise ConfigError(f"epsilon_upper {epsilon_upper} must be at least 0")
    excluded = 0.0 if adjacency == "add_remove" else -1.0
    setting = Setting(clients, size, clip_norm, noise_multiplier * clip_norm, oversize, excluded)
    # The most that rounding may add to a standard deviation.
    slack = math.hypot(1.0, rounding_std / setting.noise_std)
    share = false_alarm / (_CHECKS if quiet_release is None else _CHECKS + _QUIET_CHECKS)
    canary = 1 / noise_multiplier
    if rounds is None:
        aligned = 0 if quiet_release else checks.aligned_rounds(clients, canary, slack, share, _CLIP_RESOLUTION)
        rounds = min(_MOST_ROUNDS, _FEWEST_ROUNDS // 2 + max(aligned, _FEWEST_ROUNDS // 2))
        together = [number % 2 > 0 or number >= _FEWEST_ROUNDS for number in range(rounds)]
    else:
        together = [number % 2 > 0 for number in range(rounds)]
    seen = [run(release, setting, number, generator, aligned=aligned) for number, aligned in enumerate(together)]
    apart = [each for each, aligned in zip(seen, together, strict=True) if not aligned]
    squares = np.sum([each.squares for each in seen], axis=0)
    gap = step(seen)
    stretches = checks.by_parts(seen, setting.parts)

    noise, noise_resolution = checks.noise(seen, slack, share)
    coordinate, coordinate_resolution = coordinate_checks.each_coordinate(squares, rounds, gap, share)
    clip, clip_resolution = checks.clip("clip", seen, canary, slack, share)
    made = [
        noise,
        checks.noise_of_parts(seen, setting.parts, slack, share),
        coordinate,
        coordinate_checks.scattered(squares, rounds, gap, share),
        coordinate_checks.blocks(squares, rounds, gap, share),
        coordinate_checks.combs(squares, rounds, gap, share),
        checks.fresh("fresh_rounds", "rounds", np.stack([each.rest for each in seen]), seen[0].freedom, share),
        checks.fresh("fresh_parts", "stretches", stretches, apart[0].part_freedom, share),
        clip,
        checks.clip_of_each_client("clip_of_each_client", apart, canary, slack, share),
    ]
    if quiet_release is not None:
        quiet = replace(setting, noise_std=quiet_noise_multiplier * clip_norm)
        slack = math.hypot(1.0, rounding_std / quiet.noise_std)
        canary = 1 / quiet_noise_multiplier
        seen = [
            run(quiet_release, quiet, number, generator, aligned=number % 2 > 0, coins=False)
            for number in range(_QUIET_ROUNDS)
        ]
        clip, resolution = checks.clip("clip_when_quiet", seen, canary, slack, share)
        clip_resolution = min(clip_resolution, resolution)
        made += [clip, checks.clip_of_each_client("clip_of_each_client_when_quiet", seen[::2], canary, slack, share)]
    included = np.concatenate([each.weights for each in apart]) > 0
    scores = np.concatenate([each.weights + each.excess * noise_multiplier for each in apart])
    bound = _epsilon(scores, included, delta, 1 - share)
    if epsilon_upper is None:
        # The bisection stops at a relative error of 1e-9.
        epsilon_upper = gaussian_epsilon((1 - excluded) / noise_multiplier, delta) * (1 + 1e-8)
    made.append(Check("epsilon", bound.epsilon_lower, 0.0, float(epsilon_upper), "the lower bound of epsilon"))
    return SelfAudit(
        tuple(made), bound, scores, included, rounds, noise_resolution, coordinate_resolution, clip_resolution
    )


def _epsilon(scores: Array, included: npt.NDArray[np.bool_], delta: float, confidence: float) -> AuditResult:
    if len(scores) < 3 or included.all() or not included.any():  # rare and harmless: nothing can be told
        return AuditResult(0.0, 0.0, delta, confidence, "gaussian", len(scores), None, None)
    return audit(scores, included, delta=delta, confidence=confidence, method="gaussian")
