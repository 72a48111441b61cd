"""Sums along a contour, the bounds of delta from it, and moments: errors are within what is claimed.

The truth is from ball arithmetic, or from closed forms: that of one release, and that of unsampled ones.
"""

import math

import numpy as np
import pytest
from flint import acb, arb

from secfed.dp.contour.cgf import evaluate, log1p
from secfed.dp.contour.integral import Contour, build
from secfed.dp.contour.moments import Moments, Releases
from secfed.dp.contour.path import ContourPath
from secfed.dp.contour.privacy_loss import ROUNDOFF, Direction
from secfed.dp.contour.sampled_gaussian import GOAL
from tests.dp.contour.cases import DIRECTIONS, case, laws
from tests.dp.contour.exact import Exact, gaussian_delta, many_bits

every_direction = pytest.mark.parametrize("direction", DIRECTIONS)
seeds = pytest.mark.parametrize(
    "seeds", [pytest.param(range(2), id="few"), pytest.param(range(2, 24), id="many", marks=pytest.mark.slow)]
)


def test_small_moments_keep_their_digits() -> None:
    """Once half of them were lost: the square of the modulus was a difference of numbers near 1."""
    wave = np.array([-1 + 1e-6 + 3e-6j, -1 - 2e-5j, -0.4 + 1e-3j])
    with many_bits():
        exact = [float(abs(acb(1 + arb(each.real), arb(each.imag))).log().mid()) for each in wave.tolist()]
    assert log1p(wave).real == pytest.approx(exact, rel=1e-15)


@every_direction
@seeds
def test_sums_along_a_contour_are_within_their_error(direction: Direction, seeds: range) -> None:
    ratios, sizes = [], []
    for seed in seeds:
        one = case(direction, seed)
        count = float(one.laws.count[0])
        path = ContourPath(one.order, one.path.period, one.path.frequency)
        # The error aimed at, and one so large that quadrature is all of it.
        for tolerance in (GOAL / 4, 1e-3 * count):
            found, _ = evaluate(Releases((one.laws,), 0.0), path, tolerance)
            last = len(found.exponent) - 1
            sizes.append(float(found.error[-1]) / (1e-9 + tolerance))
            with many_bits():
                scale = one.exact.moment(complex(one.order)).real
                quotients = []
                for j in (0, 1, last // 3, last):
                    u = 2 * math.pi / one.path.period * j
                    exact = one.exact.moment(complex(one.order, u), scale)
                    # exp(K(z)) of all rounds together, over what was found: 1 up to the error.
                    turned = arb(found.mean) * arb(u)
                    total = (
                        acb(arb(found.exponent[j].real) + arb(found.log), arb(found.exponent[j].imag) + turned)
                    ).exp()
                    quotients.append((acb(arb(count)) * exact.log()).exp() / total)
                    # What all u have in common is the error of K(t).
                    off = float(abs(quotients[-1] / (quotients[0] if j else 1) - 1).mid())
                    # Rounding of K(t), of the turn, and of the sum of all rounds.
                    rounding = 8 * ROUNDOFF * (abs(found.log) + 8) + 4 * ROUNDOFF * abs(found.mean) * u
                    rounding += 0.0 if j else found.log_error
                    ratios.append(off / (math.expm1(min(float(found.error[j]), 600.0)) + rounding))
    assert max(ratios) <= 1
    assert max(ratios) > 1e-4 and np.median(sizes) < 1e3


def tried(contour: Contour, epsilon: float) -> tuple[float, float]:
    low, high = contour.bounds(np.array([epsilon]))
    return float(low[0]), float(high[0])


def holds(low: float, high: float, truth: arb) -> None:
    """Compare in balls: a double's logarithm has too few digits to tell."""
    assert arb(low).exp() <= truth <= arb(high).exp(), (low, high, truth)


def single(direction: Direction, seed: int) -> tuple[Releases, Exact, Moments, float]:
    """Return one release, its moments, and an epsilon where delta is neither near 0 nor near its largest value."""
    rng = np.random.default_rng([seed, DIRECTIONS.index(direction), 9])
    rate, noise = 10 ** rng.uniform(-3, 0), 0.3 * 20 ** rng.uniform()
    exact, released = Exact(direction, rate, noise), Releases((laws(direction, rate, noise),), 0.0)
    with many_bits():
        none = exact.delta(0.0)
        epsilon = 1.0
        while exact.delta(epsilon) < none * arb(1e-3):
            epsilon /= 2
    return released, exact, Moments.of(released, None, epsilon), epsilon


@every_direction
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_delta_of_one_release_is_within_bounds_where_one_error_dominates(direction: Direction, seed: int) -> None:
    releases, exact, moments, epsilon = single(direction, seed)
    order = float(moments.order[int(np.argmin(moments.exponent(epsilon)))])
    spread = 1 / math.sqrt(float(np.interp(order, moments.order, moments.variance)))
    gaps = []
    with many_bits():
        truth = exact.delta(epsilon)
        size = float(truth.log())
    # First what wraps around dominates, then what is beyond the end, then neither.
    for period, frequency in ((3 / order, 60 * spread), (8 / order, 60 * spread), (60 / order, 3 * spread),
                              (60 / order, 10 * spread), (60 / order, 60 * spread)):  # fmt: skip
        contour = build(releases, moments, ContourPath(order, period, frequency), 1e-9)
        low, high = tried(contour, epsilon)
        with many_bits():
            holds(low, high, truth)
        gaps.append(high - size)
    # Far from the planned epsilon the same contour gives bounds that hold.
    for factor in (0.0, 0.5, 3.0):
        low, high = tried(contour, epsilon * factor)
        with many_bits():
            holds(low, high, exact.delta(epsilon * factor))
    # The bounds are no wider than where one error dominates, and not useless.
    assert gaps[0] > gaps[1] and gaps[-1] <= min(gaps[0], 8)


@pytest.mark.parametrize("rounds", [1, 30, 1000])
@pytest.mark.parametrize("sampled", [False, True])
def test_unsampled_releases_have_their_closed_form_within_bounds(rounds: int, sampled: bool) -> None:
    """Also where they are given as sampled ones, with rate 1."""
    noise, epsilon = 2.0 * math.sqrt(rounds), 1.0
    law = laws("remove", 1.0, noise, float(rounds))
    releases = Releases((law,), 0.0) if sampled else Releases((), rounds / noise**2)
    moments = Moments.of(Releases((), rounds / noise**2), None, epsilon)
    with many_bits():
        truth = gaussian_delta(noise, rounds, epsilon)
        size = float(truth.log())
    aliases, tails = [], []
    for order in (1.0, 4.0, 12.0):
        for period in (1.0, 3.0, 6.0, 12.0, 60.0):
            low, high = tried(build(releases, moments, ContourPath(order, period, 40.0), GOAL), epsilon)
            with many_bits():
                holds(low, high, truth)
                # Without other errors the sum is above the truth by what wraps around, and the lower value is below.
                excess = float(arb(high).exp() / truth) - 1
            aliases.append((excess, 1 - math.exp(low - size)))
        for frequency in (0.5, 2.0, 5.0):
            low, high = tried(build(releases, moments, ContourPath(order, 60.0, frequency), GOAL), epsilon)
            with many_bits():
                holds(low, high, truth)
            tails.append(high - low)
    assert min(below for _, below in aliases) < 1e-6 < 1e-3 < max(excess for excess, _ in aliases)
    assert max(tails) > 0.1


@every_direction
@seeds
def test_moments_at_real_orders_are_as_exact_as_the_inflated_grid_needs(direction: Direction, seeds: range) -> None:
    errors = []
    for seed in seeds:
        one = case(direction, seed)
        count = float(one.laws.count[0])
        some = np.flatnonzero(one.moments.order <= 1.5 * one.order)
        for i in some[[0, len(some) // 2, -1]]:
            order, change = float(one.moments.order[i]), 2.0**-20
            with many_bits():
                # K, and its first two derivatives by symmetric differences.
                at = [count * one.exact.log_moment(order * (1 + k * change)) for k in (-1, 0, 1)]
                width = arb(order) * arb(change)
                mean, variance = (at[2] - at[0]) / (2 * width), (at[2] - 2 * at[1] + at[0]) / width**2
                errors.append(abs(float(at[1] - arb(float(one.moments.log[i])))))
                assert float(mean) == pytest.approx(float(one.moments.mean[i]), rel=1e-6)
                assert float(variance) == pytest.approx(float(one.moments.variance[i]), rel=1e-5)
                # Of a large K, rounding is more than quadrature.
                assert errors[-1] <= 1e-8 + 1e-14 * float(at[1])
    assert max(errors) > 1e-18


@every_direction
@pytest.mark.parametrize("seed", range(12))
def test_closed_bounds_of_delta_hold_for_one_release(direction: Direction, seed: int) -> None:
    releases, exact, _, epsilon = single(direction, seed)
    with many_bits():
        none = exact.delta(0.0)
        assert none <= arb(releases.variation)
        # Of one release it is the total variation itself, but of PAIR, where a loss of 0 has an atom.
        assert none >= arb(releases.variation) * (1 - arb(1e-9)) * (0 if direction == "replace" else 1)
        for factor in (0.0, 0.3, 1.0, 3.0):
            unsampled = gaussian_delta(1 / releases.unsampled, 1, epsilon * factor)
            assert exact.delta(epsilon * factor) <= unsampled
        # It would not hold for much less noise of distance.
        assert exact.rate < 0.999 or exact.delta(epsilon) > gaussian_delta(1.5 / releases.unsampled, 1, epsilon)


@pytest.mark.parametrize("rounds", [2, 50, 400])
def test_closed_bounds_of_delta_hold_for_many_unsampled_releases(rounds: int) -> None:
    noise = 1.5 * math.sqrt(rounds)
    for releases in (
        Releases((), rounds / noise**2),
        Releases((laws("remove", 1.0, noise, float(rounds)),), 0.0),
        Releases((laws("replace", 1.0, 2 * noise, float(rounds)),), 0.0),
    ):
        with many_bits():
            assert gaussian_delta(noise, rounds, 0.0) <= arb(releases.variation)
            for epsilon in (0.0, 0.5, 4.0):
                truth, bound = (
                    gaussian_delta(noise, rounds, epsilon),
                    gaussian_delta(1 / releases.unsampled, 1, epsilon),
                )
                assert truth <= bound <= truth * (1 + arb(1e-9))
