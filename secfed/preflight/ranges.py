"""Checks of each number of a plan, before an aggregator is made."""

import math
import operator
from collections.abc import Iterator
from numbers import Real
from typing import Any

from secfed.dp.events import ADJACENCIES
from secfed.encoding.flatten import structure
from secfed.errors import EncodingError
from secfed.preflight.plan import Plan
from secfed.secagg.config import MAXIMUM_CLIENTS, MAXIMUM_LENGTH

_WHOLE_OPTIONS = (
    "neighbors", "colluders", "session_colluders", "key_bits", "degree", "minimum_cohort", "bits", "max_weight",
    "minimum_survivors", "layers",
)  # fmt: skip


def out_of_range(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield each option that is out of range or missing, and what was found and needed."""
    if plan.aggregator not in ("secagg", "paillier", "plain"):
        yield "aggregator", f"aggregator {plan.aggregator!r}: needed secagg, paillier or plain"
    if plan.privacy not in ("none", "central", "distributed"):
        yield "privacy", f"privacy {plan.privacy!r}: needed none, central or distributed"
    yield from _wrong_types(plan)
    counts = {"clients": MAXIMUM_CLIENTS, "population": 10**12, "rounds": 10**12}
    sound = True
    for name, most in counts.items():
        value = getattr(plan, name)
        if value is not None and not (_whole(value) and 1 <= value <= most):
            yield name, f"{name} {value!r}: needed a whole number from 1 to {most}"
            sound = False
    fractions = (("dropout_fraction", plan.dropout_fraction), ("corrupt_fraction", plan.corrupt_fraction))
    for name, fraction in fractions:
        if fraction is not None and not (_real(fraction) and 0 <= fraction < 1):
            yield name, f"{name} {fraction!r}: needed from 0 up to, but not including, 1"
    if not (_real(plan.most_failures) and 0 < plan.most_failures < 1):
        yield "most_failures", f"most_failures {plan.most_failures!r}: needed a probability above 0 and below 1"
    if plan.sampling_rate is not None and not (_real(plan.sampling_rate) and 0 < plan.sampling_rate <= 1):
        yield "sampling_rate", f"sampling_rate {plan.sampling_rate!r}: needed a probability above 0 and up to 1"
        sound = False
    if sound:
        yield from _cohort_faults(plan)
    yield from _privacy_faults(plan)
    if _whole(plan.update):
        if not 1 <= plan.update < MAXIMUM_LENGTH:
            yield "update", f"an update of {plan.update} values: needed 1 to {MAXIMUM_LENGTH - 1}"
    else:
        try:
            structure(plan.update)
        except EncodingError as error:
            yield "update", f"the example of an update is invalid: {error}"


def _wrong_types(plan: Plan) -> Iterator[tuple[str, str]]:
    for name in _WHOLE_OPTIONS:
        value = getattr(plan, name)
        if value is not None and not _whole(value):
            yield name, f"{name} {value!r:.100}: needed a whole number"
    for name in ("threshold", "clip", "clip_norm"):
        value = getattr(plan, name)
        if value is not None and not _real(value):
            yield name, f"{name} {value!r:.100}: needed a number"


def _cohort_faults(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.sampling_rate is not None:
        if plan.population is None:
            yield (
                "clients",
                "a sampling_rate without a population: needed the number of clients to draw from",
            )
        elif plan.cohort < 1:
            yield (
                "clients",
                f"sampling_rate {plan.sampling_rate} of {plan.population} clients: needed at least one client a round",
            )
        elif plan.cohort > MAXIMUM_CLIENTS:
            yield "clients", f"a cohort of {plan.cohort} clients: needed at most {MAXIMUM_CLIENTS}"
    elif plan.clients is None:
        yield "clients", "no clients: needed the number of clients in a round, or a population with a sampling_rate"
    elif plan.population is not None and plan.clients > plan.population:
        yield (
            "clients",
            f"{plan.clients} clients from a population of {plan.population}: needed at least as many in the population",
        )


def _privacy_faults(plan: Plan) -> Iterator[tuple[str, str]]:
    if plan.privacy not in ("central", "distributed"):
        return
    if plan.noise_multiplier is None and plan.epsilon is None:
        yield "noise_multiplier", f"privacy {plan.privacy} without noise_multiplier and epsilon: needed one of them"
    for name in ("noise_multiplier", "epsilon"):
        value = getattr(plan, name)
        if value is not None and not (_real(value) and 0 < value < math.inf):
            yield name, f"{name} {value!r}: needed a positive finite number"
    if plan.delta is not None and not (_real(plan.delta) and 0 < plan.delta < 1):
        yield "delta", f"delta {plan.delta!r}: needed a probability above 0 and below 1"
    if plan.adjacency not in (None, *ADJACENCIES):
        yield "adjacency", f"adjacency {plan.adjacency!r}: needed one of {', '.join(ADJACENCIES)}"


def _real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)
