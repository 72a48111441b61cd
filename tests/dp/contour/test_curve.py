"""Rows that share a contour are as exact, and as cautious, as contours of their own."""

import math
from dataclasses import replace

import numpy as np
import pytest

from secfed.dp.composition import _epsilon as _alone
from secfed.dp.contour import curve, path
from secfed.dp.contour.integral import build
from secfed.dp.contour.moments import Moments, Releases
from secfed.dp.contour.path import ContourPath, adapted, choose
from secfed.dp.contour.privacy_loss import Direction
from tests.dp.contour.cases import laws

NOTHING = Releases((), 0.0)
BASES = {
    "nothing": NOTHING,
    "gaussian": Releases((), 1e-9),
    "sampled": Releases((laws("remove", 1e-3, 0.85, 1.0),), 1e-9),
}
LOG_DELTA = math.log(1e-5)


@pytest.mark.parametrize("base", ["nothing", "gaussian", pytest.param("sampled", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("direction", "rate", "noise", "cut"),
    [("remove", 1e-3, 0.8, True), ("replace", 1e-3, 0.8, True), ("add", 0.3, 1.5, False)],
)
def test_rows_give_the_bounds_of_their_own_contours(
    base: str, direction: Direction, rate: float, noise: float, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, extra, counts = (
        BASES[base],
        Releases((laws(direction, rate, noise, 1.0),), 0.0),
        np.array([3.0, 4.0, 5.0, 6.0]),
    )
    last, paths = before.joined(extra, 6.0), []

    def keep(*arguments: object, **options: object) -> ContourPath | None:
        paths.append(choose(*arguments, **options))  # type: ignore[arg-type]
        return paths[-1]

    monkeypatch.setattr(curve, "choose", keep)
    monkeypatch.setattr(path, "_FEW_STEPS", 1e3)  # so that cuts are worthwhile
    monkeypatch.setattr(curve, "_WORK_PER_ROW", math.inf)  # so that all rows share
    found, guess = curve._share(before, extra, counts, last, LOG_DELTA, math.inf)
    assert found is not None
    if base != "sampled":
        assert (paths[-1].cut is not None) == cut
    # The next block may ask for more releases on the same contour.
    some = np.array([3.0, 6.0, 9.0])
    shared = found.rows(some)
    for i, count in enumerate(some):
        joined = before.joined(extra, float(count))
        like = replace(paths[-1], frequency=float(2 * math.pi / shared.period * (len(shared.waves) - 1)) * (1 - 1e-9))
        own = build(joined, Moments.at(joined, shared.orders), adapted(joined, like), curve._GOAL)
        assert len(own.waves) == len(shared.waves)
        at = np.array([0.7, 1.0, 1.3]) * guess
        for epsilon in at:
            low, high = (part[i] for part in shared.bounds(np.full(3, epsilon)))
            low_own, high_own = (part[0] for part in own.bounds(np.array([epsilon])))
            # Both hold, so they overlap; and sharing costs little.
            assert low <= high_own and low_own <= high
            assert high == pytest.approx(high_own, abs=1e-3) and low == pytest.approx(low_own, abs=1e-3)


def test_no_row_is_below_the_bounds_of_a_query() -> None:
    """What is beyond a cut adds up over rounds; it is not a product as the rest is."""
    extra = Releases((laws("remove", 1e-3, 0.8, 1.0),), 0.0)
    chosen = choose(
        extra.joined(extra, 5.0), Moments.of(extra.joined(extra, 5.0), LOG_DELTA, None), 0.05, LOG_DELTA, 1e-8
    )
    assert chosen is not None and chosen.cut is not None
    one = curve.evaluate(extra, chosen, 1e-10)[0]
    assert one.beyond is not None
    tails = one.plus(one, np.array([1.0, 9.0])).tail
    assert tails == pytest.approx([one.tail + one.beyond + math.log(2), one.tail + one.beyond + math.log(10)])


def test_a_long_contour_serves_the_next_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    extra, counts = Releases((laws("remove", 0.01, 1.1, 1.0),), 0.0), np.arange(1.0, 16.0)
    log_delta, floor = np.full(15, LOG_DELTA), np.zeros(15)
    paths = []

    def keep(*arguments: object, **options: object) -> ContourPath | None:
        paths.append(choose(*arguments, **options))  # type: ignore[arg-type]
        return paths[-1]

    monkeypatch.setattr(curve, "choose", keep)
    fresh = curve.upper_curve(NOTHING, extra, counts, log_delta, floor, _alone)
    assert len(paths) == 2
    monkeypatch.setattr(curve, "_LONG", 1_000)
    reused = curve.upper_curve(NOTHING, extra, counts, log_delta, floor, _alone)
    assert len(paths) == 3
    assert reused == pytest.approx(fresh, rel=2e-6)
