"""What a number rests on, in words: a guarantee without its assumptions is none."""

from collections.abc import Iterable

from secfed.dp.events import (
    Adjacency,
    Composed,
    DiscreteGaussianSum,
    Event,
    FixedSizeSampled,
    Gaussian,
    Laplace,
    NonPrivate,
    PoissonSampled,
    SkellamSum,
)

_ADJACENT = {
    "add_remove": "with or without all data of one client (add_remove)",
    "replace": "with one client's data replaced by any other (replace: a sum moves by up to twice clip_norm)",
}


def assumptions(events: Iterable[tuple[Event, int]], adjacency: Adjacency, delta: float | None) -> str:
    """Say what was released, between which data sets, and what must be true for the numbers to hold.

    Args:
        events: Each event and how often.
        adjacency: Which data sets are adjacent.
        delta: Named if given.

    Returns:
        Sentences.
    """
    listed = list(events)
    parts = [f"Unit: one client; data sets are adjacent {_ADJACENT[adjacency]}."]
    parts += [f"{_times(count)}: {_event(event)}." for event, count in listed] or ["Nothing was released."]
    if listed:
        parts.append("All releases were fixed beforehand, or chosen without looking at earlier ones.")
    if delta is not None:
        parts.append(f"delta = {delta:g}.")
    return " ".join(parts)


def _times(count: int) -> str:
    return "1 release" if count == 1 else f"{count} releases"


def _event(event: Event) -> str:
    if isinstance(event, Gaussian):
        return (
            f"Gaussian noise of {event.noise_multiplier:g} times clip_norm on a sum of contributions clipped to "
            "clip_norm in Euclidean norm"
        )
    if isinstance(event, Laplace):
        return f"Laplace noise of scale {event.noise_multiplier:g} times clip_norm on contributions clipped in 1-norm"
    if isinstance(event, DiscreteGaussianSum | SkellamSum):
        law = "discrete Gaussian" if isinstance(event, DiscreteGaussianSum) else "Skellam"
        return (
            f"a modular sum with {law} noise of variance {event.noise_variance:g} per coordinate from each of "
            f"{event.clients} honest survivors, contributions of norm at most {event.sensitivity:g}, in lattice units"
        )
    if isinstance(event, PoissonSampled):
        cohort = f"each client joins the cohort independently with probability {event.sampling_rate:g}"
        skips = "noise is released also if nobody joined"
        if event.decisive_probability:
            skips = (
                "noise is released unless the cohort is too small or too large, which depends on one client with "
                f"probability {event.decisive_probability:.3g} at most, counted in delta"
            )
        return f"{_event(event.event)}; {cohort}, by secret chance; {skips}"
    if isinstance(event, FixedSizeSampled):
        cohort = f"a cohort of {event.cohort} of {event.population} clients, drawn uniformly"
        return f"{_event(event.event)}; {cohort}, by secret chance"
    if isinstance(event, Composed):
        return "together, " + "; ".join(f"{_times(count)} of {_event(part)}" for part, count in event.events)
    assert isinstance(event, NonPrivate)
    return "something without noise: there is no guarantee"
