"""Noise from the clients of a secret Poisson cohort: its law must not tell how many joined."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import secfed
from secfed import dp
from secfed.aggregation import DistributedGaussian
from secfed.aggregation.private_sum import PrivateSum
from secfed.errors import ConfigError, TooFewSurvivorsError
from secfed.secagg import Stage

CLIENTS, RATE, FEWEST = 60, 0.5, 16
SECRET = DistributedGaussian(
    1.0, 2.0, layers=CLIENTS, secret_cohort=True, minimum_survivors=FEWEST, population=CLIENTS, sampling_rate=RATE
)
MECHANISMS = pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])


def pipeline(privacy: DistributedGaussian = SECRET, size: int = 1) -> PrivateSum:
    transform: Any = (
        secfed.SecAgg(threshold=FEWEST / CLIENTS).prepare(np.zeros(size), range(1, 31), privacy=privacy).transform
    )
    return transform


def variance(pipe: PrivateSum, survivors: int) -> float:
    """Variance of the noise in a sum, in squared clips."""
    assert pipe.plan is not None
    return survivors * pipe.plan.noise.per_client(survivors) * pipe.plan.step**2


def true_delta(pipe: PrivateSum, epsilon: float) -> float:
    """Delta of one round in one dimension, by its densities, without the rounds that release nothing.

    The others contribute 0, one client contributes 1 in the first world and is missing in the second.
    """
    x = np.arange(-30, 30, 0.02)
    with_client, without = np.zeros((2, len(x)))
    smallest, largest = pipe.cohorts
    for size in range(CLIENTS):
        chance = stats.binom.pmf(size, CLIENTS - 1, RATE)
        if smallest <= size <= largest:
            density = chance * stats.norm.pdf(x, 0, math.sqrt(variance(pipe, size)))
            without += density
            with_client += (1 - RATE) * density
        if smallest <= size + 1 <= largest:
            with_client += RATE * chance * stats.norm.pdf(x, 1, math.sqrt(variance(pipe, size + 1)))
    pairs = (with_client, without), (without, with_client)
    return max(float(np.maximum(one - math.exp(epsilon) * other, 0).sum()) * 0.02 for one, other in pairs)


@pytest.mark.parametrize("layers", [1, 4, CLIENTS])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_true_delta_is_at_most_the_committed_one_or_the_plan_is_refused(layers: int, epsilon: float) -> None:
    """With one layer, 37 survivors and epsilon 0.5 the committed event had 5.2e-4, the truth is 1.8e-3."""
    try:
        pipe = pipeline(replace(SECRET, layers=layers))
    except ConfigError:
        assert layers < CLIENTS
        return
    true = true_delta(pipe, epsilon)
    for event in {pipe.event(survivors) for survivors in range(FEWEST, 56)}:
        assert true <= dp.Accountant().compose(event).delta(epsilon)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"layers": 1}, "found 1 layers and 0 colluders, needed layers=40"),
        ({"layers": 39}, "found 34 layers and 0 colluders, needed layers=40"),
        ({"colluders": 1}, "found 40 layers and 1 colluders, needed layers=40"),
    ],
)
def test_noise_that_grows_with_a_secret_cohort_is_refused(changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(found) + ".* or cohort_size in place of sampling_rate"):
        pipeline(replace(SECRET, **changes))
    unsampled = replace(SECRET, sampling_rate=1.0, cohort_size=30, **changes)
    assert isinstance(pipeline(unsampled).worst_event, dp.FixedSizeSampled)
    assert isinstance(pipeline(replace(SECRET, secret_cohort=False, **changes)).worst_event, dp.DiscreteGaussianSum)


@MECHANISMS
def test_noise_and_event_of_a_secret_cohort_are_the_same_for_any_survivors(mechanism: Any) -> None:
    pipe = pipeline(replace(SECRET, mechanism=mechanism))
    assert pipe.plan is not None
    numbers = range(FEWEST, pipe.plan.clients + 1)
    assert pipe.cohorts == (FEWEST, pipe.plan.clients)
    needed = pipe.plan.noise.variance * pipe.plan.step**2
    assert [variance(pipe, survivors) for survivors in numbers] == pytest.approx([needed] * len(numbers), rel=1e-12)
    assert {pipe.event(survivors) for survivors in numbers} == {pipe.worst_event}


@pytest.mark.sampled(1)
@MECHANISMS
def test_sum_of_a_secret_cohort_has_the_noise_that_is_accounted(mechanism: Any) -> None:
    privacy, size = replace(SECRET, mechanism=mechanism), 1000
    for clients in (FEWEST, 24):
        updates = [np.zeros(size)] * clients
        result = secfed.SecAgg(threshold=FEWEST / CLIENTS).aggregate(updates, privacy=privacy)
        error = float(np.mean((result.mean * result.weight) ** 2))
        assert error == pytest.approx(4.0, rel=6 * math.sqrt(2 / size) + 0.02)  # and a little for rounding


def test_secret_cohort_whose_survivors_keep_their_surplus_is_not_released(tmp_path: Path) -> None:
    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return {cohort[0]: Stage.UNMASKING}

    aggregator = secfed.SecAgg(threshold=FEWEST / CLIENTS)
    privacy = replace(SECRET, sampling_rate=1.0, population=None)
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=1e6, delta=0.9)
    training = secfed.FedAvg(lambda model, data: (model, 1), aggregator=aggregator, privacy=privacy, ledger=ledger)
    rounds = training.rounds(np.zeros(3), [0] * CLIENTS, 1, sampling_rate=RATE, seed=1, dropouts=dropouts)
    report = next(rounds)
    size = len(report.cohort)
    assert f"{size - 1} of {size} survivors revealed surplus noise, needed all" in report.failure
    assert [entry.state for entry in ledger.entries()] == ["committed"]
    with pytest.raises(TooFewSurvivorsError, match="29 of 30 survivors revealed surplus noise"):
        aggregator.aggregate([np.zeros(3)] * 30, privacy=SECRET, dropouts={5: Stage.UNMASKING})


def test_secret_cohort_larger_than_planned_is_refused() -> None:
    with pytest.raises(TooFewSurvivorsError, match="the cohort has 56 clients, needed at most 55"):
        secfed.SecAgg(threshold=FEWEST / CLIENTS).aggregate([np.zeros(3)] * 56, privacy=SECRET)
