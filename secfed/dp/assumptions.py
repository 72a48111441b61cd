"""The assumptions behind a guarantee, in words: without them the number means nothing.

The required noise is rounded up. The largest allowed rates and norms are rounded down.
"""

from collections.abc import Iterable

from secfed.dp.events import (
    Adjacency,
    Composed,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    SkellamSum,
)
from secfed.dp.mechanisms import ApproximateDP, ExponentialMechanism, RandomizedResponse, ZeroConcentrated
from secfed.dp.mixtures import GaussianMixture
from secfed.dp.rounding import as_given_or_down, as_given_or_up, exact
from secfed.dp.trees import TreeAggregation

_ADJACENT = {
    "add_remove": "with or without all data of one client (add_remove)",
    "remove": "with all data of one client against without them, in this order only (remove)",
    "add": "without all data of one client against with them, in this order only (add)",
    "replace": "with one client's data replaced by any other (replace: a sum moves by up to twice clip_norm)",
}


def assumptions(events: Iterable[tuple[Event, int]], adjacency: Adjacency, delta: float | None) -> str:
    """Return what was released, which data sets are compared, and what must be true for the numbers to hold.

    Args:
        events: Each event and how often.
        adjacency: Which data sets are adjacent.
        delta: Included in the text if given.

    Returns:
        Sentences.
    """
    listed = list(events)
    parts = [f"Unit: one client; data sets are adjacent {_ADJACENT[adjacency]}."]
    parts += [f"{_times(count)}: {_event(event)}." for event, count in listed] or ["Nothing was released."]
    if listed:
        parts.append("All releases were fixed beforehand, or chosen without looking at earlier ones.")
    if delta is not None:
        parts.append(f"delta = {exact(delta)}.")
    return " ".join(parts)


def _times(count: int) -> str:
    return "1 release" if count == 1 else f"{count} releases"


def _of_one_cohort(event: Event) -> str:
    return f"from one cohort, {_event(event)}" if isinstance(event, Composed) else _event(event)


def _event(event: Event) -> str:
    if isinstance(event, Gaussian):
        return (
            f"Gaussian noise of {as_given_or_up(event.noise_multiplier, 6)} times clip_norm on a sum of contributions "
            "clipped to clip_norm in Euclidean norm"
        )
    if isinstance(event, Laplace):
        scale = as_given_or_up(event.noise_multiplier, 6)
        return f"Laplace noise of scale {scale} times clip_norm on contributions clipped in 1-norm"
    if isinstance(event, DiscreteLaplace):
        scale = as_given_or_up(event.noise_multiplier * event.sensitivity, 6)
        steps = "1 whole step" if event.sensitivity == 1 else f"{event.sensitivity} whole steps"
        return f"discrete Laplace noise of scale {scale} on integer contributions of 1-norm at most {steps}"
    if isinstance(event, DiscreteGaussianSum | SkellamSum):
        law = "discrete Gaussian" if isinstance(event, DiscreteGaussianSum) else "Skellam"
        return (
            f"a modular sum with {law} noise of variance {as_given_or_up(event.noise_variance, 6)} per coordinate from "
            f"each of {event.clients} honest survivors, contributions of norm at most "
            f"{as_given_or_down(event.sensitivity, 6)}, in lattice units"
        )
    if isinstance(event, PoissonSampled):
        rate = as_given_or_down(event.sampling_rate, 6)
        cohort = f"each client joins the cohort independently with probability {rate}"
        skips = "noise is released also if no client joined"
        if event.decisive_probability:
            skips = (
                "noise is released unless the cohort is too small or too large, which depends on one client with "
                f"probability {as_given_or_up(event.decisive_probability, 3)} at most, counted in delta"
            )
        return f"{_of_one_cohort(event.event)}; {cohort}, by secret chance; {skips}"
    if isinstance(event, FixedSizeSampled):
        cohort = f"a cohort of {event.cohort} of {event.population} clients, drawn uniformly"
        return f"{_of_one_cohort(event.event)}; {cohort}, by secret chance"
    if isinstance(event, Composed):
        return "together, " + "; ".join(f"{_times(count)} of {_event(part)}" for part, count in event.events)
    if isinstance(event, ApproximateDP):
        delta = as_given_or_down(event.delta, 6)
        return (
            f"something that is proved ({as_given_or_down(event.epsilon, 6)}, {delta})-private between these data sets"
        )
    if isinstance(event, RandomizedResponse):
        epsilon = as_given_or_down(event.epsilon, 6)
        return f"randomized response of epsilon {epsilon} among {event.outcomes} answers, by each client itself"
    if isinstance(event, ExponentialMechanism):
        epsilon = as_given_or_down(event.epsilon, 6)
        return (
            f"a choice with probability proportional to exp({epsilon} utility / (2 sensitivity)), where no candidate's "
            "utility differs by more than the sensitivity between these data sets"
        )
    if isinstance(event, ZeroConcentrated):
        return f"something that is proved {as_given_or_down(event.rho, 6)}-zCDP between these data sets"
    if isinstance(event, TreeAggregation):
        noise, times = as_given_or_up(event.noise_multiplier, 6), event.participations
        return (
            f"Gaussian noise of {noise} times clip_norm on each node of a binary tree over {event.steps} steps; "
            f"each client takes part in at most {times} {'step' if times == 1 else 'steps'}, fixed beforehand, with a "
            "contribution clipped to clip_norm in Euclidean norm"
        )
    if isinstance(event, GaussianMixture):
        drawn = ", ".join(
            f"{as_given_or_down(norm, 6)} with probability {as_given_or_down(share, 6)}"
            for norm, share in zip(event.contributions, event.probabilities, strict=True)
        )
        return (
            f"Gaussian noise of {as_given_or_up(event.noise_multiplier, 6)} times clip_norm on a sum to which a client "
            f"contributes at most a random multiple of clip_norm: {drawn}, by secret chance, independently in each "
            "release"
        )
    assert isinstance(event, NonPrivate)
    return "something without noise: there is no guarantee"
