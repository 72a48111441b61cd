"""Private sums: whose vector is how long, what is divided by what, and how the clip moves."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed import dp
from secfed.aggregation import AdaptiveClipping, CentralGaussian, DistributedGaussian, PrivateSum
from secfed.dp import DiscreteGaussianSum, PoissonSampled, SkellamSum
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from tests.examples import examples

KINDS: dict[str, Callable[..., Any]] = {
    "central": CentralGaussian,
    "discrete_gaussian": DistributedGaussian,
    "skellam": lambda *arguments, **more: DistributedGaussian(*arguments, mechanism="skellam", **more),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def pipeline(privacy: Any, size: int = 50, clients: int = 12, survivors: int = 8) -> PrivateSum:
    return PrivateSum.of(privacy, np.zeros(size), clients=clients, survivors=survivors)


class NoNoise:
    """Stands for a client's noise."""

    def __init__(self, length: int) -> None:
        self.length = length

    def draw(self) -> np.ndarray:
        return np.zeros(self.length, np.int64)


def steps_of(pipe: PrivateSum, update: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """A client's rounded vector before noise, read as the server would."""
    noise: Any = NoNoise(pipe.length)
    return pipe.centre(pipe.encode(update, weight, noise=noise))


# Sensitivity: nothing that a client may hold makes its vector longer than what the event says.


@examples(17, 150)
@given(st.data())
def test_no_update_and_no_weight_makes_a_vector_longer_than_the_event_says(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(list(KINDS.values())))
    adaptive = AdaptiveClipping(count_noise=data.draw(st.sampled_from([1.1, 3.0, 40.0])))
    privacy = kind(
        data.draw(st.sampled_from([1e-6, 0.37, 1.0, 1e5])),
        data.draw(st.floats(0.5, 2.0)),
        adaptive=data.draw(st.sampled_from([None, adaptive])),
        weight_cap=data.draw(st.sampled_from([None, 0.5, 7.0])),
    )
    pipe = pipeline(privacy, size=data.draw(st.integers(1, 70)))
    scale = data.draw(st.sampled_from([0.0, 1e-9, 0.3, 1.0, 1.0 + 1e-12, 50.0, 1e6])) * privacy.clip_norm
    direction = np.array(data.draw(st.lists(st.floats(-1, 1), min_size=pipe.structure.size, max_size=70)))
    direction = direction[: pipe.structure.size]
    weight = data.draw(st.floats(1e-3, 1e9))
    steps = steps_of(pipe, scale * direction, weight).astype(object)
    event = pipe.worst_event
    assert isinstance(event, DiscreteGaussianSum | SkellamSum)
    assert int((steps**2).sum()) <= pipe.lattice.largest_square
    assert math.sqrt(pipe.lattice.largest_square) <= event.sensitivity * (1 + 1e-15)
    assert int(np.abs(steps).sum()) <= event.sensitivity_l1 * (1 + 1e-12)
    assert event.dimension == pipe.length


@pytest.mark.sampled(5)
@EVERY_KIND
@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("adaptive", [None, AdaptiveClipping(count_noise=5.0)])
def test_noise_is_at_least_that_of_the_gaussian_asked_for(kind: Any, noise_multiplier: float, adaptive: Any) -> None:
    """With its 2.25 square steps more, for the fewest survivors; and not 1 % more."""
    pipe = pipeline(kind(1.0, noise_multiplier, adaptive=adaptive))
    event: Any = pipe.worst_event
    variance = event.noise_variance * event.clients - 2.25
    assert noise_multiplier < math.sqrt(variance) / event.sensitivity < 1.01 * noise_multiplier


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", [CentralGaussian, DistributedGaussian])
@pytest.mark.parametrize("adaptive", [None, AdaptiveClipping(count_noise=20.0)])
def test_a_budget_that_gaussian_noise_keeps_is_kept(kind: Any, adaptive: Any) -> None:
    noise = dp.noise_multiplier(epsilon=2.0, delta=1e-6, rounds=25)
    event = pipeline(kind(1.0, noise, adaptive=adaptive), size=5000).worst_event
    epsilon = dp.Accountant().compose(event, 25).epsilon(1e-6)
    assert 1.9999 < epsilon <= 2.0


def test_noise_of_the_update_and_of_the_count_are_those_of_andrew_et_al() -> None:
    """z_update = (z^-2 - (2 sigma_b)^-2)^-1/2, in units of the clip; sigma_b in clients."""
    pipe = pipeline(CentralGaussian(3.0, 1.2, adaptive=AdaptiveClipping(count_noise=2.0)))
    deviation = math.sqrt(pipe.noise_variance) * pipe.lattice.step  # in units of the clip
    assert deviation == pytest.approx((1.2**-2 - 4.0**-2) ** -0.5, rel=0.002)
    assert deviation / pipe.count_scale == pytest.approx(2.0, rel=0.002)


# Encoding and decoding.


@EVERY_KIND
@pytest.mark.parametrize("adaptive", [None, AdaptiveClipping(count_noise=3.0)])
def test_sum_of_vectors_without_noise_is_that_of_the_clipped_updates(kind: Any, adaptive: Any) -> None:
    generator = np.random.default_rng(3)
    pipe = pipeline(kind(0.8, 2.0, adaptive=adaptive, bits=20) if kind is not CentralGaussian else kind(0.8, 2.0))
    updates = [generator.normal(size=50) * scale for scale in (0.01, 0.05, 0.2, 1.0)]
    clipped = [update * min(1, 0.8 / np.linalg.norm(update)) for update in updates]
    decoded = pipe.read(sum(steps_of(pipe, update) for update in updates))
    rounding = 4 * pipe.lattice.step * 0.8
    assert np.abs(decoded.mean - sum(clipped) / 12).max() < rounding
    if pipe.count_scale:  # 2 within, 2 beyond, of 12 expected
        assert decoded.within_clip == pytest.approx(0.5, abs=rounding)


def test_clients_are_weighed_up_to_the_cap_after_they_were_clipped() -> None:
    update = np.full(50, 3.0)
    for cap, weight, factor in ((None, 1e6, 1.0), (4.0, 1.0, 0.25), (4.0, 4.0, 1.0), (4.0, 1e6, 1.0)):
        pipe = pipeline(CentralGaussian(1.0, 1.0, weight_cap=cap))
        assert np.linalg.norm(pipe.coordinates(update, weight)) == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize(("norm", "inside"), [(0.0, True), (0.999, True), (1.001, False), (1e9, False)])
def test_count_says_whether_the_update_was_within_the_clip(norm: float, inside: bool) -> None:
    pipe = pipeline(CentralGaussian(2.0, 1.0, adaptive=AdaptiveClipping(count_noise=1.0)))
    update = np.zeros(50)
    update[7] = 2.0 * norm
    assert pipe.coordinates(update)[-1] == (0.5 if inside else -0.5) * pipe.count_scale


@EVERY_KIND
def test_structure_and_dtypes_come_back(kind: Any) -> None:
    example = {"b": np.zeros((2, 3), np.float32), "a": [np.zeros(4)]}
    pipe = PrivateSum.of(kind(1.0, 1.0), example, clients=12, survivors=8)
    mean = pipe.read(np.zeros(pipe.length, np.int64)).mean
    assert mean["b"].shape == (2, 3) and mean["b"].dtype == np.float32
    assert mean["a"][0].shape == (4,) and mean["a"][0].dtype == np.float64


@EVERY_KIND
def test_what_does_not_fit_is_refused(kind: Any) -> None:
    pipe = pipeline(kind(1.0, 1.0))
    with pytest.raises(EncodingError, match="not finite"):
        pipe.encode(np.full(50, math.nan))
    with pytest.raises(EncodingError, match="shape"):
        pipe.encode(np.zeros(51))


def test_central_sums_cannot_wrap() -> None:
    """All of the largest cohort push one coordinate as far as the clip lets them."""
    pipe = pipeline(CentralGaussian(1.0, 0.3, population=500, sampling_rate=0.1), size=1, clients=40)
    largest = math.isqrt(pipe.lattice.largest_square) * 500
    assert pipe.centre(pipe.wrap(np.array([largest]))).tolist() == [largest]
    assert pipe.centre(pipe.wrap(np.array([-largest]))).tolist() == [-largest]


def test_step_of_a_long_central_sum_adds_little_to_the_norms() -> None:
    """A vector's norm grows by half a step in each coordinate: a small part of the clip if steps fall with sqrt(d)."""
    for size in (10**4, 10**6):
        pipe = pipeline(CentralGaussian(1.0, 2.0), size=size)
        assert 0.01 <= pipe.lattice.step * math.sqrt(size) <= 0.05


# What is public, and what a session is bound to.


def test_sum_is_divided_by_the_expected_cohort_and_never_by_who_came() -> None:
    steps = np.full(50, 1000)
    means = set()
    for clients in (3, 11, 29):
        pipe = pipeline(CentralGaussian(1.0, 1.0, population=40, sampling_rate=0.25), clients=clients)
        assert pipe.expected == 10.0
        means.add(float(pipe.read(steps).mean[0]))
    assert len(means) == 1
    assert pipeline(CentralGaussian(1.0, 1.0), clients=12).expected == 12


def test_nothing_of_a_central_sum_depends_on_who_was_sampled() -> None:
    seen = set()
    for clients in (1, 7, 40):
        pipe = pipeline(CentralGaussian(1.0, 1.0, population=40, sampling_rate=0.25), clients=clients)
        seen.add((pipe.context, pipe.modulus_bits, pipe.worst_event))
    assert len(seen) == 1


def test_nothing_of_a_distributed_sum_but_its_rotation_depends_on_a_secret_cohort() -> None:
    privacy = DistributedGaussian(
        1.0, 1.0, None, layers=400, population=400, sampling_rate=0.25, secret_cohort=True, minimum_survivors=60
    )
    plans = {pipeline(privacy, clients=clients, survivors=60).plan for clients in (60, 100, 140)}
    assert len(plans) == 1


def test_a_secret_cohort_is_planned_for_five_deviations_above_its_mean() -> None:
    privacy = DistributedGaussian(
        1.0, 1.0, None, layers=400, population=400, sampling_rate=0.25, secret_cohort=True, minimum_survivors=60
    )
    plan = pipeline(privacy, clients=100, survivors=60).plan
    assert plan is not None
    assert plan.clients == math.ceil(100 + 5 * (math.sqrt(400 * 0.25 * 0.75) + 1))


def test_parameters_may_be_at_the_ends_of_their_ranges_and_not_beyond() -> None:
    for kind in (CentralGaussian, DistributedGaussian):
        for noise in (1e-6, 1e6):
            assert kind(1.0, noise).noise_multiplier == noise
        for clip_norm in (1e-100, 1e100):
            assert kind(clip_norm, 1.0).clip_norm == clip_norm
        for noise in (0.99e-6, 1.01e6):
            with pytest.raises(ConfigError, match="noise_multiplier"):
                kind(1.0, noise)
        for clip_norm in (0.99e-100, 1.01e100):
            with pytest.raises(ConfigError, match="clip_norm"):
                kind(clip_norm, 1.0)


def test_entries_of_distributed_noise_have_16_bits_unless_asked() -> None:
    assert DistributedGaussian(1.0, 1.0).bits == 16


@EVERY_KIND
def test_context_binds_every_parameter_and_fits_a_session(kind: Any) -> None:
    base: dict[str, Any] = {"clip_norm": 1.0, "noise_multiplier": 2.0}
    variants: list[dict[str, Any]] = [
        {}, {"clip_norm": 1.1}, {"noise_multiplier": 2.1}, {"adaptive": AdaptiveClipping(count_noise=3.0)},
        {"weight_cap": 3.0},
    ]  # fmt: skip
    if kind is not CentralGaussian:
        variants += [{"layers": 3}, {"colluders": 1}, {"bits": 18}]
    contexts = []
    for variant in variants:
        both = base | variant
        clip_norm, noise_multiplier = both.pop("clip_norm"), both.pop("noise_multiplier")
        pipe = pipeline(kind(clip_norm, noise_multiplier, **both))
        contexts.append(pipe.context.replace(pipe.rotation_seed.hex().encode(), b"") if pipe.plan else pipe.context)
        assert len(pipe.context) <= 1024
    assert len(set(contexts)) == len(contexts)


def test_every_sum_has_a_rotation_of_its_own() -> None:
    first, second = pipeline(DistributedGaussian(1.0, 1.0)), pipeline(DistributedGaussian(1.0, 1.0))
    assert first.rotation_seed != second.rotation_seed
    assert first.context != second.context


# Events.


def test_sampling_counts_for_the_servers_noise_and_only_if_asked_for_that_of_clients() -> None:
    sampled: dict[str, Any] = {"population": 100, "sampling_rate": 0.2}
    assert isinstance(pipeline(CentralGaussian(1.0, 1.0, **sampled)).worst_event, PoissonSampled)
    assert isinstance(pipeline(DistributedGaussian(1.0, 1.0, **sampled)).worst_event, DiscreteGaussianSum)
    secret = DistributedGaussian(1.0, 1.0, layers=100, secret_cohort=True, minimum_survivors=8, **sampled)
    event = pipeline(secret).worst_event
    assert isinstance(event, PoissonSampled) and event.sampling_rate == 0.2


def test_clip_that_moves_leaves_the_event_as_it_is() -> None:
    for kind in KINDS.values():
        events = {pipeline(kind(clip, 1.3, adaptive=AdaptiveClipping(count_noise=2.0))).worst_event
                  for clip in (1.0, 1 / 3, 17.77, 1e-5)}  # fmt: skip
        assert len(events) == 1


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
def test_event_counts_the_honest_survivors(mechanism: Any) -> None:
    pipe = pipeline(DistributedGaussian(1.0, 2.0, mechanism=mechanism, colluders=2))
    event: Any = pipe.event(11)
    assert event.clients == 9
    spent = [dp.Accountant().compose(pipe.event(survivors)).epsilon(1e-5) for survivors in (8, 10, 12)]
    assert spent[0] > spent[1] > spent[2]
    with pytest.raises(TooFewSurvivorsError):
        pipe.event(7)


# The clip.


def test_clip_follows_the_quantile_by_the_geometric_rule() -> None:
    clip = AdaptiveClipping()
    assert clip.next(1.0, 0.5) == 1.0
    assert clip.next(1.0, 0.75) == pytest.approx(0.951229424500714)  # exp(-0.2 * 0.25)
    assert clip.next(2.0, 0.0) == pytest.approx(2.210341836151295)  # 2 exp(0.1)
    assert AdaptiveClipping(0.9, 1.0).next(4.0, 1.1) == pytest.approx(4 * math.exp(-0.2))
    assert clip.next(1e-100, 1e6) == 1e-100


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CentralGaussian(0.0, 1.0), "clip_norm 0.0"),
        (lambda: CentralGaussian(math.nan, 1.0), "clip_norm nan"),
        (lambda: CentralGaussian(1.0, 0.0), "noise_multiplier 0.0"),
        (lambda: CentralGaussian(1.0, math.nan), "noise_multiplier nan"),
        (lambda: CentralGaussian(1.0, math.inf), "noise_multiplier inf"),
        (lambda: CentralGaussian(1.0, 1.0, weight_cap=0.0), "weight_cap 0.0"),
        (lambda: CentralGaussian(1.0, 1.0, population=0), "population 0"),
        (lambda: CentralGaussian(1.0, 1.0, population=9, sampling_rate=0.0), "sampling_rate 0.0"),
        (lambda: CentralGaussian(1.0, 1.0, sampling_rate=0.5), "needs the population"),
        (lambda: DistributedGaussian(-1.0, 1.0), "clip_norm -1.0"),
        (lambda: DistributedGaussian(1.0, 1.0, colluders=-1), "colluders -1"),
        (lambda: DistributedGaussian(1.0, 1.0, minimum_survivors=0), "minimum_survivors 0"),
        (
            lambda: DistributedGaussian(1.0, 1.0, population=9, sampling_rate=0.5, secret_cohort=True),
            "secret_cohort needs minimum_survivors",
        ),
        (lambda: AdaptiveClipping(target_quantile=1.1), "target_quantile 1.1"),
        (lambda: AdaptiveClipping(learning_rate=math.nan), "learning_rate nan"),
        (lambda: AdaptiveClipping(count_noise=0.0), "count_noise 0.0"),
        (lambda: pipeline(DistributedGaussian(1.0, 1.0, mechanism="laplace")), "mechanism 'laplace'"),  # type: ignore[arg-type]
        (lambda: pipeline(DistributedGaussian(1.0, 1.0, layers=0)), "layers 0"),
        (lambda: pipeline(DistributedGaussian(1.0, 1.0, colluders=8)), "threshold 8 must be above colluders 8"),
        (lambda: pipeline(DistributedGaussian(1.0, 1.0, bits=4)), "4 bits are too few .* are enough"),
        (lambda: pipeline(CentralGaussian(1.0, 1.0, population=11)), "12 clients cannot come from a population of 11"),
        (lambda: pipeline(CentralGaussian(1.0, 4.0, adaptive=AdaptiveClipping())), "count_noise 0.6 must be more"),
        (lambda: pipeline("central"), "needed secfed.CentralGaussian"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()
