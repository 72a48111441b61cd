"""Numbers of NumPy are taken as what they are, and what is no number is refused in the same way everywhere."""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from secfed import dp
from secfed.aggregation.privacy import CentralGaussian
from secfed.errors import ConfigError

REALS = (float, np.floating, Fraction)
# Each takes one real number, for which 0.5 is good.
REAL: dict[str, Callable[..., object]] = {
    "Gaussian": dp.Gaussian,
    "Laplace": dp.Laplace,
    "DiscreteLaplace": dp.DiscreteLaplace,
    "ApproximateDP": lambda x: dp.ApproximateDP(x, x),
    "RandomizedResponse": dp.RandomizedResponse,
    "ExponentialMechanism": dp.ExponentialMechanism,
    "ZeroConcentrated": dp.ZeroConcentrated,
    "DiscreteGaussianSum": lambda x: dp.DiscreteGaussianSum(x, 10, 1.0, 2.0, 3),
    "SkellamSum": lambda x: dp.SkellamSum(1.0, 10, 1.0, x, 3),
    "PoissonSampled": lambda x: dp.PoissonSampled(x, dp.Gaussian(1.0)),
    "release noise": dp.release,
    "release rate": lambda x: dp.release(1.0, x),
    "CentralGaussian noise": lambda x: CentralGaussian(clip_norm=1.0, noise_multiplier=x),
    "CentralGaussian clip": lambda x: CentralGaussian(clip_norm=x, noise_multiplier=1.0),
    "CentralGaussian rate": lambda x: CentralGaussian(1.0, 1.0, population=10, sampling_rate=x),
    "epsilon": lambda x: dp.Accountant().compose(dp.Gaussian(1.0)).epsilon(x),
    "delta": lambda x: dp.Accountant().compose(dp.Gaussian(1.0)).delta(x),
    "curve": lambda x: dp.Accountant().compose(dp.Gaussian(1.0)).curve(x).tolist(),
    "rdp_epsilon": lambda x: dp.Accountant().compose(dp.Gaussian(1.0)).rdp_epsilon(x),
    "trade_off": lambda x: dp.Accountant().compose(dp.Gaussian(1.0)).trade_off(x),
    "true_positive_rate": lambda x: dp.Accountant().compose(dp.Gaussian(1.0)).true_positive_rate(x),
    "mu": lambda x: dp.Accountant().compose(dp.PoissonSampled(0.5, dp.Gaussian(0.1))).mu(least_delta=x),
    # An order is above 1; what is no number must come as it is.
    "renyi": lambda x: dp.Accountant().compose(dp.Gaussian(1.0)).renyi(1 + x if isinstance(x, REALS) else x),
    "would_exceed": lambda x: dp.Accountant().would_exceed(dp.Gaussian(1.0), epsilon=x, delta=x),
    "remaining_rounds": lambda x: dp.Accountant().remaining_rounds(dp.Gaussian(9.0), epsilon=x, delta=1e-5),
    "noise_multiplier": lambda x: dp.noise_multiplier(epsilon=x, delta=x),
    "sampling_rate": lambda x: dp.sampling_rate(epsilon=9.0, delta=0.1, noise_multiplier=x),
    "rounds": lambda x: dp.rounds(epsilon=1.0, delta=x, noise_multiplier=9.0),
}
# Each takes a count, for which 2 is good.
COUNT: dict[str, Callable[..., object]] = {
    "cohort": lambda n: dp.FixedSizeSampled(n, 10, dp.Gaussian(1.0)),
    "population": lambda n: dp.FixedSizeSampled(1, n, dp.Gaussian(1.0)),
    "release": lambda n: dp.release(1.0, 0.5, "fixed", n),
    "clients": lambda n: dp.DiscreteGaussianSum(0.5, n, 1.0, 2.0, 3),
    "dimension": lambda n: dp.SkellamSum(0.5, 2, 1.0, 2.0, n),
    "outcomes": lambda n: dp.RandomizedResponse(0.5, n),
    "sensitivity": lambda n: dp.DiscreteLaplace(0.5, n),
    "Composed": lambda n: dp.Composed(((dp.Gaussian(1.0), n),)),
    "compose": lambda n: dp.Accountant().compose(dp.Gaussian(1.0), n).to_json(),
    "rounds": lambda n: dp.noise_multiplier(epsilon=1.0, delta=1e-5, rounds=n),
}


@pytest.mark.sampled(7)
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("kind", [np.float32, np.float64, Fraction])
def test_real_numbers_of_any_kind_count_as_floats(name: str, kind: Callable[[float], object]) -> None:
    assert REAL[name](kind(0.5)) == REAL[name](0.5)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("name", COUNT)
@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_any_kind_count_as_ints(name: str, kind: Callable[[int], object]) -> None:
    assert COUNT[name](kind(2)) == COUNT[name](2)


@pytest.mark.sampled(22)
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("wrong", ["0.5", None, True, 1j, {0.5}, np.array([0.5]), np.True_, math.nan, -0.5])
def test_what_is_no_good_number_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match="must be"):
        REAL[name](wrong)


@pytest.mark.parametrize("name", COUNT)
@pytest.mark.parametrize("wrong", ["2", None, True, 2.0, np.float64(2.0), [2], 0, -5])
def test_what_is_no_count_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"must be a whole number|needs the population"):
        COUNT[name](wrong)


@pytest.mark.parametrize("noise", [1e-300, 5e-324, 1e-7, 1e10, 1e300, math.inf])
def test_noise_whose_square_overflows_is_refused(noise: float) -> None:
    for event in (dp.Gaussian, dp.Laplace, dp.release):
        with pytest.raises(ConfigError, match=r"noise_multiplier .* must be from 1e-06 to 1e"):
            event(noise)


def test_numbers_beyond_floats_are_refused() -> None:
    for number in (10**400, -(10**400), Fraction(10**400)):
        with pytest.raises(ConfigError, match=r"noise_multiplier -?inf must be from"):
            dp.Gaussian(number)  # type: ignore[arg-type]


def test_rates_too_small_for_rounding_are_refused() -> None:
    with pytest.raises(ConfigError, match="sampling_rate 1e-16 must be at least 1e-15"):
        dp.PoissonSampled(1e-16, dp.Gaussian(1.0))
    with pytest.raises(ConfigError, match="sampling_rate 1e-16 must be at least 1e-15"):
        dp.FixedSizeSampled(1, 10**16, dp.Gaussian(1.0))


@pytest.mark.parametrize("events", [None, 3, (dp.Gaussian(1.0),), ((dp.Gaussian(1.0), 1, 2),)])
def test_a_composition_of_no_pairs_is_refused(events: object) -> None:
    with pytest.raises(ConfigError, match="needed pairs of an event and a count"):
        dp.Composed(events)  # type: ignore[arg-type]


@pytest.mark.parametrize("adjacency", [None, 3, ["replace"], "near"])
def test_an_adjacency_of_any_type_is_refused_alike(adjacency: object) -> None:
    with pytest.raises(ConfigError, match="must be one of add_remove, replace"):
        dp.Accountant(adjacency)  # type: ignore[arg-type]


def test_a_ledger_keeps_numbers_of_numpy_as_json(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "ledger", epsilon=np.float32(3.0), delta=np.float32(0.25))
    event = dp.PoissonSampled(np.float32(0.1), dp.Gaussian(np.float32(1.1)))
    assert ledger.record(event, count=np.int64(2)).event == event  # type: ignore[arg-type]
    assert json.loads(json.dumps(dp.Accountant().compose(event, np.int64(2)).to_json()))
    assert dp.Ledger.open(tmp_path / "ledger").accountant().events == ((event, 2),)
    assert (ledger.epsilon, ledger.delta) == (3.0, 0.25)
