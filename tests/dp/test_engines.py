"""Each engine's cheap bound, and its answers with and without what a search knows."""

import math

import pytest

from secfed.dp.contour.integral import WarmStart
from secfed.dp.contour.moments import Releases
from secfed.dp.contour.pairs import NoiseLaw
from secfed.dp.engines import Engine, GaussianEngine, PairsEngine
from tests.dp.contour.cases import laws

ENGINES: dict[str, Engine] = {
    "unsampled": GaussianEngine(Releases((), 0.5)),
    "one release": GaussianEngine(Releases((laws("remove", 0.2, 1.0, 1.0),), 0.0)),
    "many releases": GaussianEngine(Releases((laws("replace", 0.05, 1.1, 200.0),), 0.1)),
    "Laplace noise": PairsEngine([(NoiseLaw(1.0, 0.1, "remove", laplace=True), 30)]),
    "with Gaussian noise": PairsEngine(
        [(NoiseLaw(1.0, 0.1, "replace", laplace=True), 5), (NoiseLaw(1.0, 0.1, "remove", laplace=False), 9)]
    ),
}


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_epsilon_and_delta_agree_and_the_cheap_bound_is_not_below(engine: Engine) -> None:
    low, high = engine.epsilon(math.log(1e-5), math.inf)
    assert 0 < low <= high <= low * (1 + 1e-5)
    least, most = engine.delta(high, 1.0)
    assert least <= most <= 1e-5 * (1 + 1e-6) and least > 0.9e-5
    assert not engine.at_most(high, least / 2) and engine.at_most(high, 1e-3)
    assert most <= engine.variation
    # Nothing is shown about a delta of 0, and hardly anything at an epsilon of 0.
    assert not engine.at_most(high, 0.0)
    assert not engine.at_most(0.0, engine.variation / 10)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_a_search_gets_the_same_answers(engine: Engine) -> None:
    start = WarmStart()
    for epsilon in (0.9, 1.0, 1.05):
        low, high = engine.delta(epsilon, 1.0)
        least, most = engine.delta(epsilon, 1.0, start)
        assert low <= most and least <= high
        assert most == pytest.approx(high, rel=1e-4)


@pytest.mark.parametrize("name", ["unsampled", "one release", "with Gaussian noise"])
def test_total_variation_shows_that_epsilon_is_zero(name: str) -> None:
    engine = ENGINES[name]
    assert engine.variation < 0.9
    assert engine.epsilon(math.log(engine.variation * 1.0001), math.inf) == (0.0, 0.0)
