"""The noise that a plan's budget allows, and what the plan spends."""

import math
from collections.abc import Iterator

from secfed.aggregation.cohort_sizes import MOST_OF_DELTA, refusal_of_skips
from secfed.aggregation.prepared import Prepared
from secfed.dp import calibration
from secfed.dp.accountant import Accountant
from secfed.dp.rounding import exact, up
from secfed.preflight.plan import DEFAULT_DELTA, Plan


def planned_noise(plan: Plan) -> float:
    """Return the noise multiplier of a plan with privacy, or the least that meets its budget.

    Raises:
        ConfigError: No noise meets the budget.
    """
    if plan.noise_multiplier is not None:
        return float(plan.noise_multiplier)
    assert plan.epsilon is not None
    delta, rate, fixed = plan.spent_delta or DEFAULT_DELTA, 1.0, False
    if plan.counts_sampling and plan.population is not None:
        fixed = plan.sampling_rate is None
        rate = plan.cohort / plan.population if fixed else plan.sampling_rate or 1.0
    if plan.aggregator != "plain" and plan.by_chance and plan.counts_sampling:
        delta *= 1 - MOST_OF_DELTA  # the rest is for cohorts that cannot run
    return calibration.noise_multiplier(
        epsilon=plan.epsilon,
        delta=delta,
        sampling_rate=rate,
        rounds=plan.rounds,
        sampling="fixed" if fixed else "poisson",
        population=plan.population if fixed else None,
        adjacency=plan.adjacency or "add_remove",
    )


def spent(plan: Plan, prepared: Prepared) -> float:
    """Return the epsilon that all rounds spend if only the fewest allowed clients survive.

    Raises:
        UnsupportedEventError: There is no proved bound for a round under this adjacency.
    """
    event = prepared.worst_event
    assert event is not None
    accountant = Accountant(plan.adjacency or "add_remove").compose(event, plan.rounds)
    return accountant.epsilon(plan.spent_delta or DEFAULT_DELTA)


def over_budget(plan: Plan, prepared: Prepared, epsilon: float) -> Iterator[str]:
    """Yield the reasons why the rounds exceed the budget."""
    delta = plan.spent_delta or DEFAULT_DELTA
    if plan.by_chance and plan.population is not None:
        refusal = refusal_of_skips(
            prepared.worst_event,
            rounds=plan.rounds,
            delta=delta,
            cohorts=prepared.cohorts,
            expected=plan.cohort,
            population=plan.population,
        )
        if refusal:
            yield refusal
    limit = math.inf if plan.epsilon is None else plan.epsilon
    if math.isinf(epsilon):
        yield f"no epsilon holds at delta {exact(delta)} for {plan.rounds} rounds: needed more noise, or fewer rounds"
    elif epsilon > limit:
        found = f"{plan.rounds} rounds spend epsilon {up(epsilon, 6)} at delta {exact(delta)}"
        yield f"{found}, needed at most {exact(limit)}: more noise, or fewer rounds"
