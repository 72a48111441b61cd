"""Sums of discrete Gaussians of one coordinate: their bounds hold sums in decimals of 40 digits between them."""

import math
from collections.abc import Iterator
from decimal import Decimal, localcontext

import numpy as np
import pytest

from secfed import dp
from secfed.dp.events import ADJACENCIES, Adjacency

# Without extended precision these sums are bounded like those of several coordinates.
pytestmark = pytest.mark.skipif(np.finfo(np.longdouble).eps > 2e-19, reason="long double is a double here")


@pytest.fixture(autouse=True)
def forty_digits() -> Iterator[None]:
    with localcontext() as context:
        context.prec = 40
        yield


def law(variance: float, clients: int) -> dict[int, Decimal]:
    """The sum's probabilities, without what is rarer than 1e-60."""
    reach = math.ceil(17 * math.sqrt(variance))
    one = {x: (-Decimal(x * x) / (2 * Decimal(variance))).exp() for x in range(-reach, reach + 1)}
    whole = sum(one.values())
    one = {x: mass / whole for x, mass in one.items()}
    total = {0: Decimal(1)}
    for _ in range(clients):
        more: dict[int, Decimal] = {}
        for x, mass in total.items():
            for y, other in one.items():
                more[x + y] = more.get(x + y, Decimal(0)) + mass * other
        total = {x: mass for x, mass in more.items() if mass > Decimal("1e-60")}
    return total


def exact_delta(masses: dict[int, Decimal], shift: int, count: int, epsilon: float) -> float:
    """Delta of one or two releases."""
    rows = [
        (masses.get(x - shift, Decimal(0)), masses.get(x, Decimal(0)))
        for x in range(min(masses), max(masses) + shift + 1)
    ]
    factor = Decimal(epsilon).exp()
    if count == 1:
        return float(sum(max(p - factor * q, Decimal(0)) for p, q in rows))
    return float(sum(max(p * r - factor * q * s, Decimal(0)) for p, q in rows for r, s in rows))


@pytest.mark.parametrize("adjacency", ADJACENCIES)
@pytest.mark.parametrize(
    ("variance", "clients", "reach", "count"), [(2.0, 1, 1.0, 1), (0.5, 4, 2.9, 1), (1.5, 3, 2.0, 2), (0.3, 12, 3.2, 1)]
)
def test_sums_of_one_coordinate_equal_sums_in_decimals(
    adjacency: str, variance: float, clients: int, reach: float, count: int
) -> None:
    event = dp.DiscreteGaussianSum(variance, clients, reach, 9.0, 1)
    masses, shift = law(variance, clients), math.floor(reach) * (2 if adjacency == "replace" else 1)
    for epsilon in (0.1, 1.0, 4.0):
        exact = exact_delta(masses, shift, count, epsilon)
        found = dp.Accountant(adjacency).compose(event, count).delta(epsilon, bounds=True)  # type: ignore[arg-type]
        assert found.lower <= exact * (1 + 1e-13) and exact * (1 - 1e-13) <= found.upper
        assert found.upper <= found.lower * (1 + 1e-10 if count == 1 else 1.001)


def test_lower_and_upper_values_meet_and_are_below_those_of_more_coordinates() -> None:
    for composed in ([], [dp.PoissonSampled(0.1, dp.Gaussian(1.0))], [dp.Laplace(3.0)]):
        one, many = dp.Accountant(), dp.Accountant()
        for accountant, dimension in ((one, 1), (many, 2)):
            accountant.compose(dp.DiscreteGaussianSum(2.0, 1000, 20.0, 40.0, dimension), 5)
            for other in composed:
                accountant.compose(other)
        low, high = one.epsilon(1e-6, bounds=True)
        assert 0 < low <= high <= low * 1.0001
        assert high <= many.epsilon(1e-6) and high <= one.rdp_epsilon(1e-6)


def test_a_client_that_cannot_move_the_sum_gives_nothing_away() -> None:
    still = dp.Accountant().compose(dp.DiscreteGaussianSum(2.0, 10, 0.9, 0.9, 1), 3)
    assert still.epsilon(1e-6, bounds=True).lower == 0.0
    assert still.delta(0.5) < 1e-40


@pytest.mark.parametrize("adjacency", ["remove", "add"])
@pytest.mark.parametrize(
    ("rate", "variance", "clients", "reach"), [(0.1, 2.0, 5, 2.0), (0.5, 6.0, 2, 3.7), (1e-3, 3.0, 3, 1.0)]
)
def test_sampled_sums_are_within_their_bounds(
    adjacency: Adjacency, rate: float, variance: float, clients: int, reach: float
) -> None:
    event = dp.PoissonSampled(rate, dp.DiscreteGaussianSum(variance, clients, reach, 9.0, 3))
    masses, shift, share = law(variance, clients), math.floor(reach), Decimal(rate)
    outside = {x: masses.get(x, Decimal(0)) for x in range(min(masses), max(masses) + shift + 1)}
    inside = {x: (1 - share) * mass + share * masses.get(x - shift, Decimal(0)) for x, mass in outside.items()}
    first, second = (inside, outside) if adjacency == "remove" else (outside, inside)
    for epsilon in (rate / 4, rate, 2 * rate):
        factor = Decimal(epsilon).exp()
        # The client contributes in one of the three coordinates.
        exact = float(sum(max(first[x] - factor * second[x], Decimal(0)) for x in outside))
        found = dp.Accountant(adjacency).compose(event).delta(epsilon, bounds=True)
        assert found.lower <= exact + 1e-50 and exact - 1e-50 <= found.upper  # `law` leaves out rarer sums
        assert epsilon > rate / 4 or found.lower > exact / 2


def test_lower_values_of_large_sums_meet_the_upper_ones() -> None:
    for dimension, count in ((1, 1), (5, 20)):
        event = dp.DiscreteGaussianSum(1e6, 10, 100.0, 100.0, dimension)
        for released in (event, dp.PoissonSampled(0.1, event), dp.FixedSizeSampled(10, 100, event)):
            for others in ([], [dp.Gaussian(8.0)]):
                accountant = dp.Accountant().compose(released, count)
                for other in others:
                    accountant.compose(other)
                lower, upper = accountant.epsilon(1e-6, bounds=True)
                assert 0 <= lower <= upper <= lower * (1 + 1e-5) + 1e-9
                lower, upper = accountant.delta(0.01, bounds=True)
                assert 0 <= lower <= upper <= lower * (1 + 1e-4) + 1e-9


def test_a_lower_value_is_not_above_that_of_one_coordinate() -> None:
    many = dp.Accountant().compose(dp.DiscreteGaussianSum(2.0, 10, 3.9, 3.5, 4), 3)
    one = dp.Accountant().compose(dp.DiscreteGaussianSum(2.0, 10, 3.9, 3.5, 1), 3)
    lower = many.epsilon(1e-6, bounds=True).lower
    assert 0.9 * one.epsilon(1e-6, bounds=True).lower < lower <= one.epsilon(1e-6)


def test_what_has_no_exact_pair_is_left_out_of_the_lower_value() -> None:
    event = dp.DiscreteGaussianSum(2.0, 100, 9.0, 9.0, 4)
    alone = dp.Accountant().compose(event, 3).epsilon(1e-6, bounds=True).lower
    for other in (dp.ExponentialMechanism(0.1), dp.SkellamSum(2.0, 100, 9.0, 9.0, 4)):
        both = dp.Accountant().compose(event, 3).compose(other).epsilon(1e-6, bounds=True)
        assert both.lower == alone < both.upper
    with_laplace = dp.Accountant().compose(event, 3).compose(dp.Laplace(2.0)).epsilon(1e-6, bounds=True)
    assert alone < with_laplace.lower <= with_laplace.upper
    for little in (dp.DiscreteGaussianSum(0.1, 1, 9.0, 9.0, 4), dp.DiscreteGaussianSum(2.0, 9, 0.5, 0.5, 4)):
        assert dp.Accountant().compose(little).epsilon(1e-6, bounds=True).lower == 0
