"""Who adds the noise, and how much: the argument `privacy=` of training and aggregation.

The unit of privacy is a client. Its whole update is clipped to the Euclidean norm `clip_norm`, so the sum changes by at
most that (twice that under `"replace"`, see `dp.events`), for any weight. The sum is divided by a public number,
`sampling_rate * population` or `cohort_size`, never by the number of clients that came, which depends on clients.

Under `"add_remove"` the other data set can be seen as the same clients, one of which contributes zeros. We assume that
sampling and dropouts do not depend on the data.

With Poisson sampling the size of a cohort depends on clients too. `Plain` therefore releases noise even for an empty
cohort. A session of secure aggregation cannot run with too few clients. The event includes the probability that one
client decides whether the cohort is large enough (`decisive_probability`), and it costs delta.
"""

import math
from dataclasses import dataclass
from typing import Any

from secfed.aggregation.array_clips import LARGEST, LEAST, ArrayClips, Clip, as_clip, whole_norm
from secfed.dp.checks import check_count, check_number, check_positive
from secfed.dp.noise.distributed import Mechanism
from secfed.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AdaptiveClipping:
    """A clip that follows a quantile of the updates' norms.

    Each client adds to its vector whether its update was within the clip. The count shares the noise of the sum: let
    `u` be the noise multiplier of the update and `b` the deviation of the noise on the count. Both together have the
    noise multiplier `z` with `1/z^2 = 1/u^2 + 1/(2b)^2`, and the accountant gets only `z`. It does not depend on the
    clip, so the guarantee is that of a fixed clip.

    Args:
        target_quantile: Fraction of the clients that should be within the clip.
        learning_rate: How fast the clip follows the quantile.
        count_noise: Standard deviation of the noise on the count, in clients; None is a twentieth of the expected
            cohort.

    Raises:
        ConfigError: A parameter is out of range.

    Source:
        Andrew, Thakkar, McMahan, Ramaswamy: Differentially Private Learning with Adaptive Clipping, NeurIPS 2021.
    """

    target_quantile: float = 0.5
    learning_rate: float = 0.2
    count_noise: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.target_quantile <= 1:
            raise ConfigError(f"target_quantile {self.target_quantile} must be from 0 to 1")
        check_positive("learning_rate", self.learning_rate)
        if self.count_noise is not None:
            check_positive("count_noise", self.count_noise)

    def next(self, clip_norm: float, within_clip: float) -> float:
        """Return the clip of the next round from this round's noisy fraction of clients within the clip.

        Args:
            clip_norm: The clip of this round.
            within_clip: Fraction of the clients whose update was within it, with its noise.
        """
        moved = clip_norm * math.exp(-self.learning_rate * (within_clip - self.target_quantile))
        return min(max(moved, 1e-100), 1e100)

    def scale(self, noise_multiplier: float, expected: float) -> float:
        """Return how far apart "within" and "beyond" must be, in units of the clip, so that the count gets its noise.

        Args:
            noise_multiplier: Of update and count together.
            expected: Expected size of the cohort.

        Raises:
            ConfigError: The count has too little noise: no noise on the update could make up for it.
        """
        noise = expected / 20 if self.count_noise is None else self.count_noise
        if not 2 * noise > noise_multiplier:
            raise ConfigError(
                f"count_noise {noise:g} must be more than half of noise_multiplier {noise_multiplier:g}: more clients, "
                "or a larger count_noise"
            )
        return 1 / (noise * math.sqrt(noise_multiplier**-2 - (2 * noise) ** -2))


@dataclass(frozen=True)
class CentralGaussian:
    """Noise that the server adds to the sum. The server is trusted with the sum; what it publishes is private.

    Under `SecAgg` the server sees the exact sum but no update. Under `Paillier` the key holder sees the sum too. Under
    `Plain` the server sees every update.

    Args:
        clip_norm: Updates are scaled down to this Euclidean norm, all arrays of an update together. Or one number for
            each array, in a dictionary or list like an update: then each array is scaled down to its own norm.
            Elsewhere `clip_norm` then stands for the root of the sum of their squares, which is the largest norm that
            an update can have.
        noise_multiplier: Standard deviation of the noise, divided by `clip_norm`; `dp.noise_multiplier` finds it.
        adaptive: How the clip changes from round to round; None keeps it. Needs one number for `clip_norm`.
        weight_cap: With None all clients count alike and weights are not used. Otherwise an update is clipped and then
            multiplied by `min(weight, weight_cap) / weight_cap`. This never raises its norm, so the sensitivity stays.
        population: Number of clients that cohorts are drawn from; None if all are in the cohort. Training fills it in.
        sampling_rate: Probability with which each of them joins a cohort, independently (Poisson sampling). Training
            fills it in.
        cohort_size: Clients in a cohort, drawn uniformly among all, instead of `sampling_rate`. Training fills it in.

    Raises:
        ConfigError: A parameter is out of range.

    Security:
        The noise is a discrete Gaussian, drawn exactly from the operating system's randomness and added to whole
        numbers: the release contains no floating point. Privacy from sampling counts only against those who do not
        know who was in a cohort; then the seeds of cohorts must be secret too.
    """

    clip_norm: Clip
    noise_multiplier: float
    adaptive: AdaptiveClipping | None = None
    weight_cap: float | None = None
    population: int | None = None
    sampling_rate: float = 1.0
    cohort_size: int | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def whole_norm(self) -> float:
        """Largest Euclidean norm of a clipped update, all arrays together."""
        return _whole_norm(self.clip_norm)


@dataclass(frozen=True)
class DistributedGaussian:
    """Noise that the clients add, each a share, before secure aggregation: the server need not be trusted with the sum.

    The shares of `minimum_survivors` clients (minus colluders) give enough noise. Every client requires that many
    survivors before it helps to unmask. The event of a round counts the shares that really arrived.

    Args:
        clip_norm: Updates are scaled down to this Euclidean norm, all arrays of an update together. Or one number
            for each array, in a dictionary or list like an update: then each array is scaled down to its own norm.
            Elsewhere `clip_norm` then stands for the root of the sum of their squares, which is the largest norm that
            an update can have.
        noise_multiplier: The guarantee to meet: that of central Gaussian noise with this standard deviation, divided by
            `clip_norm`. Skellam noise has a slightly larger epsilon, see `dp.noise.distributed.choose`.
        bits: Bits of an entry of the vector, 2 to 64; None takes the fewest that are enough.
        mechanism: `"discrete_gaussian"` or `"skellam"`.
        layers: With 1 all noise stays, which is too much if more than the fewest clients survive. With more, the noise
            has that many layers. Once clients know how many survived, they reveal the layers that are not needed.
        minimum_survivors: Fewest clients in a sum; None is the aggregator's threshold or `minimum_cohort`. Needed with
            `neighbors`, where the threshold counts a client's neighbors only, and with `secret_cohort`.
        colluders: How many survivors may leave out their noise or tell it to the server. If the aggregator's
            `colluders` is larger, that number is used.
        adaptive: How the clip changes from round to round; None keeps it. Needs one number for `clip_norm`.
        weight_cap: With None all clients count alike and weights are not used. Otherwise an update is clipped and
            then multiplied by `min(weight, weight_cap) / weight_cap`. This never raises its norm, so the sensitivity
            stays.
        secret_cohort: Whether sampling counts as privacy. A server knows who is in its session, so sampling hides
            nothing from it, and by default sampling is not counted. True gives the guarantee only against those who see
            nothing but the published models. With `sampling_rate` it needs `layers` for each number of survivors and no
            colluders, so that the noise does not reveal how many joined, and all survivors must reveal their surplus;
            `cohort_size` needs neither.
        population: Number of clients that cohorts are drawn from; None if all are in the cohort. Training fills it
            in.
        sampling_rate: Probability with which each of them joins a cohort, independently (Poisson sampling).
            Training fills it in.
        cohort_size: Clients in a cohort, drawn uniformly among all, instead of `sampling_rate`. Training fills it
            in.

    Raises:
        ConfigError: A parameter is out of range.

    Security:
        All clients except `colluders` are assumed to follow the protocol. The guarantee holds for one client against
        the server and all others outside of the session.

    Source:
        Kairouz, Liu, Steinke: The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
        Aggregation, ICML 2021; see `dp.noise.distributed`.
    """

    clip_norm: Clip
    noise_multiplier: float
    bits: int | None = 16
    mechanism: Mechanism = "discrete_gaussian"
    layers: int = 1
    minimum_survivors: int | None = None
    colluders: int = 0
    adaptive: AdaptiveClipping | None = None
    weight_cap: float | None = None
    secret_cohort: bool = False
    population: int | None = None
    sampling_rate: float = 1.0
    cohort_size: int | None = None

    def __post_init__(self) -> None:
        _check(self)
        if self.colluders < 0:
            raise ConfigError(f"colluders {self.colluders} must not be negative")
        if self.minimum_survivors is not None and self.minimum_survivors < 1:
            raise ConfigError(f"minimum_survivors {self.minimum_survivors} must be at least 1")
        if self.secret_cohort and self.sampling_rate < 1 and self.minimum_survivors is None:
            raise ConfigError(
                "secret_cohort needs minimum_survivors: noise that depended on the cohort's size would reveal it"
            )

    @property
    def whole_norm(self) -> float:
        """Largest Euclidean norm of a clipped update, all arrays together."""
        return _whole_norm(self.clip_norm)


Privacy = CentralGaussian | DistributedGaussian


def _whole_norm(clip_norm: Any) -> float:
    return whole_norm(clip_norm.values()) if isinstance(clip_norm, ArrayClips) else float(clip_norm)


def check_one_norm(privacy: Privacy) -> None:
    """Refuse one norm for each array, for a transform that takes one for the whole update.

    Raises:
        ConfigError: `clip_norm` is not a number.
    """
    if not isinstance(privacy.clip_norm, float):
        raise ConfigError(f"clip_norm {privacy.clip_norm!r:.100} is for PerArrayClipping, needed one number here")


def _check(privacy: Privacy) -> None:
    """Check the parameters that all kinds of privacy have."""
    for name in ("noise_multiplier", "sampling_rate"):
        object.__setattr__(privacy, name, check_number(name, getattr(privacy, name)))
    norms = as_clip("clip_norm", privacy.clip_norm)
    norms = norms if isinstance(norms, ArrayClips) else check_number("clip_norm", norms)
    object.__setattr__(privacy, "clip_norm", norms)
    if not LEAST <= privacy.whole_norm <= LARGEST:
        raise ConfigError(f"clip_norm {privacy.whole_norm} must be from 1e-100 to 1e100")
    if privacy.adaptive is not None and isinstance(norms, ArrayClips):
        raise ConfigError(
            "adaptive follows one clip_norm for the whole update: found one for each array, needed a number"
        )
    if not 1e-6 <= privacy.noise_multiplier <= 1e6:
        raise ConfigError(f"noise_multiplier {privacy.noise_multiplier} must be from 1e-6 to 1e6")
    if privacy.weight_cap is not None:
        check_positive("weight_cap", privacy.weight_cap)
    if privacy.population is not None and privacy.population < 1:
        raise ConfigError(f"population {privacy.population} must be at least 1")
    if not 0 < privacy.sampling_rate <= 1:
        raise ConfigError(f"sampling_rate {privacy.sampling_rate} must be above 0 and at most 1")
    if privacy.sampling_rate < 1 and privacy.population is None:
        raise ConfigError(f"sampling_rate {privacy.sampling_rate} needs the population: of how many clients")
    if privacy.cohort_size is None:
        return
    if privacy.sampling_rate != 1:
        raise ConfigError(
            f"found sampling_rate {privacy.sampling_rate} and cohort_size {privacy.cohort_size}, needed only one"
        )
    check_count("cohort_size", privacy.cohort_size)
    if privacy.population is None or privacy.cohort_size > privacy.population:
        raise ConfigError(
            f"cohort_size {privacy.cohort_size} needs a population of at least that, not {privacy.population}"
        )
