"""The accountant always answers: cases that once took minutes, hundreds of gigabytes, or gave a useless bound."""

import math
import signal
import tracemalloc
from collections.abc import Iterator
from types import FrameType

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from secfed import dp
from secfed.dp.contour import integral, moments, nodes, path, privacy_loss, sampled_gaussian, smoothed
from secfed.dp.contour.fourier_sums import transform_work
from secfed.dp.events import ADJACENCIES, Adjacency
from secfed.errors import ConfigError
from tests.examples import examples


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """End a test that would hang."""

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the predicted work of every contour that is built, and refuse smoothed ones that are too long."""
    found: list[float] = []
    build, smooth = integral.build, smoothed.build

    def recorded(releases, moments, chosen, goal):  # type: ignore[no-untyped-def]
        found.append(path.work(releases, chosen, goal))
        return build(releases, moments, chosen, goal)

    def counted(*arguments):  # type: ignore[no-untyped-def]
        made = smooth(*arguments)
        assert made is None or len(made.waves) <= 1.01 * smoothed._MOST_STEPS
        return made

    monkeypatch.setattr(sampled_gaussian, "build", recorded)
    monkeypatch.setattr(smoothed, "build", counted)
    return found


def poisson(rate: float, noise: float, rounds: int) -> dp.Accountant:
    return dp.Accountant().compose(dp.PoissonSampled(rate, dp.Gaussian(noise)), rounds)


Query = tuple[float, float, int, float, Adjacency, bool]
# Rate, noise, rounds, delta, adjacency, and whether cohorts are of fixed size.
QUERIES: st.SearchStrategy[Query] = st.tuples(
    st.floats(-9.0, 0.0).map(lambda power: 10.0**power),
    st.floats(-2.0, 4.0).map(lambda power: 10.0**power),
    st.floats(0.0, 9.0).map(lambda power: int(10.0**power)),
    st.floats(-300.0, -0.001).map(lambda power: 10.0**power),
    st.sampled_from(ADJACENCIES),
    st.booleans(),
)


def check(spent: list[float], query: Query) -> None:
    rate, noise, rounds, delta, adjacency, fixed = query
    spent.clear()
    release = dp.Gaussian(noise)
    event = (
        dp.FixedSizeSampled(max(1, round(rate * 10**9)), 10**9, release) if fixed else dp.PoissonSampled(rate, release)
    )
    accountant = dp.Accountant(adjacency).compose(event, rounds)
    low, high = accountant.epsilon(delta, bounds=True)
    assert 0 <= low <= high <= accountant.rdp_epsilon(delta)
    assert sum(spent) <= 2 * sampled_gaussian._MOST_WORK


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "least", "most"),
    [
        pytest.param(0.01, 0.01, 10, 1e-5, 1.52e4, 1.526e4, marks=pytest.mark.slow),
        (1e-4, 1.0, 10_000, 1e-5, 0.0380, 0.03802),
        pytest.param(1e-4, 1.5, 10_000, 1e-6, 0.0250, 0.02501, marks=pytest.mark.slow),
        (1e-3, 2.0, 100, 1e-6, 0.0189, 0.01892),
        pytest.param(1e-6, 1.0, 100, 1e-8, 2.8e-5, 5.6e-5, marks=pytest.mark.slow),
        pytest.param(1 / 3000, 4.0, 10_000, 1e-300, 0.0, 2.697, marks=pytest.mark.slow),
        (1e-3, 1.0, 3, 1e-8, 0.0964, 0.0966),
        (1e-6, 2.0, 1000, 1e-8, 4.98e-5, 4.99e-5),
        (1.761e-6, 2.0324, 2, 1.406e-8, 3.82e-6, 3.84e-6),
        pytest.param(1.006e-4, 1.316, 7840, 5.5e-6, 0.0224, 0.0228, marks=pytest.mark.slow),
    ],
)
def test_epsilon_is_useful_where_contours_are_long(
    spent: list[float], rate: float, noise: float, rounds: int, delta: float, least: float, most: float
) -> None:
    accountant = poisson(rate, noise, rounds)
    low, high = accountant.epsilon(delta, bounds=True)
    assert least <= high <= most
    assert 0 <= low <= high <= accountant.rdp_epsilon(delta)
    assert sum(spent) <= 2 * sampled_gaussian._MOST_WORK


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "epsilon"), [(0.004258, 11.479, 24, 2.404), (3.07e-4, 1.511, 182, 21.45)]
)
def test_delta_that_underflows_is_above_zero(
    spent: list[float], rate: float, noise: float, rounds: int, epsilon: float
) -> None:
    assert poisson(rate, noise, rounds).delta(epsilon, bounds=True) == (0.0, math.ulp(0.0))
    assert sum(spent) <= 2 * sampled_gaussian._MOST_WORK


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("rate", "noise", "delta"),
    [
        (0.002, 0.14, 1e-28),
        (0.25266519019794464, 0.06495591515725453, 3.218039158181593e-14),
        (0.0028437589349405044, 0.15387915130572577, 9.68546768681119e-14),
    ],
)
@pytest.mark.parametrize("fixed", [False, True])
def test_one_release_is_never_above_its_moment_bound(rate: float, noise: float, delta: float, fixed: bool) -> None:
    release = dp.Gaussian(noise)
    event = dp.FixedSizeSampled(round(rate * 1000), 1000, release) if fixed else dp.PoissonSampled(rate, release)
    accountant = dp.Accountant().compose(event)
    assert 0 < accountant.epsilon(delta) <= accountant.rdp_epsilon(delta) < math.inf


def test_epsilon_is_tight_where_moments_are_far_off() -> None:
    found = poisson(3.2785620092798453e-06, 0.9166988017224543, 2).epsilon(5.0888696247154875e-12, bounds=True)
    assert 7e-4 < found.lower <= found.upper <= found.lower * 1.0001


def test_gaussian_delta_that_underflows_is_above_zero() -> None:
    assert dp.Accountant().compose(dp.Gaussian(1.0)).delta(100.0) > 0


def test_discrete_noise_is_never_above_its_moment_bound() -> None:
    accountant = dp.Accountant().compose(dp.DiscreteGaussianSum(0.5, 1000, 20.0, 300.0, 1000))
    assert accountant.epsilon(1e-5) <= accountant.rdp_epsilon(1e-5) < 136.75


@pytest.mark.parametrize(
    ("epsilon", "rate", "rounds", "expected"),
    [
        pytest.param(3.0, 1e-4, 1000, 0.391412, marks=pytest.mark.slow),
        pytest.param(3.0, 1e-3, 100, 0.461019, marks=pytest.mark.slow),
        pytest.param(10.0, 1e-3, 1000, 0.359581, marks=pytest.mark.slow),
        pytest.param(20.0, 1e-4, 1000, 0.221203, marks=pytest.mark.slow),
    ],
)
def test_noise_is_found_without_a_look_at_hopeless_noise(
    spent: list[float], epsilon: float, rate: float, rounds: int, expected: float
) -> None:
    found = dp.noise_multiplier(epsilon=epsilon, delta=1e-5, sampling_rate=rate, rounds=rounds)
    assert found == pytest.approx(expected, abs=6e-7)
    assert sum(spent) <= 16 * 2 * sampled_gaussian._MOST_WORK
    assert poisson(rate, found, rounds).epsilon(1e-5) <= epsilon
    assert poisson(rate, found * (1 - 1e-5), rounds).epsilon(1e-5, bounds=True).lower > epsilon


@pytest.mark.slow
def test_sampling_rate_is_found_where_noise_is_small(spent: list[float]) -> None:
    found = dp.sampling_rate(epsilon=3.0, delta=1e-5, noise_multiplier=0.3, rounds=1000)
    assert found == pytest.approx(7.10e-6, abs=5e-9)
    assert sum(spent) <= 16 * 2 * sampled_gaussian._MOST_WORK


@pytest.mark.parametrize("rounds", [10, pytest.param(10**6, marks=pytest.mark.slow)])
def test_sampling_rate_for_a_tiny_budget_ends(rounds: int) -> None:
    with pytest.raises(ConfigError, match="no sampling rate"):
        dp.sampling_rate(epsilon=1e-9, delta=1e-12, noise_multiplier=0.01, rounds=rounds)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
def test_many_queries_of_the_promised_range_have_an_answer(spent: list[float], query: Query) -> None:
    check(spent, query)


@examples(2, 8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
@example(query=(10**-0.75, 0.1, 1, 0.1, "replace", False))
@example(query=(0.001, 10.0, 10, 1e-143, "add_remove", True))
@example(query=(0.0001, 1.0, 10**9, 0.9646616199111993, "add_remove", False))  # the contour's epsilon is below 0
def test_every_query_of_the_promised_range_has_an_answer(spent: list[float], query: Query) -> None:
    check(spent, query)


# Each took 3 s and more, nearly all of it to look for cuts of laws that no contour could use.
@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "most"),
    [
        pytest.param(1.9e-8, 0.0185, 2, 1e-18, 2e7, marks=pytest.mark.slow),
        pytest.param(4.6e-7, 0.0281, 423, 1e-15, 6e7, marks=pytest.mark.slow),
        (0.0082, 13.6, 3, 1e-202, 2e7),
    ],
)
def test_cuts_without_a_chance_are_not_looked_for(
    monkeypatch: pytest.MonkeyPatch, rate: float, noise: float, rounds: int, delta: float, most: float
) -> None:
    values = [0]
    remainder = nodes.Nodes.remainder

    def counted(self, cut, orders):  # type: ignore[no-untyped-def]
        values[0] += self.points.size * len(orders)
        return remainder(self, cut, orders)

    monkeypatch.setattr(nodes.Nodes, "remainder", counted)
    event = dp.FixedSizeSampled(round(rate * 10**9), 10**9, dp.Gaussian(noise))
    low, high = dp.Accountant("replace").compose(event, rounds).epsilon(delta, bounds=True)
    assert values[0] <= most
    assert high - low <= 0.01 * high


def test_work_of_a_contour_counts_all_its_steps() -> None:
    # A contour has three steps at least, and its nodes are those of the last one: once 15 GB.
    law = privacy_loss.Laws("remove", *(np.array([value]) for value in (1e-4, 0.5, 10.0)))
    short = path.ContourPath(1.0, 1e-3, 1.0, None, 1.0, np.empty(0), np.empty(0))
    releases = moments.Releases((law,), 0.0)
    last = path.frequencies(short)[0][-1]
    size = privacy_loss.layout(law, 1.0, last, 1e-3 / 4, 1.0)[2][0]
    assert path.work(releases, short, 1e-3) >= transform_work(float(size), 3)


@pytest.mark.parametrize(
    "events",
    [
        (dp.Laplace(1.0), dp.Gaussian(1e-5)),
        (dp.Laplace(1e-6), dp.Laplace(2.0)),
        (dp.PoissonSampled(0.1, dp.Laplace(1e-5)), dp.Laplace(2e-6)),
    ],
)
def test_tiny_noise_of_two_kinds_takes_no_memory(events: tuple[dp.Event, ...]) -> None:
    """A list of such losses once took 74 GiB."""
    accountant = dp.Accountant()
    for event in events:
        accountant.compose(event)
    tracemalloc.start()
    try:
        low, high = accountant.epsilon(1e-6, bounds=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 <= low <= high < math.inf and high > 1e4
    assert peak < 1 << 28


def test_bounds_of_a_tiny_delta_are_in_order() -> None:
    """Masses below a cut are nearly 1, and 40,000 rounding errors of their logarithms were once not counted."""
    event = dp.FixedSizeSampled(2, 1_000_000, dp.Gaussian(2.739574159126682))
    low, high = dp.Accountant("replace").compose(event, 38_983).delta(0.5, bounds=True)
    assert 0 <= low <= high < 1e-38


def test_a_curve_of_little_noise_takes_no_memory() -> None:
    event = dp.FixedSizeSampled(1_910, 1_000_000, dp.Gaussian(0.11246909184911837))
    tracemalloc.start()
    curve = dp.Accountant().compose(event, 47).curve(0.3533744841540091)
    assert tracemalloc.get_traced_memory()[1] < 1 << 28
    tracemalloc.stop()
    assert (curve == 0).all()


def test_epsilon_where_delta_jumps_to_zero_is_found_from_both_sides() -> None:
    """Adding a client multiplies probabilities by 1 - rate at least, so epsilon is nearly -log(1 - rate)."""
    rate = 0.5681314695413721
    event = dp.PoissonSampled(rate, dp.Gaussian(0.13740397876538132))
    low, high = dp.Accountant("add").compose(event).epsilon(2.18e-10, bounds=True)
    assert low == pytest.approx(-math.log1p(-rate), rel=1e-4) and low <= high <= low * (1 + 1e-5)


def in_order(seed: int, queries: int) -> None:
    rng = np.random.default_rng(seed)

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(math.log(low), math.log(high))))

    for _ in range(queries):
        noise, rate, rounds = between(0.3, 20), between(1e-7, 1), int(between(1, 1e6))
        event: dp.Event = dp.PoissonSampled(rate, dp.Gaussian(noise))
        adjacency = ADJACENCIES[rng.integers(len(ADJACENCIES))]
        if adjacency == "replace" and rng.random() < 0.7:
            event = dp.FixedSizeSampled(max(1, round(rate * 1e6)), 1_000_000, dp.Gaussian(noise))
        accountant = dp.Accountant(adjacency).compose(event, rounds)
        epsilon, delta = between(1e-3, 10), between(1e-12, 0.5)
        low, high = accountant.delta(epsilon, bounds=True)
        assert low <= high, (adjacency, event, rounds, epsilon)
        low, high = accountant.epsilon(delta, bounds=True)
        assert low <= high, (adjacency, event, rounds, delta)


def test_lower_bounds_are_below_upper_ones() -> None:
    """Bounds of several engines are combined: if one were wrong, they could cross."""
    in_order(1, 25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_many_lower_bounds_are_below_upper_ones(seed: int) -> None:
    in_order(seed, 100)
