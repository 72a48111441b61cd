"""One direction only: add_remove is the larger of both, and each is what sums and dp-accounting say of it."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import ndtr

from secfed import dp
from secfed.dp.events import ONE_SIDED, Adjacency
from secfed.errors import ConfigError, UnsupportedEventError
from secfed.federated.spending import Spending


def accountant(adjacency: Adjacency, event: dp.Event, count: int = 1) -> dp.Accountant:
    return dp.Accountant(adjacency).compose(event, count)


EVENTS = st.one_of(
    st.builds(lambda q, s: dp.PoissonSampled(q, dp.Gaussian(s)), st.floats(1e-3, 1.0), st.floats(0.5, 5.0)),
    st.builds(lambda m, s: dp.FixedSizeSampled(m, 100, dp.Gaussian(s)), st.integers(1, 100), st.floats(1.0, 9.0)),
    st.builds(lambda q, s: dp.PoissonSampled(q, dp.Laplace(s)), st.floats(1e-2, 1.0), st.floats(1.0, 5.0)),
    st.builds(lambda q, s: dp.PoissonSampled(q, dp.DiscreteLaplace(s)), st.floats(1e-2, 1.0), st.floats(1.0, 5.0)),
    st.builds(
        lambda p, s: dp.GaussianMixture(s, (0.0, 0.5, 1.0), (1 - p, p / 2, p / 2)),
        st.floats(1e-2, 1.0),
        st.floats(0.5, 5),
    ),
)


@settings(max_examples=25)
@given(EVENTS, st.integers(1, 50), st.sampled_from([1e-3, 1e-6]))
def test_add_remove_is_the_larger_of_both(event: dp.Event, count: int, delta: float) -> None:
    both = accountant("add_remove", event, count).epsilon(delta, bounds=True)
    sides = [accountant(side, event, count).epsilon(delta, bounds=True) for side in ONE_SIDED]
    assert both.lower <= max(side.upper for side in sides) * (1 + 1e-9)
    assert both.upper >= max(side.lower for side in sides) * (1 - 1e-9)
    # The same contours: only where one direction hardly matters it is left out.
    assert both.upper == pytest.approx(max(side.upper for side in sides), rel=1e-5, abs=1e-9)


SYMMETRIC = [
    dp.Gaussian(1.5),
    dp.Laplace(2.0),
    dp.DiscreteLaplace(2.0, 3),
    dp.DiscreteGaussianSum(4.0, 10, 5.0, 30.0, 20),
    dp.SkellamSum(9.0, 10, 15.0, 200.0, 64),
    dp.ApproximateDP(0.5, 1e-8),
    dp.ExponentialMechanism(0.5),
    dp.ZeroConcentrated(0.05),
    dp.TreeAggregation(5.0, 100),
    dp.FixedSizeSampled(5, 5, dp.Gaussian(2.0)),
]


@pytest.mark.parametrize("event", SYMMETRIC, ids=lambda event: type(event).__name__)
def test_symmetric_releases_have_the_same_values_in_both(event: dp.Event) -> None:
    both = accountant("add_remove", event, 3)
    for side in ONE_SIDED:
        assert accountant(side, event, 3).epsilon(1e-6, bounds=True) == both.epsilon(1e-6, bounds=True)
        assert accountant(side, event, 3).delta(1.0) == both.delta(1.0)
        assert accountant(side, event, 3).renyi(4.0) == both.renyi(4.0)


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.6, 2.0])
def test_one_sampled_release_equals_normal_tails(epsilon: float) -> None:
    rate, noise = 0.4, 1.2

    def excess(x: float) -> float:
        return math.log(1 - rate + rate * math.exp((x - 0.5) / noise**2)) - epsilon

    end = brentq(excess, -40, 40, xtol=1e-13)
    without, present = ndtr(-end / noise), ndtr((1 - end) / noise)
    exact = (1 - rate) * without + rate * present - math.exp(epsilon) * without
    event = dp.PoissonSampled(rate, dp.Gaussian(noise))
    assert accountant("remove", event).delta(epsilon) == pytest.approx(exact, rel=1e-11)
    # The reverse: small outputs, whose loss is at most -log(1 - rate).
    exact = 0.0
    if epsilon < -math.log(1 - rate):
        end = brentq(lambda x: excess(x) + 2 * epsilon, -200, 40, xtol=1e-13)
        without, present = ndtr(end / noise), ndtr((end - 1) / noise)
        exact = without - math.exp(epsilon) * ((1 - rate) * without + rate * present)
    assert accountant("add", event).delta(epsilon) == pytest.approx(exact, rel=1e-11, abs=1e-300)


# The optimistic and the pessimistic delta of the two directions of dp-accounting 0.6.0's distributions of
# from_mixture_gaussian_mechanism, losses rounded to steps of 1e-4; the first row is Poisson sampling as well.
PEER = [
    (1.0, (0.0, 1.0), (0.7, 0.3), 20, 5.0, (0.007580291164264865, 0.007589509443367545), (1.954529e-8, 1.977678e-8)),
    (5.0, (1.0, 2.0, 3.0), (0.5, 0.3, 0.2), 1, 0.5, (0.0162908152, 0.0162951519), (0.0103284248, 0.0103321924)),
]


@pytest.mark.parametrize(("noise", "contributions", "probabilities", "count", "epsilon", "remove", "add"), PEER)
def test_each_direction_lies_between_what_dp_accounting_says(
    noise: float,
    contributions: tuple[float, ...],
    probabilities: tuple[float, ...],
    count: int,
    epsilon: float,
    remove: tuple[float, float],
    add: tuple[float, float],
) -> None:
    listed: list[dp.Event] = [dp.GaussianMixture(noise, contributions, probabilities)]
    if len(contributions) == 2:
        listed.append(dp.PoissonSampled(probabilities[1], dp.Gaussian(noise)))
    for event in listed:
        for side, (least, most) in (("remove", remove), ("add", add)):
            low, high = accountant(side, event, count).delta(epsilon, bounds=True)  # type: ignore[arg-type]
            assert least <= high and low <= most and high <= low * 1.001


@pytest.mark.parametrize("side", ONE_SIDED)
def test_tests_and_mu_need_both_directions(side: Adjacency) -> None:
    sampled = accountant(side, dp.PoissonSampled(0.1, dp.Gaussian(1.0)))
    for query in (
        sampled.mu,
        lambda: sampled.trade_off(0.1),
        lambda: sampled.true_positive_rate(0.1),
        lambda: sampled.roc(np.array([0.1])),
    ):
        with pytest.raises(UnsupportedEventError, match="need both directions"):
            query()
    assert accountant(side, dp.Gaussian(2.0)).mu() == 0.5
    assert accountant(side, dp.Gaussian(2.0)).trade_off(0.1) == accountant("add_remove", dp.Gaussian(2.0)).trade_off(
        0.1
    )


@pytest.mark.parametrize("side", ONE_SIDED)
def test_ledgers_and_trainings_refuse_one_direction(side: Adjacency, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be one of add_remove, replace$"):
        dp.Ledger.create(tmp_path / "ledger", epsilon=1.0, delta=1e-5, adjacency=side)
    assert not (tmp_path / "ledger").exists()
    # Every training has one: FedAvg, FedOpt, FedBuff and the strategy for Flower.
    for adjacency, spent in ((side, None), (None, dp.Accountant(side)), (side, dp.Accountant(side))):
        with pytest.raises(ConfigError, match=r"must be one of add_remove, replace$"):
            Spending(adjacency, None, None, spent)


@pytest.mark.parametrize("side", ONE_SIDED)
def test_json_words_and_what_has_no_bound(side: Adjacency) -> None:
    one = accountant(side, dp.PoissonSampled(0.1, dp.Gaussian(1.0)), 10)
    again = dp.Accountant.from_json(one.to_json())
    assert again.adjacency == side and again.epsilon(1e-6) == one.epsilon(1e-6)
    assert f"in this order only ({side})" in one.assumptions()
    assert one.curve(1e-6)[-1] == pytest.approx(one.epsilon(1e-6), rel=1e-5)
    with pytest.raises(UnsupportedEventError, match="has no bound under adjacency"):
        accountant(side, dp.RandomizedResponse(1.0)).epsilon(1e-6)
