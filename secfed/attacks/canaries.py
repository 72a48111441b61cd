"""Is the noise as claimed? Run a pipeline with canaries and compare its releases with the expected distribution.

If the noise is 10 % too small, or one client of many forgets its share, a lower bound on epsilon changes by less than
its own uncertainty. The variance of the noise over all coordinates and rounds shows such errors, because without the
known contributions a release has an exactly known distribution. A few coordinates without noise hardly change that
variance, so each coordinate is also checked by itself, across rounds (`coordinate_checks`).

Threat model: the strongest reader of the release. It chooses every contribution, knows everything except the coins, and
sees the released sum. Against a correct pipeline no reader does better than the claim.

What this does not find: noise that has the right distribution but is predictable (a weak or leaked seed); a pipeline
that is correct only while it is audited; noise known to colluding clients; errors of sampling and composition, which no
single release shows; leaks outside the sum. Passing is evidence, not proof: `SelfAudit.noise_resolution`,
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

# The probability of a false alarm is split evenly among the checks.
_CHECKS, _QUIET_CHECKS = 11, 2
# Without a quiet release, run as many rounds as are needed to find a clip that is wrong by this much, within limits.
_CLIP_RESOLUTION = 0.2
_FEWEST_ROUNDS, _MOST_ROUNDS = 8, 64
_QUIET_ROUNDS = 4


@dataclass(frozen=True, slots=True, eq=False)
class SelfAudit:
    """What `self_audit` found.

    Attributes:
        checks: All checks.
        epsilon: Lower bound on epsilon for one release, by the method `"gaussian"`. The check `"epsilon"` uses this
            number at the same confidence, so if that check passes, the bound is not above the claim.
        scores: Projection of the release on each canary, in units of `clip_norm`; shape `(canaries,)`.
        included: The coin of each canary; shape `(canaries,)`.
        rounds: Number of sums released, not counting those of `quiet_release`.
        noise_resolution: If the noise's standard deviation is too small by this fraction, the audit misses it in at
            most one case in 1,000.
        coordinate_resolution: The same if only one coordinate has noise that is too small by this fraction.
        clip_resolution: The same if all contributions exceed the clip by this fraction; from `quiet_release` if that is
            more precise.
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
        """Return the outcome in words: a line for each check, the bound, and the smallest errors it would have
        found."""
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
    """Run a pipeline with canaries and compare its releases with the claimed distribution.

    Every contribution is `oversize` times too long, so that the clip must act. In even rounds the clients' canaries are
    orthogonal, and coins decide who contributes. In odd rounds, and in those added by default, all clients push the
    same way. There a norm beyond the clip (or a sum that wraps around) shows most, because the clients' signals add up
    and the noise is that of one release. A release minus its clipped sum must be normal noise:

    * `"noise"`: its variance is the claimed one, neither less nor more (exactly, by chi-squared). More can mean that
      two clients have the same noise;
    * `"noise_of_parts"`: the same for each of up to 16 stretches of coordinates of each round;
    * `"noise_of_each_coordinate"`: over all rounds, no coordinate has too little;
    * `"noise_of_scattered_coordinates"`: not too many coordinates have too little, wherever they are;
    * `"noise_of_blocks"`, `"noise_of_combs"`: over all rounds, no stretch of 2, 4, 8, ... coordinates has too little,
      and neither has every k-th coordinate, for k up to 64;
    * `"fresh_rounds"`, `"fresh_parts"`: no two rounds, and no two such stretches, share noise;
    * `"clip"`, `"clip_of_each_client"`: contributions in the sum have the norm `clip_norm`, neither more nor less (with
      less, the other checks would miss errors);
    * `"clip_when_quiet"`, `"clip_of_each_client_when_quiet"`: the same for `quiet_release`, if it is given;
    * `"epsilon"`: the lower bound on epsilon, at this check's share of `false_alarm`, is not above the claim.

    Args:
        release: The real pipeline, from clip to decoded sum. It takes the contributions of all clients, a list of
            arrays of shape `(size,)` that it may change (zeros for clients left out under `"add_remove"`), and the
            round, from 0. It returns the noisy sum, shape `(size,)`. It must draw its noise as in production.
        clients: Contributions in each sum.
        size: Coordinates, at least four times the clients.
        clip_norm: The claimed clip.
        noise_multiplier: The claimed noise of the sum: standard deviation in each coordinate, divided by `clip_norm`.
        generator: Where coins and directions come from.
        rounds: Number of sums released, at least 2. By default 8; without `quiet_release` up to 64, as many as are
            needed to find a clip that is 20 % too long in all but one case in 1,000. With 10 clients that is 22 rounds
            at a noise multiplier of 1. At 2, or with 20 clients at 4, 64 rounds are not enough, and
            `SelfAudit.clip_resolution` gives what they find.
        adjacency: `"add_remove"`: a coin includes a canary or leaves it out. `"replace"`: includes it, or its opposite.
        oversize: Norm of the contributions divided by `clip_norm`, at least 1; 1 if `release` does not clip.
        rounding_std: Upper bound on the standard deviation that rounding adds to each coordinate of the sum.
        quiet_release: The same pipeline with little noise, which shows small errors of the clip and errors of a single
            client. It is called for 4 rounds, from 0, with contributions of all clients. Its noise is not checked.
        quiet_noise_multiplier: Upper bound on the noise of `quiet_release`, in the units of `noise_multiplier`.
        epsilon_upper: The accountant's epsilon at `delta` for one such release, under `adjacency`. By default the
            epsilon of normal noise with `noise_multiplier`.
        delta: Delta of that guarantee.
        false_alarm: Upper bound on the probability that a correct pipeline fails any check. Each of the 11 checks (13
            with `quiet_release`) gets an equal share, divided again among its comparisons. This is for normal noise.
            Discrete Gaussian and Skellam noise of a few lattice units or more behaves like it, and for single
            coordinates the limits allow for the lattice.

    Returns:
        All checks, and the smallest errors that they would have found.

    Raises:
        ConfigError: A parameter is out of range, or `release` returned a wrong shape or a value that is not finite.

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
    # The most that rounding may multiply a standard deviation by.
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
    if len(scores) < 3 or included.all() or not included.any():  # rare and harmless: there is nothing to compare
        return AuditResult(0.0, 0.0, delta, confidence, "gaussian", len(scores), None, None)
    return audit(scores, included, delta=delta, confidence=confidence, method="gaussian")
