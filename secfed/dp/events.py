"""Events: descriptions of what was released, from which the accountant computes a guarantee.

The unit of privacy is a client: two data sets are adjacent if they differ in the data of one client. Every event states
the noise relative to one client's contribution, whose norm is at most `clip_norm`.

* `"add_remove"`: one data set has a client that the other lacks, so the sum changes by at most `clip_norm`.
* `"replace"`: one client's data are replaced by any other, so the sum changes by at most **twice** `clip_norm`.

Two more look in one direction only: how much likelier an output may be with the client's data than without
(`"remove"`), or without than with (`"add"`). `"add_remove"` takes the larger of the two. They are for queries, not for
training.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from secfed.dp.checks import check_between, check_count, check_rate, keep
from secfed.dp.mechanisms import ApproximateDP, ExponentialMechanism, Proved, RandomizedResponse, ZeroConcentrated
from secfed.dp.mixtures import GaussianMixture
from secfed.dp.trees import TreeAggregation
from secfed.errors import ConfigError, UnsupportedEventError

Adjacency = Literal["add_remove", "replace", "remove", "add"]
# Adjacencies of a guarantee; `"remove"` and `"add"` are one direction only.
ADJACENCIES: tuple[Adjacency, ...] = ("add_remove", "replace")
ONE_SIDED: tuple[Adjacency, ...] = ("remove", "add")
# Outside this range squares overflow or differences are lost to rounding.
NOISE_MULTIPLIERS = (1e-6, 1e9)
# Least scale of discrete Laplace noise (below it, rounding loses rare masses), and most losses of one release.
_LEAST_DISCRETE, _MOST_STEPS = 0.01, 4096
_LENGTH = (1e-30, 1e30)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A sum of contributions of Euclidean norm at most `clip_norm`, plus Gaussian noise.

    Args:
        noise_multiplier: Standard deviation of the noise in each coordinate, divided by `clip_norm`; from 1e-6 to 1e9.

    Raises:
        ConfigError: The noise multiplier is not from 1e-6 to 1e9.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        keep(self, noise_multiplier=check_between("noise_multiplier", self.noise_multiplier, *NOISE_MULTIPLIERS))


@dataclass(frozen=True, slots=True)
class Laplace:
    """A sum of contributions of 1-norm at most `clip_norm`, plus Laplace noise.

    Args:
        noise_multiplier: Scale of the noise in each coordinate, divided by `clip_norm`; from 1e-6 to 1e9.

    Raises:
        ConfigError: The noise multiplier is not from 1e-6 to 1e9.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        keep(self, noise_multiplier=check_between("noise_multiplier", self.noise_multiplier, *NOISE_MULTIPLIERS))


@dataclass(frozen=True, slots=True)
class DiscreteLaplace:
    """A sum of integer vectors plus discrete Laplace noise; reducing it modulo a number costs no privacy.

    Each coordinate's noise is two-sided geometric: its probabilities are proportional to exp(-abs(x) / scale).

    Args:
        noise_multiplier: Its scale in whole steps, divided by `sensitivity`; from 0.01 to 1e9.
        sensitivity: Largest 1-norm of one client's integer vector, in whole steps; from 1 to 4096.

    Raises:
        ConfigError: A parameter is out of range.

    Source:
        Ghosh, Roughgarden, Sundararajan: Universally Utility-Maximizing Privacy Mechanisms, STOC 2009.
    """

    noise_multiplier: float
    sensitivity: int = 1

    def __post_init__(self) -> None:
        keep(
            self,
            noise_multiplier=check_between(
                "noise_multiplier", self.noise_multiplier, _LEAST_DISCRETE, NOISE_MULTIPLIERS[1]
            ),
            sensitivity=check_count("sensitivity", self.sensitivity),
        )
        if self.sensitivity > _MOST_STEPS:
            raise ConfigError(
                f"sensitivity {self.sensitivity} must be at most {_MOST_STEPS}: each step has a loss of its own"
            )


@dataclass(frozen=True, slots=True)
class DiscreteGaussianSum:
    """A sum of integer vectors to which each of `clients` honest survivors added discrete Gaussian noise.

    All lengths are in lattice units: whole steps of the rounding.

    Args:
        noise_variance: Parameter sigma squared of the noise that each client adds in each coordinate.
        clients: How many honest clients' noise is in the sum; dropouts and colluders do not count.
        sensitivity: Largest Euclidean norm of one client's integer vector before its noise.
        sensitivity_l1: Largest 1-norm of that vector.
        dimension: Number of coordinates.

    Raises:
        ConfigError: A length or variance is not from 1e-30 to 1e30, or a count is below 1.

    Source:
        Kairouz, Liu, Steinke: The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
        Aggregation, ICML 2021.
    """

    noise_variance: float
    clients: int
    sensitivity: float
    sensitivity_l1: float
    dimension: int

    def __post_init__(self) -> None:
        _check_integer_sum(self)


@dataclass(frozen=True, slots=True)
class SkellamSum:
    """A sum of integer vectors to which each of `clients` honest survivors added Skellam noise.

    All lengths are in lattice units.

    Args:
        noise_variance: Variance of the noise that each client adds in each coordinate.
        clients: Honest clients whose noise is in the sum.
        sensitivity: Largest Euclidean norm of one client's integer vector before its noise.
        sensitivity_l1: Largest 1-norm of that vector.
        dimension: Number of coordinates.

    Raises:
        ConfigError: A length or variance is not from 1e-30 to 1e30, or a count is below 1.

    Source:
        Agarwal, Kairouz, Liu: The Skellam Mechanism for Differentially Private Federated Learning, NeurIPS 2021.
    """

    noise_variance: float
    clients: int
    sensitivity: float
    sensitivity_l1: float
    dimension: int

    def __post_init__(self) -> None:
        _check_integer_sum(self)


@dataclass(frozen=True, slots=True)
class PoissonSampled:
    """A release from a cohort that each client joins independently with the same probability.

    Args:
        sampling_rate: That probability, from 1e-15 to 1.
        event: What is released from the cohort, even if no client joined. The result is divided by a public number,
            never by the number of clients that joined. Pass several Gaussian releases from the same cohort as one
            `Composed`.
        decisive_probability: Needed if cohorts of some sizes release nothing: an upper bound on the probability that
            the rest of the cohort has a size at which one client decides whether there is a release. Each release adds
            it to delta.

    Raises:
        ConfigError: The sampling rate or the probability is out of range, or the event cannot be sampled.
    """

    sampling_rate: float
    event: "Release | Composed"
    decisive_probability: float = 0.0

    def __post_init__(self) -> None:
        keep(
            self,
            sampling_rate=check_rate(self.sampling_rate),
            decisive_probability=check_between("decisive_probability", self.decisive_probability, 0.0, 1.0),
        )
        _check_release("PoissonSampled", self.event)


@dataclass(frozen=True, slots=True)
class FixedSizeSampled:
    """A release from a cohort of fixed size, drawn uniformly among all clients.

    Args:
        cohort: Number of clients drawn.
        population: Number of clients to draw from; at least `cohort`.
        event: What is released from the cohort. Pass several Gaussian releases from the same cohort as one `Composed`.

    Raises:
        ConfigError: The cohort is empty or larger than the population, or the event cannot be sampled.
    """

    cohort: int
    population: int
    event: "Release | Composed"

    def __post_init__(self) -> None:
        keep(self, cohort=check_count("cohort", self.cohort), population=check_count("population", self.population))
        if self.cohort > self.population:
            raise ConfigError(f"cohort {self.cohort} is larger than the population {self.population}")
        check_rate(self.sampling_rate)
        _check_release("FixedSizeSampled", self.event)

    @property
    def sampling_rate(self) -> float:
        """Fraction of the clients drawn."""
        return self.cohort / self.population


@dataclass(frozen=True, slots=True)
class Composed:
    """Several events, all released.

    Args:
        events: Each event and how often it was released.

    Raises:
        ConfigError: A count is below 1, or something is not an event.
    """

    events: tuple[tuple["Event", int], ...]

    def __post_init__(self) -> None:
        try:
            listed = [(event, count) for event, count in self.events]
        except (TypeError, ValueError):
            raise ConfigError(f"found {self.events!r:.100}, needed pairs of an event and a count") from None
        for event, _ in listed:
            check_event(event)
        keep(self, events=tuple((event, check_count("count", count)) for event, count in listed))


@dataclass(frozen=True, slots=True)
class NonPrivate:
    """Something released without noise: no guarantee is left."""


Release = Gaussian | Laplace | DiscreteLaplace | DiscreteGaussianSum | SkellamSum
Event = Release | GaussianMixture | TreeAggregation | Proved | PoissonSampled | FixedSizeSampled | Composed | NonPrivate
_KINDS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (
        Gaussian,
        Laplace,
        DiscreteLaplace,
        DiscreteGaussianSum,
        SkellamSum,
        ApproximateDP,
        RandomizedResponse,
        ExponentialMechanism,
        ZeroConcentrated,
        GaussianMixture,
        TreeAggregation,
        PoissonSampled,
        FixedSizeSampled,
        Composed,
        NonPrivate,
    )
}


def to_json(event: Event) -> dict[str, Any]:
    """Return an event as a JSON object: its kind and its parameters."""
    check_event(event)
    parameters: dict[str, Any] = {"kind": type(event).__name__}
    for parameter in fields(event):
        value = getattr(event, parameter.name)
        if parameter.name == "decisive_probability" and not value:
            continue  # so that events are written as before this parameter existed
        if parameter.name == "event":
            value = to_json(value)
        elif parameter.name == "events":
            value = [[to_json(part), count] for part, count in value]
        parameters[parameter.name] = value
    return parameters


def from_json(parameters: Mapping[str, Any]) -> Event:
    """Return the event that a JSON object describes; the inverse of `to_json`.

    Raises:
        ConfigError: The object does not describe an event.
    """
    try:
        named = dict(parameters)
        kind = _KINDS[named.pop("kind")]
        if "event" in named:
            named["event"] = from_json(named["event"])
        if "events" in named:
            named["events"] = tuple((from_json(part), count) for part, count in named["events"])
        event: Event = kind(**named)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{parameters!r:.200} describes no event: {error!r}") from None
    return event


def check_event(event: object) -> None:
    """Raise an error for anything that is not an event.

    Raises:
        ConfigError: It is not an event.
    """
    if not isinstance(event, Event):
        raise ConfigError(f"found {event!r:.100}, needed an event such as dp.Gaussian(noise_multiplier=1.0)")


def check_adjacency(adjacency: str, *, one_sided: bool = False) -> None:
    """Raise an error for an unknown adjacency, or for a single direction if a guarantee needs both.

    Raises:
        ConfigError: It is unknown, or a single direction.
    """
    known = ADJACENCIES + ONE_SIDED if one_sided else ADJACENCIES
    if not isinstance(adjacency, str) or adjacency not in known:
        raise ConfigError(f"adjacency {adjacency!r} must be one of {', '.join(known)}")


def check_both_directions(adjacency: Adjacency) -> None:
    """Raise an error for a single direction if the question is about both.

    Raises:
        UnsupportedEventError: The adjacency is one direction only.
    """
    if adjacency in ONE_SIDED:
        needed = f"needed {' or '.join(ADJACENCIES)}"
        raise UnsupportedEventError(f"tests and mu of these releases need both directions, found {adjacency}: {needed}")


def simplified(event: Event) -> Event:
    """Return an equivalent event that the engines handle better: several releases become one.

    Gaussian releases from one cohort are one Gaussian release of noise 1 / sqrt(sum 1 / noise^2): divided by their
    noise, they form one vector of norm at most sqrt(sum 1 / noise^2) in noise of 1.
    `docs/accountant.md`, sections 2.5 and 2.7, has the proofs.
    """
    if isinstance(event, TreeAggregation):
        return Gaussian(event.joint_noise())
    if isinstance(event, PoissonSampled | FixedSizeSampled) and isinstance(event.event, Composed):
        return replace(event, event=_one_gaussian(event.event))
    return event


def _one_gaussian(event: Composed) -> Gaussian:
    squares = [count / release.noise_multiplier**2 for release, count in _gaussians(event)]
    return Gaussian(1 / math.sqrt(math.fsum(squares)))


def _gaussians(event: Composed) -> Iterator[tuple[Gaussian, int]]:
    for part, count in event.events:
        if isinstance(part, Gaussian):
            yield part, count
        elif isinstance(part, Composed):
            yield from ((inner, count * times) for inner, times in _gaussians(part))
        else:
            raise ConfigError(f"a sampled dp.Composed needs dp.Gaussian releases only, found {part!r:.100}")


def _check_release(outer: str, event: object) -> None:
    if isinstance(event, Composed):
        if not event.events:
            raise ConfigError(f"{outer} needs at least one release, found an empty dp.Composed")
        _one_gaussian(event)
    elif not isinstance(event, Release):
        raise ConfigError(
            f"{outer} needs one release such as dp.Gaussian(noise_multiplier=1.0), or a dp.Composed of Gaussian ones, "
            f"found {event!r:.100}"
        )


def _check_integer_sum(event: DiscreteGaussianSum | SkellamSum) -> None:
    for name in ("noise_variance", "sensitivity", "sensitivity_l1"):
        keep(event, **{name: check_between(name, getattr(event, name), *_LENGTH)})
    for name in ("clients", "dimension"):
        keep(event, **{name: check_count(name, getattr(event, name))})
