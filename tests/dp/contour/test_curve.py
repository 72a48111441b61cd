"""Rows that share a contour are as exact, and as cautious, as contours of their own."""

import math
from dataclasses import replace

import numpy as np
import pytest

from secfed.dp.accountant import Accountant
from secfed.dp.contour import curve, growing, path, smoothed
from secfed.dp.contour.growing import GrowingPairs, GrowingSampled
from secfed.dp.contour.integral import build
from secfed.dp.contour.moments import Moments, Releases
from secfed.dp.contour.pairs import NoiseLaw
from secfed.dp.contour.path import ContourPath, adapted, choose
from secfed.dp.contour.privacy_loss import Direction, Reals
from secfed.dp.contour.sampled_gaussian import GOAL, rare_guess
from secfed.dp.engines import GaussianEngine
from secfed.dp.events import (
    Adjacency,
    Composed,
    DiscreteGaussianSum,
    DiscreteLaplace,
    Event,
    Gaussian,
    Laplace,
    PoissonSampled,
)
from secfed.dp.mechanisms import ApproximateDP, ExponentialMechanism, RandomizedResponse
from secfed.dp.mixtures import GaussianMixture
from tests.dp.contour.cases import laws

NOTHING = Releases((), 0.0)
BASES = {
    "nothing": NOTHING,
    "gaussian": Releases((), 1e-9),
    "sampled": Releases((laws("remove", 1e-3, 0.85, 1.0),), 1e-9),
}
LOG_DELTA = math.log(1e-5)


def _alone(releases: Releases, log_delta: float, goal: float = GOAL) -> tuple[float, float]:
    return GaussianEngine(releases).epsilon(log_delta, goal=goal)


@pytest.mark.parametrize("base", ["nothing", "gaussian", pytest.param("sampled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("direction", "rate", "noise", "cut"),
    [("remove", 1e-3, 0.8, True), ("replace", 1e-3, 0.7, True), ("add", 0.3, 1.5, False)],
)
def test_rows_give_the_bounds_of_their_own_contours(
    base: str, direction: Direction, rate: float, noise: float, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, extra, counts = (
        BASES[base],
        Releases((laws(direction, rate, noise, 1.0),), 0.0),
        np.array([3.0, 4.0, 5.0, 6.0]),
    )
    paths = []

    def keep(*arguments: object, **options: object) -> ContourPath | None:
        paths.append(choose(*arguments, **options))  # type: ignore[arg-type]
        return paths[-1]

    monkeypatch.setattr(growing, "choose", keep)
    monkeypatch.setattr(path, "_FEW_STEPS", 1e3)  # so that cuts are worthwhile
    monkeypatch.setattr(growing, "_MOST_WORK", math.inf)
    log_delta = np.full(4, LOG_DELTA)
    contours = GrowingSampled(before, extra, _alone).contours(counts, log_delta, math.inf, 0.0)
    found, guess = next((shared, guess) for shared, guess, _ in contours if shared)
    if base != "sampled":
        assert (paths[-1].cut is not None) == cut
    # The next block may ask for more releases on the same contour.
    some = np.array([3.0, 6.0, 9.0])
    shared = found.rows(some)
    for i, count in enumerate(some):
        joined = before.joined(extra, float(count))
        like = replace(paths[-1], frequency=float(2 * math.pi / shared.period * (len(shared.waves) - 1)) * (1 - 1e-9))
        own = build(joined, Moments.at(joined, shared.orders), adapted(joined, like), growing._GOAL)
        assert len(own.waves) == len(shared.waves)
        at = np.array([0.7, 1.0, 1.3]) * guess
        for epsilon in at:
            low, high = (part[i] for part in shared.bounds(np.full(3, epsilon)))
            low_own, high_own = (part[0] for part in own.bounds(np.array([epsilon])))
            # Both hold, so they overlap; and sharing costs little.
            assert low <= high_own and low_own <= high
            assert high == pytest.approx(high_own, abs=1e-3) and low == pytest.approx(low_own, abs=1e-3)


@pytest.mark.parametrize(
    ("direction", "rate", "noise"),
    [("remove", 0.1, 0.6), ("remove", 1e-3, 0.8), ("replace", 0.01, 1.0), ("fixed_size", 0.01, 0.6)],
)
def test_the_first_contour_of_a_block_suits_its_smallest_count(direction: Direction, rate: float, noise: float) -> None:
    extra, counts = Releases((laws(direction, rate, noise, 1.0),), 0.0), np.arange(2.0, 6.0)
    log_delta, least = np.full(4, LOG_DELTA), _alone(extra, LOG_DELTA)[1]
    contours = GrowingSampled(NOTHING, extra, _alone).contours(counts, log_delta, math.inf, 0.0, least)
    shared, guess, _ = next(contours)
    assert shared
    low, high, _ = shared.epsilon(counts, log_delta, guess * counts / counts[-1])
    assert growing.close(low, high).all()


@pytest.mark.parametrize(
    ("rate", "noise", "rounds", "delta", "near"),
    [(1e-3, 0.8, 5, 1e-5, 0.05), (1e-3, 0.6, 100, 1e-8, 0.05), (4.6e-7, 7.5, 600_300, 4.6e-11, 0.3)],
)
def test_a_guess_for_rare_participation(rate: float, noise: float, rounds: int, delta: float, near: float) -> None:
    releases = Releases((laws("remove", rate, noise, float(rounds)),), 0.0)
    assert rare_guess(releases, math.log(delta)) == pytest.approx(_alone(releases, math.log(delta))[1], rel=near)


def test_no_row_is_below_the_bounds_of_a_query() -> None:
    """What is beyond a cut adds up over rounds; it is not a product as the rest is."""
    extra = Releases((laws("remove", 1e-3, 0.8, 1.0),), 0.0)
    chosen = choose(
        extra.joined(extra, 5.0), Moments.of(extra.joined(extra, 5.0), LOG_DELTA, None), 0.05, LOG_DELTA, 1e-8
    )
    assert chosen is not None and chosen.cut is not None
    one = growing.evaluate(extra, chosen, 1e-10)[0]
    assert one.beyond is not None
    tails = one.plus(one, np.array([1.0, 9.0])).tail
    assert tails == pytest.approx([one.tail + one.beyond + math.log(2), one.tail + one.beyond + math.log(10)])


@pytest.mark.parametrize("base", ["nothing", "gaussian", "sampled"])
@pytest.mark.parametrize(
    ("direction", "rate", "noise"), [("remove", 1e-4, 1.0), ("replace", 1e-3, 0.8), ("fixed_size", 1e-4, 2.0)]
)
def test_rows_on_a_smoothed_contour_are_as_tight_as_queries(
    base: str, direction: Direction, rate: float, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing, "_MOST_WORK", 0.0)  # no exact contour
    before, extra = BASES[base], Releases((laws(direction, rate, noise, 1.0),), 0.0)
    counts, log_delta = np.array([6.0, 8.0, 15.0]), LOG_DELTA - np.array([0.0, 0.01, 0.02])
    bounds = [_alone(before.joined(extra, count), float(log)) for count, log in zip(counts, log_delta, strict=True)]
    found = list(GrowingSampled(before, extra, _alone).contours(counts, log_delta, 0.8 * bounds[-1][1], 0.0))
    shared, most = next((shared, most) for shared, _, most in found if shared)
    assert bounds[-1][0] <= most
    low, high, _ = shared.epsilon(counts, log_delta, np.full(3, most))
    for one, two, (least, largest) in zip(low, high, bounds, strict=True):
        assert one <= largest and least <= two
    assert growing.close(low, high).all()


@pytest.mark.parametrize("cap", [2e-4, 1e-2])
def test_caps_that_suit_badly_widen_rows_but_they_hold(cap: float) -> None:
    extra = Releases((laws("remove", 1e-4, 1.0, 1.0),), 0.0)
    counts = np.array([6.0, 15.0])
    both = GrowingSampled(NOTHING, extra, _alone)._capped(15.0, LOG_DELTA, cap, cap)
    before = growing.Attempt(None, 1e-3, math.inf)
    # A floor, so that wide bounds are returned too.
    found, _, most = growing._smoothed(lambda _: both, counts[-1:], np.array([LOG_DELTA]), before, 1.0)
    assert found is not None
    high = found.epsilon(counts, np.full(2, LOG_DELTA), np.full(2, 1e-3))[1]
    lowest = [_alone(NOTHING.joined(extra, count), LOG_DELTA)[0] for count in counts]
    assert (high >= lowest).all() and most >= lowest[-1]


def test_a_direction_that_does_not_matter_needs_no_contour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer releases reveal no more: one bound shows that the other direction is the worse one in all rows."""
    extra, counts = Releases((laws("add", 1e-4, 1.0, 1.0),), 0.0), np.arange(41.0, 103.0)
    # Epsilon of the other direction.
    floor = np.linspace(0.00223, 0.0035, len(counts))
    monkeypatch.setattr(GrowingSampled, "_exact", None)
    monkeypatch.setattr(growing, "_smoothed", None)
    added = GrowingSampled(NOTHING, extra, _alone)
    assert np.isinf(added.settled(counts, np.full(len(counts), LOG_DELTA), floor)).any()
    found, _ = curve._block(added, counts, np.full(len(counts), LOG_DELTA), floor, np.zeros(2), None)
    assert (found <= floor).all()


def test_cheap_bounds_settle_rows_of_any_pairs_too() -> None:
    counts, log_delta, nothing = np.arange(10.0, 31.0), np.full(21, LOG_DELTA), np.zeros(21)
    added, removed, base = (
        [(NoiseLaw(scale, rate, direction, laplace=True), 1)]
        for scale, rate, direction in ((1.0, 0.01, "add"), (1.0, 0.01, "remove"), (20.0, 1.0, "remove"))
    )
    last = [*base, *((law, 30) for law, _ in removed)]
    low = smoothed.epsilon_bounds(last, LOG_DELTA)[0]
    worse, better = GrowingPairs(base, removed, int), GrowingPairs(base, added, int)
    assert (better.settled(counts, log_delta, np.full(21, low)) == low).all()
    assert smoothed.epsilon_bounds([*base, *((law, 30) for law, _ in added)], LOG_DELTA)[1] <= low
    assert np.isinf(worse.settled(counts, log_delta, np.full(21, 0.99 * low))[-1])
    # Nothing is known without a floor, except that few releases at a tiny rate reveal nothing.
    assert np.isinf(better.settled(counts, log_delta, nothing)).all()
    rare = [(NoiseLaw(1.0, 1e-6, "remove", laplace=True), 1)]
    known = GrowingPairs([], rare, int).settled(counts, log_delta, nothing)
    total = -math.expm1(-0.5) * 1e-6
    assert known.tolist() == [0.0 if count * total <= 1e-5 else math.inf for count in counts]
    assert 0 < np.isinf(known).sum() < 21
    assert smoothed.epsilon_bounds([(rare[0][0], 25)], LOG_DELTA) == (0.0, 0.0)


def test_rows_with_epsilon_0_need_no_contour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrowingSampled, "contours", None)
    extra, counts = Releases((laws("replace", 1e-6, 10.0, 1.0),), 0.0), np.arange(1.0, 51.0)
    sampled = GrowingSampled(NOTHING, extra, _alone)
    assert (sampled.settled(counts, np.full(50, LOG_DELTA), np.zeros(50)) == 0).all()
    assert _alone(NOTHING.joined(extra, 50.0), LOG_DELTA) == (0.0, 0.0)
    # In ten times as many rounds, epsilon is 0 only after the first ones.
    known = sampled.settled(counts * 10, np.full(50, LOG_DELTA), np.zeros(50))
    assert 0 < np.isinf(known).sum() < 50 and (np.diff(known[:10]) == 0).all()


CURVES: dict[str, tuple[Event, Adjacency]] = {
    "Laplace": (Laplace(10.0), "add_remove"),
    "sampled Laplace": (PoissonSampled(0.01, Laplace(1.0)), "add_remove"),
    "one direction": (PoissonSampled(0.1, Laplace(1.0)), "add"),
    "discrete Laplace": (DiscreteLaplace(5.0), "replace"),
    "randomized response": (RandomizedResponse(0.3), "replace"),
    "exponential mechanism": (ExponentialMechanism(0.1), "add_remove"),
    "proved": (ApproximateDP(0.1, 1e-9), "add_remove"),
    "all of delta": (ApproximateDP(0.1, 2e-7), "add_remove"),
    "mixture": (GaussianMixture(1.0, (0.0, 0.5, 1.0), (0.97, 0.02, 0.01)), "add_remove"),
    "several": (Composed(((Laplace(10.0), 2), (PoissonSampled(0.01, Gaussian(1.0)), 3))), "add_remove"),
}


BEFORE = {"nothing": None, "sampled Gaussian": PoissonSampled(0.01, Gaussian(1.0)), "Laplace": Laplace(20.0)}


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        pytest.param(
            kind, base, id=f"{kind} after {name}", marks=[pytest.mark.slow] if base and kind == "mixture" else []
        )
        for name, base in BEFORE.items()
        for kind in CURVES
    ],
)
def test_curves_of_all_kinds_agree_with_queries(kind: str, base: Event | None) -> None:
    (event, adjacency), rounds = CURVES[kind], 12
    accountant = Accountant(adjacency)
    if base is not None:
        accountant.compose(base, 3)
    found = accountant.copy().compose(event, rounds).curve(1e-6)[-rounds:]
    for count in (1, 2, 5, 6, 12):
        low, high = accountant.copy().compose(event, count).epsilon(1e-6, bounds=True)
        value = found[count - 1]
        assert low <= value and (value == high or growing.close(np.array(high), value))


def test_a_curve_does_not_fall() -> None:
    """Contours leave some rows a little too large, which the rows after them correct."""
    extra, counts = Releases((laws("remove", 0.01, 1.1, 1.0),), 0.0), np.arange(1.0, 31.0)

    class Loose(GrowingSampled):
        def settled(self, counts: Reals, log_delta: Reals, floor: Reals) -> Reals:
            right = np.array([_alone(NOTHING.joined(extra, count), LOG_DELTA)[1] for count in counts])
            return right * (1 + 0.3 * (counts % 3 == 0))

    found = curve.upper_curve(Loose(NOTHING, extra, _alone), counts, np.full(30, LOG_DELTA), np.zeros(30))
    assert (np.diff(found) >= 0).all()
    assert found[19] == pytest.approx(_alone(NOTHING.joined(extra, 20.0), LOG_DELTA)[1])
    # The third row is bounded by the fourth.
    assert found[2] == min(found[3], 1.3 * _alone(NOTHING.joined(extra, 3.0), LOG_DELTA)[1])


def test_rows_are_not_asked_alone_where_that_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growing, "_FINE", 0.0)
    monkeypatch.setattr(growing, "_TINY", 0.0)  # no bounds are close
    monkeypatch.setattr(growing, "_LONGER", ())
    extra, asked = Releases((laws("remove", 0.01, 1.1, 1.0),), 0.0), []

    def bounds(releases: Releases, log_delta: float, goal: float) -> tuple[float, float]:
        asked.append(float(releases.laws[0].count[0]))
        return _alone(releases, log_delta, goal)

    sampled, counts, log_delta = GrowingSampled(NOTHING, extra, bounds), np.arange(21.0, 41.0), np.full(20, LOG_DELTA)
    found, _ = curve._block(sampled, counts, log_delta, np.zeros(20), np.zeros(2), None)
    assert asked == [21.0]
    assert found[-1] == pytest.approx(_alone(NOTHING.joined(extra, 40.0), LOG_DELTA)[1], rel=1e-6)
    # A contour that tells little does not stop it.
    asked.clear()
    monkeypatch.setattr(curve, "_NO_BETTER", -0.5)
    curve._block(sampled, counts, log_delta, np.zeros(20), np.zeros(2), None)
    assert sorted(asked) == counts.tolist()


def test_curves_where_a_part_has_other_pairs_than_the_whole() -> None:
    """Sums of discrete Gaussians have exact pairs in one coordinate, and Gaussian bounds in several."""

    def noise(dimension: int) -> DiscreteGaussianSum:
        return DiscreteGaussianSum(
            noise_variance=4.0, clients=10, sensitivity=2.0, sensitivity_l1=5.0, dimension=dimension
        )

    for first, second in ((noise(1), noise(9)), (noise(9), noise(1)), (noise(1), noise(1)), (noise(9), Laplace(3.0))):
        found = Accountant().compose(first, 2).compose(second, 3).curve(1e-6)
        for i, (event, count) in enumerate([(first, 1), (first, 2), (second, 1), (second, 2), (second, 3)]):
            accountant = Accountant().compose(first, 2) if i > 1 else Accountant()
            high = accountant.compose(event, count).epsilon(1e-6)
            assert high <= found[i] * (1 + 1e-9) and growing.close(np.array(high), found[i])


def test_a_curve_of_any_kind_shares_contours() -> None:
    asked: list[int] = []
    pair = NoiseLaw(0.5, 0.01, "remove", laplace=True)

    def alone(count: int) -> float:
        asked.append(count)
        return smoothed.epsilon_bounds([(pair, count)], LOG_DELTA)[1]

    counts = np.arange(1.0, 41.0)
    found = curve.upper_curve(GrowingPairs([], [(pair, 1)], alone), counts, np.full(40, LOG_DELTA), np.zeros(40))
    assert asked == [1]
    assert found[[4, 39]] == pytest.approx([alone(5), alone(40)], rel=1e-5)


def test_a_value_serves_the_counts_before_it_where_all_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    extra, asked = Releases((laws("remove", 0.01, 1.1, 1.0),), 0.0), list[float]()

    def alone(releases: Releases, log_delta: float, goal: float) -> tuple[float, float]:
        count = float(releases.laws[0].count[0])
        asked.append(count)
        return 0.0, max(0.0, 2e-8 * (count - 300))

    monkeypatch.setattr(growing.GrowingSampled, "contours", lambda *_: iter(()))
    monkeypatch.setattr(growing.GrowingSampled, "settled", lambda self, counts, *_: np.full(len(counts), math.inf))
    counts = np.arange(1.0, 1001.0)
    found = curve.upper_curve(GrowingSampled(NOTHING, extra, alone), counts, np.full(1000, LOG_DELTA), np.zeros(1000))
    true = np.maximum(0.0, 2e-8 * (counts - 300))
    assert (found >= true).all() and growing.close(true, found).all()
    assert len(asked) == len(set(asked)) and len(asked) < 100


def test_a_long_contour_serves_the_next_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    extra, counts = Releases((laws("remove", 0.01, 1.1, 1.0),), 0.0), np.arange(1.0, 16.0)
    log_delta, floor = np.full(15, LOG_DELTA), np.zeros(15)
    paths = []

    def keep(*arguments: object, **options: object) -> ContourPath | None:
        if chosen := choose(*arguments, **options):  # type: ignore[arg-type]
            paths.append(chosen)
        return chosen

    monkeypatch.setattr(growing, "choose", keep)
    fresh = curve.upper_curve(GrowingSampled(NOTHING, extra, _alone), counts, log_delta, floor)
    assert len(paths) == 2
    monkeypatch.setattr(curve, "_LONG", 1_000)
    reused = curve.upper_curve(GrowingSampled(NOTHING, extra, _alone), counts, log_delta, floor)
    assert len(paths) == 3
    assert reused == pytest.approx(fresh, rel=2e-6)
