"""Parameters of distributed noise: never less noise than the guarantee needs, and no more error than predicted."""

import doctest
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln

from secfed.dp import DiscreteGaussianSum, SkellamSum
from secfed.dp.noise import distributed
from secfed.dp.noise.distributed import Layers, NoisePlan, choose
from secfed.encoding.conditional_rounding import Lattice, clip_by_norm
from secfed.encoding.rotation import Rotation
from secfed.errors import ConfigError, TooFewSurvivorsError
from tests.examples import examples

MECHANISMS = ["discrete_gaussian", "skellam"]
# Central Gaussian noise for one release at delta 1e-5 (the closed form of Balle and Wang).
EPSILON_1, EPSILON_5 = 3.7306, 0.8919
USUAL: dict[str, Any] = {
    "clients": 100, "threshold": 100, "dimension": 2**16, "clip_norm": 1.0, "noise_multiplier": EPSILON_1,
}  # fmt: skip


@st.composite
def settings_of_sums(draw: st.DrawFn) -> dict[str, Any]:
    clients = draw(st.integers(1, 300))
    threshold = draw(st.integers(1, clients))
    dimension = draw(st.integers(1, 2**22))
    return {
        "clients": clients,
        "threshold": threshold,
        "colluders": draw(st.integers(0, threshold - 1)),
        "dimension": dimension,
        "spread": draw(st.integers((dimension + 1) // 2, dimension)),
        "clip_norm": draw(st.sampled_from([1.0, 0.01, 37.5, 1e-90, 1e90])),
        "noise_multiplier": draw(st.floats(0.2, 20)),
        "mechanism": draw(st.sampled_from(MECHANISMS)),
        "layers": draw(st.sampled_from([1, 1, 2, 5, 1000])),
        "most_overhead": draw(st.sampled_from([1.01, 1.1, 2.0])),
        "wrap_probability": draw(st.sampled_from([None, 1e-9])),
    }


def planned(setting: dict[str, Any]) -> NoisePlan | None:
    try:
        return choose(**setting)
    except ConfigError as error:
        if "no number of bits is enough" in str(error):
            return None
        raise


def test_examples_in_the_documentation_run() -> None:
    outcome = doctest.testmod(distributed)
    assert outcome.attempted >= 3
    assert outcome.failed == 0


@given(settings_of_sums(), st.data())
@examples(5, 100)
def test_noise_of_honest_survivors_is_what_the_guarantee_needs(setting: dict[str, Any], data: st.DataObject) -> None:
    """Without rounding errors: more variance than the central Gaussian's, by 2.25 square steps."""
    plan = planned(setting)
    if plan is None:
        return
    survivors = data.draw(st.integers(plan.threshold, plan.clients))
    event = plan.event(survivors)
    assert event.clients == survivors - plan.colluders
    assert isinstance(event, DiscreteGaussianSum if plan.mechanism == "discrete_gaussian" else SkellamSum)
    variance = Fraction(event.noise_variance) * event.clients
    assert variance >= Fraction(plan.noise_multiplier) ** 2 * plan.largest_square + Fraction(9, 4)
    assert Fraction(plan.sensitivity) ** 2 >= plan.largest_square * (1 - Fraction(2) ** -50)
    assert event.dimension == plan.dimension
    assert (event.sensitivity, event.sensitivity_l1) == (plan.sensitivity, plan.sensitivity_l1)


@given(settings_of_sums())
@pytest.mark.slow
def test_sensitivity_is_that_of_the_lattice_that_clients_round_to(setting: dict[str, Any]) -> None:
    plan = planned(setting)
    if plan is None:
        return
    lattice = Lattice(plan.step, plan.clip_norm, plan.dimension)
    assert plan.largest_square == lattice.largest_square
    assert (plan.sensitivity, plan.sensitivity_l1) == (lattice.sensitivity, lattice.sensitivity_l1)


@given(st.floats(1e-3, 1e4), st.floats(1e-2, 1e5), st.integers(1, 2**30))
def test_bounds_of_both_wings_are_one(step: float, clip_norm: float, dimension: int) -> None:
    norm = clip_norm / step
    if norm + math.sqrt(dimension) <= 2**26:
        assert distributed._largest_square(step, clip_norm, dimension) == (
            Lattice(step, clip_norm, dimension).largest_square
        )


@given(settings_of_sums())
@pytest.mark.slow
def test_every_layer_of_discrete_gaussian_noise_is_wide_enough_for_sums_to_close(setting: dict[str, Any]) -> None:
    plan = planned({**setting, "mechanism": "discrete_gaussian"})
    if plan is None:
        return
    smallest = min(plan.noise.variances)
    assert smallest >= 1.5**2
    additions = plan.clients * len(plan.noise.variances)
    assert 2 * plan.dimension * additions * 10 * math.exp(-(math.pi**2) * smallest) <= 1.001e-9


@given(st.floats(0.1, 1e5), st.floats(1, 1e5))
def test_skellam_with_the_margin_diverges_less_than_the_gaussian(deviation: float, norm: float) -> None:
    """The bound of Agarwal, Kairouz, Liu, section 3, with the largest 1-norm that an integer vector can have."""
    s = deviation * norm
    variance = s**2 + 2.25
    for order in [*range(2, 64), 100, 1000, 10**6]:
        square, l1 = norm**2, norm**2
        extra = min(((2 * order - 1) * square + 6 * l1) / (4 * variance**2), 3 * l1 / (2 * variance))
        assert order * square / (2 * variance) + extra <= order * square / (2 * s**2) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("bits", "noise_multiplier", "most"),
    [
        (14, EPSILON_1, 1.10), (16, EPSILON_1, 1.02), (18, EPSILON_1, 1.002),
        (14, EPSILON_5, 1.02), (16, EPSILON_5, 1.002),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_error_is_nearly_that_of_central_noise(bits: int, noise_multiplier: float, most: float, mechanism: Any) -> None:
    plan = choose(**USUAL | {"noise_multiplier": noise_multiplier}, bits=bits, mechanism=mechanism)
    assert plan.modulus_bits == bits
    assert 1 < plan.overhead <= most
    assert plan.error_ratio == plan.overhead
    assert plan.error(100) == pytest.approx(plan.overhead * noise_multiplier**2)


def test_16_bits_do_even_if_nothing_may_wrap() -> None:
    plan = choose(**USUAL, bits=16, wrap_probability=1e-9)
    assert plan.overhead <= 1.02
    assert plan.wraps <= 1e-9


@given(settings_of_sums(), st.integers(2, 30))
@examples(17, 50)
@pytest.mark.slow
def test_more_bits_are_never_worse(setting: dict[str, Any], bits: int) -> None:
    plans = []
    for more in (bits, bits + 1, bits + 3):
        try:
            plans.append(choose(**{**setting, "most_overhead": 1e9}, bits=more).overhead)
        except ConfigError:
            plans.append(math.inf)
    assert plans[0] * (1 + 1e-4) >= plans[1]
    assert plans[1] * (1 + 1e-4) >= plans[2]


@given(settings_of_sums())
@examples(4, 50)
def test_without_a_number_of_bits_the_fewest_that_do_are_taken(setting: dict[str, Any]) -> None:
    plan = planned(setting)
    if plan is None or plan.modulus_bits == 2:
        return
    assert 1 <= plan.overhead <= setting["most_overhead"]
    assert choose(**setting, bits=plan.modulus_bits) == plan
    fewer = plan.modulus_bits - 1
    with pytest.raises(ConfigError, match=f"^{fewer} bits are too few .*; {plan.modulus_bits} are enough$"):
        choose(**setting, bits=fewer)


def test_too_few_bits_are_refused_with_what_would_do() -> None:
    with pytest.raises(ConfigError) as caught:
        choose(**USUAL, bits=13)
    assert str(caught.value) == (
        "13 bits are too few for 100 clients, 65536 coordinates and noise_multiplier 3.7306"
        " (1.29 times the error of Gaussian noise, needed at most 1.1); 14 are enough"
    )
    with pytest.raises(ConfigError, match=r"^8 bits .*the sum would wrap around too often.*; 14 are enough$"):
        choose(**USUAL, bits=8)
    assert choose(**USUAL, bits=13, most_overhead=1.3).modulus_bits == 13


def test_noise_too_little_to_be_shared_is_refused() -> None:
    """Each share must be wide, so together they are more than was asked for, whatever the step."""
    with pytest.raises(ConfigError, match="no number of bits is enough: the noise is too little"):
        choose(**USUAL | {"clients": 10**4, "threshold": 10**4, "noise_multiplier": 1e-6})


def test_wrap_probability_is_kept_and_costs_at_most_a_bit() -> None:
    free = choose(**USUAL)
    careful = choose(**USUAL, wrap_probability=1e-12)
    assert careful.wraps <= 1e-12 < free.wraps
    assert careful.modulus_bits <= free.modulus_bits + 1


def test_never_more_than_one_in_a_thousand_coordinates_wraps() -> None:
    for bits in (10, 11, 12):
        plan = choose(**USUAL | {"noise_multiplier": EPSILON_5}, bits=bits, most_overhead=1e6)
        assert plan.wraps <= 1e-3 * plan.dimension * (1 + 1e-6)


def test_updates_of_little_likeness_need_fewer_bits() -> None:
    few = {"clients": 1000, "threshold": 1000, "dimension": 256, "noise_multiplier": 1.0, "bits": 14}
    assert choose(**USUAL | few, alignment=1000**-0.5).overhead < choose(**USUAL | few, most_overhead=10).overhead


def test_dropouts_that_may_happen_cost_noise_unless_it_is_removed() -> None:
    kept = choose(**USUAL | {"threshold": 80}, bits=16)
    removed = choose(**USUAL | {"threshold": 80}, bits=16, layers=21)
    assert kept.error_ratio == pytest.approx(100 / 80 * kept.overhead)
    assert 1 < removed.error_ratio < 1.02
    for survivors in range(80, 101):
        assert removed.error(survivors) <= 1.02 * EPSILON_1**2
        event = removed.event(survivors)
        assert event.noise_variance * event.clients == pytest.approx(removed.noise.variance, rel=1e-12)


def test_colluders_do_not_count() -> None:
    plan = choose(**USUAL | {"threshold": 80}, bits=16, colluders=20)
    assert plan.event(80).clients == 60
    assert plan.event(80).noise_variance == plan.noise_variance
    assert plan.error_ratio == pytest.approx(100 / 60 * plan.overhead)


def test_fewer_survivors_than_the_threshold_release_nothing() -> None:
    plan = choose(**USUAL | {"threshold": 80}, colluders=5, layers=4)
    for survivors in (79, 0):
        with pytest.raises(TooFewSurvivorsError, match=f"{survivors} survivors .* needed 80") as caught:
            plan.event(survivors)
        assert (caught.value.survivors, caught.value.threshold) == (survivors, 80)
        with pytest.raises(TooFewSurvivorsError):
            plan.error(survivors)


@pytest.mark.parametrize("factor", [1e-30, 1e-3, 7.0, 1e30])
def test_unit_of_the_values_does_not_matter(factor: float) -> None:
    plan, scaled = choose(**USUAL, bits=15), choose(**USUAL | {"clip_norm": factor}, bits=15)
    assert scaled.step == pytest.approx(plan.step * factor, rel=1e-4)
    assert scaled.overhead == pytest.approx(plan.overhead, rel=1e-6)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"clients": 0}, "clients 0"),
        ({"threshold": 0}, "threshold 0"),
        ({"threshold": 101}, "threshold 101"),
        ({"colluders": 100}, "colluders 100"),
        ({"colluders": -1}, "colluders -1"),
        ({"layers": 0}, "layers 0"),
        ({"dimension": 0}, "dimension 0"),
        ({"dimension": 2**41}, "dimension"),
        ({"spread": 0}, "spread 0"),
        ({"spread": 2**17}, "spread 131072"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"clip_norm": math.nan}, "clip_norm nan"),
        ({"clip_norm": math.inf}, "clip_norm inf"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": -1.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier nan"),
        ({"noise_multiplier": math.inf}, "noise_multiplier inf"),
        ({"mechanism": "gaussian"}, "mechanism 'gaussian' must be one of discrete_gaussian, skellam"),
        ({"bits": 1}, "modulus_bits 1"),
        ({"bits": 65}, "modulus_bits 65"),
        ({"alignment": 0.0}, "alignment"),
        ({"alignment": 1.5}, "alignment"),
        ({"alignment": math.nan}, "alignment nan"),
        ({"wrap_probability": 0.0}, "wrap_probability"),
        ({"wrap_probability": math.nan}, "wrap_probability"),
        ({"most_overhead": 1.0}, "most_overhead"),
        ({"most_overhead": math.inf}, "most_overhead"),
        ({"most_overhead": math.nan}, "most_overhead"),
    ],
)
def test_impossible_parameters_are_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        choose(**USUAL | wrong)


def tail_of_signs_and_skellam(norm: float, spread: int, variance: float, steps: list[int]) -> list[float]:
    """Exact chances to be that far from 0 for `spread` values with random signs, of equal size, and Skellam noise."""
    most = 400
    reach = np.arange(most + 1)
    poisson = np.exp(reach * math.log(variance / 2) - variance / 2 - gammaln(reach + 1))
    noise = np.convolve(poisson, poisson[::-1])  # at -most .. most
    ups = np.arange(spread + 1)
    chances = np.exp(gammaln(spread + 1) - gammaln(ups + 1) - gammaln(spread - ups + 1) - spread * math.log(2))
    places = (2 * ups - spread) * norm / spread
    points = np.arange(-most, most + 1)
    pairs = list(zip(chances.tolist(), places.tolist(), strict=True))
    return [sum(chance * float(noise[np.abs(points + place) >= t].sum()) for chance, place in pairs) for t in steps]


@pytest.mark.parametrize("variance", [0.5, 3.0, 40.0])
@pytest.mark.parametrize(("norm", "spread"), [(1.0, 4), (20.0, 4), (20.0, 64), (60.0, 16)])
@pytest.mark.parametrize("clients", [1, 4])
def test_bound_of_wrapping_is_above_the_exact_chance(variance: float, norm: float, spread: int, clients: int) -> None:
    plan = NoisePlan(
        "skellam", clients, 1, 0, spread, spread, norm / clients, 1.0, 1.0, 8, 1.0, Layers(variance / clients, (1,))
    )
    bound = plan._tail(clients)
    steps = [1, 3, 10, 20, 30, 50, 80]
    for t, exact in zip(steps, tail_of_signs_and_skellam(norm, spread, variance, steps), strict=True):
        if exact > 1e-13:  # what the convolution can tell from 0
            assert bound(t) >= exact


@pytest.mark.sampled(2)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("bits", [11, 12, 16])
def test_measured_error_is_the_predicted_one(aligned: bool, bits: int) -> None:
    """The whole way with (nearly) normal noise; the squared error of 3 * 2^14 values within six deviations."""
    dimension, clients, rng = 1 << 14, 20, np.random.default_rng(bits)
    plan = choose(
        clients=clients, threshold=clients, dimension=dimension, clip_norm=3.0, noise_multiplier=1.5, bits=bits,
        most_overhead=2,
    )  # fmt: skip
    lattice, squares = Lattice(plan.step, 3.0, dimension), []
    for _ in range(3):
        rotation = Rotation(dimension, rng.bytes(32))
        total, exact = np.zeros(dimension, np.int64), np.zeros(dimension)
        same = rng.normal(size=dimension)
        for _ in range(clients):
            values = clip_by_norm(same if aligned else rng.normal(size=dimension), 3.0)
            noise = np.rint(rng.normal(size=dimension) * math.sqrt(plan.noise_variance)).astype(np.int64)
            total += lattice.round(rotation.rotate(values), seed=rng.bytes(32)) + noise
            exact += values
        half = 1 << (bits - 1)
        wrapped = (total + half) % (2 * half) - half
        squares.append((rotation.rotate_back(lattice.decode(wrapped)) - exact) ** 2)
    measured = float(np.mean(squares)) / plan.error(clients)
    deviation = math.sqrt(2 / (3 * dimension))
    assert measured <= 1 + 6 * deviation
    # Rounding and wrapping are predicted at their worst, so a little less is right too.
    assert measured >= 1 - 6 * deviation - 0.03


@given(st.integers(1, 60), st.data(), st.fractions(min_value=Fraction(1, 1000), max_value=10**6))
def test_removing_layers_leaves_exactly_the_noise_that_is_needed(
    clients: int, data: st.DataObject, variance: Fraction
) -> None:
    """In fractions, without rounding errors, for every number of survivors."""
    threshold = data.draw(st.integers(1, clients))
    colluders = data.draw(st.integers(0, threshold - 1))
    layers = Layers.removable(variance, clients=clients, threshold=threshold, colluders=colluders)  # type: ignore[arg-type]
    assert len(layers.variances) == clients - threshold + 1
    assert all(layer > 0 for layer in layers.variances)
    for survivors in range(threshold, clients + 1):
        honest = survivors - colluders
        kept = layers.variances[: layers.kept(honest)]
        assert honest * sum(kept) == variance
        assert layers.per_client(honest) == sum(kept)
        assert len(kept) == clients - survivors + 1
    for honest in (threshold - colluders - 1, 0):
        with pytest.raises(TooFewSurvivorsError, match=f"needed {threshold - colluders}"):
            layers.kept(honest)


@given(st.integers(1, 400), st.data())
def test_fewer_layers_leave_a_little_more_noise_never_less(clients: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, clients))
    most = data.draw(st.integers(1, 12))
    layers = Layers.removable(7.0, clients=clients, threshold=threshold, most=most)
    assert len(layers.variances) <= most
    assert layers.honest[-1] == threshold
    assert most == 1 or layers.honest[0] == clients
    step = (clients / threshold) ** (1 / max(1, most - 1))
    for survivors in range(threshold, clients + 1):
        kept = sum(layers.variances[: layers.kept(survivors)])
        assert kept == pytest.approx(layers.per_client(survivors), rel=1e-12)
        assert survivors * kept >= 7.0 * (1 - 1e-12)
        if most > 1:
            assert survivors * kept <= 7.0 * step * (1 + 1 / threshold) * (1 + 1e-12)


def test_one_layer_is_noise_for_the_threshold_that_stays() -> None:
    layers = Layers.removable(60.0, clients=10, threshold=6, most=1)
    assert (layers.honest, layers.variances) == ((6,), (10.0,))
    assert layers.per_client(10) == 10.0


@pytest.mark.parametrize("honest", [(), (3, 3), (3, 4), (2, 0)])
def test_layers_for_impossible_numbers_are_refused(honest: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="must fall"):
        Layers(1.0, honest)


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf])
def test_layers_of_impossible_variance_are_refused(variance: float) -> None:
    with pytest.raises(ConfigError, match="variance"):
        Layers(variance, (3,))


def test_error_in_a_ring_that_never_wraps_is_that_of_noise_and_rounding() -> None:
    plan = NoisePlan("skellam", 10, 5, 0, 64, 64, 1.0, 1.0, 1.0, 60, 0.5, Layers(40.0, (10, 5)))
    assert plan.wraps == 0
    assert plan.error(10) == 0.25 * (10 * 4 + 10 / 4)
    assert plan.error(7) == 0.25 * (7 * 8 + 7 / 4)
