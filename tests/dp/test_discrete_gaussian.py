"""Sums of discrete Gaussians of one coordinate: their bounds hold sums in decimals of 40 digits between them."""

import math
from collections.abc import Iterator
from decimal import Decimal, localcontext

import numpy as np
import pytest

from secfed import dp
from secfed.dp.events import ADJACENCIES

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


def test_too_many_losses_or_a_sampled_cohort_are_bounded_as_before() -> None:
    wide = dp.Accountant().compose(dp.DiscreteGaussianSum(1e6, 10, 100.0, 100.0, 1))
    assert wide.epsilon(1e-6, bounds=True).lower == 0.0 < wide.epsilon(1e-6) < math.inf
    sampled = dp.Accountant().compose(dp.PoissonSampled(0.1, dp.DiscreteGaussianSum(2.0, 10, 2.0, 2.0, 1)))
    assert sampled.epsilon(1e-6, bounds=True).lower == 0.0 < sampled.epsilon(1e-6) < math.inf
