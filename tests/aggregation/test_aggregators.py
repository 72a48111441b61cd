"""One mean in two ways: in the clear and under secure aggregation."""

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import secfed
from secfed.aggregation import Aggregate, ClippingWarning, channels
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.secagg import Policy, Stage
from tests.examples import examples

CLIP = 4.0
PLAIN = secfed.Plain()
SECURE = secfed.SecAgg(threshold=2 / 3, clip=CLIP, bits=16)
BOTH = pytest.mark.parametrize("aggregator", [PLAIN, SECURE], ids=["plain", "secagg"])
STEP = CLIP / (2**15 - 1)

DTYPES = st.sampled_from(["f2", "f4", "f8"])
SHAPES = hnp.array_shapes(min_dims=0, max_dims=2, max_side=4)


@st.composite
def skeletons(draw: st.DrawFn) -> Any:
    """Shapes and dtypes in a structure: an array alone, a list, a dictionary, or nested ones."""
    leaf = st.tuples(SHAPES, DTYPES)
    lists = st.lists(leaf, min_size=1, max_size=3)
    dictionaries = st.dictionaries(st.sampled_from("abcxyz"), leaf | lists, min_size=1, max_size=3)
    return draw(leaf | lists | dictionaries)


def filled(skeleton: Any, generator: np.random.Generator) -> Any:
    if isinstance(skeleton, dict):
        return {name: filled(part, generator) for name, part in skeleton.items()}
    if isinstance(skeleton, list):
        return [filled(part, generator) for part in skeleton]
    shape, dtype = skeleton
    return np.asarray(generator.uniform(-CLIP, CLIP, shape)).astype(dtype)


def leaves(update: Any) -> list[np.ndarray]:
    if isinstance(update, dict):
        return [leaf for name in sorted(update) for leaf in leaves(update[name])]
    return [leaf for part in update for leaf in leaves(part)] if isinstance(update, list) else [update]


PRIVACIES = [secfed.CentralGaussian(1.0, 1.0), secfed.DistributedGaussian(1.0, 1.0, layers=3)]


class Layer(NamedTuple):
    kernel: np.ndarray
    bias: np.ndarray


def random_updates(clients: int, size: int = 20, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).uniform(-1, 1, (clients, size)))


def outcome(result: Aggregate) -> tuple[Any, ...]:
    return result.survivors, result.dropouts, result.weight


def forbid_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_session(*_: object, **__: object) -> None:
        raise AssertionError("something was sent")

    monkeypatch.setattr(channels, "run_session", run_session)


@examples(10, 40)
@given(skeletons(), st.integers(2, 5), st.integers(0, 2**32), st.data())
def test_secure_mean_is_within_one_step_of_the_plain_one(
    skeleton: Any, clients: int, number: int, data: st.DataObject
) -> None:
    generator = np.random.default_rng(number)
    updates = [filled(skeleton, generator) for _ in range(clients)]
    weights = data.draw(st.lists(st.integers(1, 1000), min_size=clients, max_size=clients))
    plain, secure = PLAIN.aggregate(updates, weights), SECURE.aggregate(updates, weights)
    assert outcome(plain) == outcome(secure) == (tuple(range(1, clients + 1)), (), sum(weights))
    for mean in (plain.mean, secure.mean):
        assert type(mean) is type(updates[0])
        if isinstance(mean, dict):
            assert list(mean) == list(updates[0])
    for exact, near, like in zip(leaves(plain.mean), leaves(secure.mean), leaves(updates[0]), strict=True):
        assert exact.dtype == near.dtype == like.dtype
        assert exact.shape == near.shape == like.shape
        rounding = float(np.finfo(like.dtype).eps) * CLIP
        assert np.abs(exact.astype(float) - near.astype(float)).max() <= STEP + rounding


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
@BOTH
def test_mean_is_right_for_every_float_dtype(aggregator: Any, dtype: str) -> None:
    updates = [(np.array([1.0, -2.0, 0.5]) * k).astype(dtype) for k in (1, 2, 0)]
    mean = aggregator.aggregate(updates, [1, 2, 3]).mean
    assert mean.dtype == np.dtype(dtype)
    assert mean.astype(float) == pytest.approx([5 / 6, -10 / 6, 2.5 / 6], abs=STEP + 1e-3)


@BOTH
def test_float16_updates_whose_weighted_sum_float16_cannot_hold_are_right(aggregator: Any) -> None:
    updates = [np.full(5, 3.5, np.float16), np.full(5, -1.0, np.float16)]
    mean = aggregator.aggregate(updates, [100_000, 100_000]).mean
    assert mean.astype(float) == pytest.approx([1.25] * 5, abs=2e-3)


@BOTH
def test_mean_of_the_fedavg_example_is_right(aggregator: Any) -> None:
    result = aggregator.aggregate([np.array([1.0]), np.array([2.0]), np.array([3.0])], [100, 200, 300])
    assert result.weight == 600
    assert result.mean == pytest.approx([14 / 6], abs=STEP)


@BOTH
def test_weights_are_one_where_none_are_given(aggregator: Any) -> None:
    result = aggregator.aggregate([np.array([1.0]), np.array([3.0])])
    assert result.weight == 2
    assert result.mean == pytest.approx([2.0], abs=STEP)


@BOTH
def test_ids_of_a_list_start_at_one(aggregator: Any) -> None:
    result = aggregator.aggregate(random_updates(4))
    assert result.survivors == (1, 2, 3, 4)
    assert set(result.bytes_up) == set(result.bytes_down) == {1, 2, 3, 4}


@BOTH
@pytest.mark.parametrize("weights", [{3: 10, 99: 1, 7: 5}, {99: 1, 7: 5, 3: 10}, [5, 1, 10]])
def test_updates_by_client_id_keep_their_ids_and_weights(aggregator: Any, weights: Any) -> None:
    """Weights in a list come in the order of the dictionary of updates."""
    updates = {7: np.array([1.0]), 99: np.array([-2.0]), 3: np.array([0.5])}
    result = aggregator.aggregate(updates, weights)
    assert result.survivors == (3, 7, 99)
    assert result.mean == pytest.approx([(5 * 1 + 1 * -2 + 10 * 0.5) / 16], abs=STEP)


@BOTH
def test_arrays_of_updates_and_weights_are_taken_too(aggregator: Any) -> None:
    updates, weights = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 0.5]]), np.array([1, 2, 3])
    result = aggregator.aggregate(updates, weights)
    assert result.mean == pytest.approx((updates * weights[:, None]).sum(axis=0) / 6, abs=STEP)


@BOTH
@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "u8", "f4", "f8"])
def test_weights_of_any_numpy_dtype_are_taken(aggregator: Any, dtype: str) -> None:
    weights = np.array([200, 250, 3]).astype(dtype)
    result = aggregator.aggregate([np.array([1.0]), np.array([2.0]), np.array([3.0])], weights)
    assert result.weight == 453
    assert result.mean == pytest.approx([(200 + 500 + 9) / 453], abs=STEP)


def test_largest_weight_may_be_any_number_that_fits() -> None:
    updates = [np.array([1.0]), np.array([2.0])]
    for weight in (1, 2, 3, 4, 5, 1023, 1024, 1025, 2**30 + 1, 2**47 - 1):
        assert SECURE.aggregate(updates, [weight, 1]).weight == weight + 1


@pytest.mark.parametrize("weight", [2**49 + 1, 2**52 + 1, 2**53 + 1])
def test_largest_weight_may_be_just_above_a_large_power_of_two(weight: int) -> None:
    assert secfed.SecAgg(bits=8).aggregate([np.array([1.0]), np.array([2.0])], [weight, 1]).weight == weight + 1


@pytest.mark.parametrize("max_weight", [7, 8, 300, np.int64(300)])
def test_largest_weight_can_be_given(max_weight: int) -> None:
    aggregator = secfed.SecAgg(max_weight=max_weight)
    assert aggregator.aggregate(random_updates(3), [7, 1, 1]).weight == 9


@pytest.mark.parametrize("max_weight", [0, -1])
def test_largest_weight_below_one_is_refused(max_weight: int) -> None:
    with pytest.raises(ConfigError, match="max_weight"):
        secfed.SecAgg(max_weight=max_weight).aggregate(random_updates(3))


def test_weight_above_the_largest_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_sessions(monkeypatch)
    with pytest.raises(EncodingError, match="client 2: the weight must be from 1 to max_weight 10"):
        secfed.SecAgg(max_weight=10).aggregate(random_updates(3), [10, 11, 1])


# What goes wrong in silence elsewhere (`anchors/flower.md`, iii, item 8) must not happen here.


@pytest.mark.parametrize("weights", [[20_000] * 5, [200_000] * 5, [1, 200_000, 5, 7, 90_000], [1] * 5])
def test_mean_is_right_to_a_step_for_any_numbers_of_examples(weights: list[int]) -> None:
    updates = [np.random.default_rng(i).normal(size=300) for i in range(5)]
    aggregator = secfed.SecAgg(clip=8.0, bits=16)
    found = aggregator.aggregate(updates, weights).mean
    assert np.abs(found - PLAIN.aggregate(updates, weights).mean).max() <= 8 / 32767


def test_weight_of_one_is_right_to_a_step_beside_a_public_largest_of_nine_thousand() -> None:
    updates = [np.random.default_rng(i).normal(size=300) for i in range(5)]
    found = secfed.SecAgg(clip=8.0, bits=16, max_weight=9000).aggregate(updates, [1] * 5).mean
    assert np.abs(found - PLAIN.aggregate(updates).mean).max() <= 8 / 32767


def test_default_bits_keep_the_sum_within_32_bits_and_the_mean_within_a_step() -> None:
    updates = random_updates(40)
    result = secfed.SecAgg(threshold=0.6).aggregate(updates, [5000] * 40, record=True)
    assert result.transcript is not None
    fixed = result.transcript.transform.fixed_point
    assert fixed.modulus_bits == 32
    assert 12 <= fixed.bits < 16
    assert np.abs(result.mean - np.mean(updates, axis=0)).max() <= fixed.clip / fixed.levels


# Dropouts.


@pytest.mark.parametrize("stage", [Stage.CONSISTENCY_CHECK, Stage.UNMASKING])
@BOTH
def test_client_that_falls_silent_after_its_masked_input_stays_in_the_mean(aggregator: Any, stage: Stage) -> None:
    updates = random_updates(5)
    result = aggregator.aggregate(updates, [1, 2, 3, 4, 5], dropouts={3: stage})
    assert result.survivors == (1, 2, 3, 4, 5)
    assert result.dropouts == ()
    assert result.mean == pytest.approx(np.average(updates, axis=0, weights=[1, 2, 3, 4, 5]), abs=STEP)


@pytest.mark.parametrize("stage", [Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT_COLLECTION])
@BOTH
def test_client_that_falls_silent_before_is_not_in_the_mean(aggregator: Any, stage: Stage) -> None:
    updates = random_updates(5)
    result = aggregator.aggregate(updates, [1, 2, 3, 4, 5], dropouts={3: stage})
    assert result.survivors == (1, 2, 4, 5)
    assert result.dropouts == (3,)
    assert result.weight == 12
    kept = [updates[i] for i in (0, 1, 3, 4)]
    assert result.mean == pytest.approx(np.average(kept, axis=0, weights=[1, 2, 4, 5]), abs=STEP)


@examples(8, 25)
@given(st.dictionaries(st.integers(1, 7), st.sampled_from(list(Stage)[:5]), max_size=7))
def test_both_aggregators_have_the_same_survivors_or_too_few(dropouts: dict[int, Stage]) -> None:
    updates = random_updates(7)
    silent = len(dropouts)
    if 7 - silent < 5:
        with pytest.raises(TooFewSurvivorsError) as caught:
            SECURE.aggregate(updates, dropouts=dropouts)
        assert caught.value.threshold == 5
        assert caught.value.survivors < 5
        return
    plain, secure = PLAIN.aggregate(updates, dropouts=dropouts), SECURE.aggregate(updates, dropouts=dropouts)
    assert outcome(plain) == outcome(secure)
    assert secure.mean == pytest.approx(plain.mean, abs=STEP)


def test_nobody_left_is_too_few_even_in_the_clear() -> None:
    with pytest.raises(TooFewSurvivorsError):
        PLAIN.aggregate(random_updates(2), dropouts={1: Stage.ADVERTISE_KEYS, 2: Stage.MASKED_INPUT_COLLECTION})


@BOTH
def test_dropout_that_is_no_client_is_refused(aggregator: Any) -> None:
    with pytest.raises(ConfigError, match=r"dropouts \[9\] are not among the 3 clients"):
        aggregator.aggregate(random_updates(3), dropouts={9: Stage.UNMASKING})


# What does not fit is refused before anything is sent, and the error says whose it was.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@BOTH
def test_value_that_is_not_finite_is_refused_by_name(
    aggregator: Any, value: float, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_sessions(monkeypatch)
    updates = [{"a": np.zeros(3, dtype), "b": np.zeros((2, 2), dtype)} for _ in range(4)]
    updates[2]["b"][1, 0] = value
    with pytest.raises(EncodingError, match=r"client 3: b holds a value that is not finite, at index \[1, 0\]"):
        aggregator.aggregate(updates)


@BOTH
def test_value_that_is_not_finite_is_refused_even_if_the_client_drops_out(aggregator: Any) -> None:
    with pytest.raises(EncodingError, match="client 3"):
        aggregator.aggregate([np.zeros(2), np.zeros(2), np.array([0, np.nan])], dropouts={3: Stage.ADVERTISE_KEYS})


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        ({"a": np.zeros(3), "b": np.zeros((4, 1))}, r"client 2: b has shape \(4, 1\), needed \(2, 2\)"),
        ({"a": np.zeros(3), "b": np.zeros((2, 2), "f4")}, "client 2: b has dtype float32, needed float64"),
        ({"a": np.zeros(3)}, r"client 2: arrays \['b'\] are in one but not in the other"),
        ({"a": np.zeros(3), "b": np.zeros((2, 2), int)}, "client 2: b has dtype int64, needed floating-point"),
        ({"a": np.zeros(3), "b": 1.0}, "client 2: b is a plain number"),
        ([], "client 2: the update holds no array"),
        (np.zeros(7), "client 2: arrays"),
    ],
)
@BOTH
def test_update_of_another_structure_is_refused_by_name(
    aggregator: Any, odd: Any, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_sessions(monkeypatch)
    good = {"a": np.zeros(3), "b": np.zeros((2, 2))}
    with pytest.raises(EncodingError, match=text):
        aggregator.aggregate([good, odd, good])


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 3, 4], {1: 1, 2: 1}, {1: 1, 2: 1, 3: 1, 4: 1}, {0: 1, 1: 1, 2: 1}])
@BOTH
def test_weights_of_other_clients_than_the_updates_are_refused(
    aggregator: Any, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_sessions(monkeypatch)
    with pytest.raises(EncodingError, match=r"weights for 3 updates|an update or a weight, but not both"):
        aggregator.aggregate(random_updates(3), weights)


@pytest.mark.parametrize("weights", [[1, 2], [1, 2, 3, 4]])
@BOTH
def test_list_of_weights_for_updates_by_id_must_have_their_number(aggregator: Any, weights: list[int]) -> None:
    with pytest.raises(EncodingError, match=f"{len(weights)} weights for 3 updates"):
        aggregator.aggregate(dict(zip((5, 6, 7), random_updates(3), strict=True)), weights)


@pytest.mark.parametrize("weight", [0, -1, -0.5, math.nan, math.inf, -math.inf])
@BOTH
def test_weight_that_is_not_positive_is_refused_by_name(
    aggregator: Any, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_sessions(monkeypatch)
    with pytest.raises(EncodingError, match=r"^client 2: the weight must be positive and finite$"):
        aggregator.aggregate(random_updates(3), [1, weight, 1])


def test_weight_that_is_not_whole_is_refused_by_name_under_secure_aggregation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PLAIN.aggregate([np.array([1.0]), np.array([2.0])], [0.5, 1.5]).mean == pytest.approx([1.75])
    forbid_sessions(monkeypatch)
    with pytest.raises(EncodingError, match="client 3: the weight must be a whole number"):
        SECURE.aggregate(random_updates(3), [1, 2, 1.5])


@BOTH
@pytest.mark.parametrize("weight", [None, "many", 3j, [1, 2]])
def test_weight_that_is_no_number_is_refused_with_its_type(aggregator: Any, weight: Any) -> None:
    with pytest.raises(
        EncodingError, match=f"client 2: the weight is of type {type(weight).__name__}, needed a number"
    ):
        aggregator.aggregate(random_updates(3), {1: 1, 2: weight, 3: 1})
    with pytest.raises(EncodingError, match="weights are of type int, needed a list or a dictionary"):
        aggregator.aggregate(random_updates(3), 3)


@pytest.mark.parametrize("weight", [31415, 31415.5, -31415, 10**400])
def test_no_error_text_shows_a_weight(weight: float) -> None:
    with pytest.raises(EncodingError, match="client 2: the weight must be") as caught:
        secfed.SecAgg(max_weight=300).aggregate(random_updates(3), [1, weight, 1])
    assert "31415" not in str(caught.value)
    assert "0000" not in str(caught.value)


@BOTH
def test_no_updates_are_refused(aggregator: Any) -> None:
    for updates in ([], {}):
        with pytest.raises(EncodingError, match="found no update"):
            aggregator.aggregate(updates)


def test_a_single_client_is_refused_under_secure_aggregation() -> None:
    with pytest.raises(ConfigError, match="a sum of one client is its vector"):
        SECURE.aggregate(random_updates(1))


def test_client_id_that_is_no_whole_number_from_one_to_2_to_the_63_is_refused() -> None:
    odd: Any
    for odd in (0, -1, 2**63 + 1, 2.5):
        with pytest.raises(ConfigError, match=f"found client id {odd}, needed client ids"):
            SECURE.aggregate({odd: np.zeros(1), 5: np.zeros(1)})


@pytest.mark.parametrize("privacy", [None, *PRIVACIES], ids=lambda privacy: type(privacy).__name__)
def test_client_ids_up_to_2_to_the_63_come_back_in_everything(privacy: Any) -> None:
    ids = [7, 2**31 - 1, 2**40, 2**63 - 1, 2**63]
    updates = {client_id: np.full(100, 0.1 * number) for number, client_id in enumerate(ids)}
    result = secfed.SecAgg(threshold=3, clip=1.0).aggregate(
        {client_id: updates[client_id] for client_id in reversed(ids)},
        dropouts={2**40: Stage.MASKED_INPUT_COLLECTION, 2**63: Stage.UNMASKING},
        record=True,
        privacy=privacy,
    )
    assert result.survivors == (7, 2**31 - 1, 2**63 - 1, 2**63)
    assert result.dropouts == (2**40,)
    assert list(result.bytes_up) == list(result.bytes_down) == ids
    assert result.bytes_up[2**63] < result.bytes_up[7]
    assert result.transcript is not None
    assert result.transcript.survivors == result.survivors
    assert {entry.client_id for entry in result.transcript.entries} == set(ids)
    if privacy is None:
        assert result.mean == pytest.approx(np.full(100, 0.2), abs=1e-3)
        assert result.transcript.resemblance(2**63, updates[2**63]).hidden
    with pytest.raises(EncodingError, match=f"client {2**40} sent no input"):
        result.transcript.contribution(2**40)


def test_large_client_ids_are_named_in_errors() -> None:
    large = 2**63
    with pytest.raises(EncodingError, match=f"client {large}: the array holds a value that is not finite"):
        SECURE.aggregate({1: np.zeros(1), large: np.full(1, np.nan)})
    with pytest.raises(ConfigError, match=rf"dropouts \[{large}\]"):
        SECURE.aggregate({1: np.zeros(1), 2: np.zeros(1)}, dropouts={large: Stage.UNMASKING})


# Clipping.


def test_values_beyond_the_clip_are_clipped_with_a_warning_that_counts_them() -> None:
    updates = [np.array([9.0, 0.0, -4.1]), np.array([4.0, -4.0, -50.0])]
    with pytest.warns(ClippingWarning, match="3 of 6 values were beyond the clip") as caught:
        result = SECURE.aggregate(updates)
    assert [warning.filename for warning in caught] == [__file__]
    assert result.mean == pytest.approx([4.0, -2.0, -4.0], abs=STEP)


def test_values_up_to_the_clip_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SECURE.aggregate([np.array([4.0, -4.0]), np.array([4.0, 4.0])])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_clip_beyond_what_the_dtype_holds_gives_no_warning(dtype: str) -> None:
    updates = [np.array([6e4, 1.0], dtype), np.array([1.0, 1.0], dtype)]
    mean = secfed.SecAgg(clip=1e39, bits=32).aggregate(updates).mean
    assert mean.shape == (2,)


@pytest.mark.parametrize("clip", [0, -1, -0.0, math.nan, math.inf])
def test_clip_that_is_no_positive_number_is_refused_at_once(clip: float) -> None:
    with pytest.raises(ConfigError, match="clip"):
        secfed.SecAgg(clip=clip)


# Parameters of the session.


def session_config(aggregator: secfed.SecAgg, clients: int) -> Any:
    return aggregator.prepare(np.zeros(3), range(1, clients + 1), weights=[1]).channel.config


@pytest.mark.parametrize(
    ("threshold", "clients", "expected"),
    [
        (2 / 3, 30, 20),
        (2 / 3, 31, 21),
        (0.1, 10, 6),  # never below more than half
        (0.5, 10, 6),
        (0.51, 10, 6),
        (0.7, 10, 7),
        (0.71, 10, 8),
        (1.0, 10, 10),
        (7, 10, 7),
        (10, 10, 10),
        (np.int64(7), 10, 7),
        (2 / 3, 2, 2),
        (2 / 3, 3, 2),
    ],
)
def test_threshold_is_a_number_or_a_fraction_rounded_up(threshold: float, clients: int, expected: int) -> None:
    aggregator = secfed.SecAgg(threshold=threshold)
    assert session_config(aggregator, clients).threshold == expected


@pytest.mark.parametrize(
    ("threshold", "colluders", "neighbors", "expected"),
    [(0.1, 0, None, 6), (0.1, 3, None, 7), (0.9, 3, None, 9), (0.1, 0, 6, 4), (0.1, 2, 6, 5), (1.0, 2, 6, 6)],
)
def test_fraction_is_never_below_what_a_malicious_server_demands(
    threshold: float, colluders: int, neighbors: int | None, expected: int
) -> None:
    aggregator = secfed.SecAgg(
        threshold=threshold, colluders=colluders, neighbors=neighbors, adversary="malicious_server"
    )
    assert session_config(aggregator, 10).threshold == expected


@pytest.mark.parametrize(("neighbors", "colluders", "least"), [(None, 7, 8), (None, 2, 6), (6, 4, 5), (6, 0, 2)])
def test_fraction_is_never_below_what_colluders_demand(neighbors: int | None, colluders: int, least: int) -> None:
    aggregator = secfed.SecAgg(threshold=0.1, neighbors=neighbors, colluders=colluders)
    assert session_config(aggregator, 10).threshold == least


@pytest.mark.parametrize("threshold", [0, -1, 0.0, -0.5, 1.5, 7.0, math.inf, -math.inf, math.nan])
def test_threshold_that_is_neither_is_refused_at_once(threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        secfed.SecAgg(threshold=threshold)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"threshold": 1}, "threshold 1"),
        ({"threshold": 9}, "threshold 9 must be a whole number from 2 to 8"),
        ({"threshold": 4}, "threshold 4 must be more than half of 8 clients"),
        ({"threshold": 5, "colluders": 5}, "threshold 5 must be more than 5 colluders"),
        ({"threshold": 5, "colluders": 3, "adversary": "malicious_server"}, "threshold 5 must be at least 6"),
        ({"neighbors": 3}, "neighbors 3 must be even"),
        ({"neighbors": 0}, "neighbors 0"),
        ({"adversary": "nobody"}, "adversary 'nobody' must be one of"),
        ({"bits": 1}, "bits 1"),
        ({"bits": 32, "max_weight": 2**40}, "64 are the most"),
    ],
)
def test_parameters_that_do_not_fit_the_cohort_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        secfed.SecAgg(**settings).aggregate(random_updates(8))


def test_session_colluders_make_the_sum_of_a_ring_indivisible() -> None:
    strict: dict[str, Any] = {"neighbors": 4, "adversary": "malicious_server", "policy": Policy(indivisible=True)}
    aggregator = secfed.SecAgg(threshold=0.5, clip=1.0, colluders=1, session_colluders=2, **strict)
    updates = {i: np.full(3, i / 10) for i in range(1, 10)}
    np.testing.assert_allclose(aggregator.aggregate(updates).mean, 0.5, atol=1e-3)
    few = {i: updates[i] for i in range(1, 6)}  # all neighbor each other: indivisible without it
    np.testing.assert_allclose(aggregator.aggregate(few).mean, 0.3, atol=1e-3)
    for fields in ({"adversary": "malicious_server"}, {"neighbors": 4}):
        with pytest.raises(ConfigError, match="session_colluders has an effect only with neighbors"):
            secfed.SecAgg(session_colluders=2, **fields)


def test_more_neighbors_than_others_means_everyone() -> None:
    for neighbors in (4, 5, 100):
        assert session_config(secfed.SecAgg(neighbors=neighbors), 5).complete


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dropouts", [{}, {2: Stage.UNMASKING, 7: Stage.MASKED_INPUT_COLLECTION, 9: Stage.SHARE_KEYS}])
@pytest.mark.parametrize(
    "settings",
    [
        {"adversary": "malicious_server"},
        {"neighbors": 6, "threshold": 3},
        {"neighbors": 8, "threshold": 0.6, "adversary": "malicious_server", "colluders": 1},
        {"policy": Policy(minimum_cohort=9, minimum_threshold=5)},
        {"threshold": 7, "colluders": 6},
    ],
    ids=lambda settings: "-".join(settings) if isinstance(settings, dict) else "",
)
def test_mean_is_right_under_every_protection(settings: dict[str, Any], dropouts: dict[int, Stage]) -> None:
    updates, weights = random_updates(12), list(range(1, 13))
    secure = secfed.SecAgg(**settings).aggregate(updates, weights, dropouts=dropouts)
    plain = PLAIN.aggregate(updates, weights, dropouts=dropouts)
    assert outcome(secure) == outcome(plain)
    assert secure.mean == pytest.approx(plain.mean, abs=STEP)


def test_round_and_model_hash_are_bound_into_the_session() -> None:
    digest = bytes(range(32))
    result = SECURE.aggregate(random_updates(3), round=7, model_hash=digest, record=True)
    assert result.transcript is not None
    config = result.transcript.config
    assert config is not None
    assert (config.round, config.model_hash) == (7, digest)
    assert config.context == result.transcript.transform.context


def test_updates_and_weights_are_left_as_they_were() -> None:
    updates = [{"a": np.array([5.0, 1.0])}, {"a": np.array([1.0, -7.0])}]
    weights = {1: 2, 2: 3}
    with pytest.warns(ClippingWarning):
        result = SECURE.aggregate(updates, weights)
    result.mean["a"][:] = 0
    assert [update["a"].tolist() for update in updates] == [[5.0, 1.0], [1.0, -7.0]]
    assert weights == {1: 2, 2: 3}


def test_two_runs_round_differently_and_mask_differently() -> None:
    updates = random_updates(3, 500)
    first, second = SECURE.aggregate(updates, record=True), SECURE.aggregate(updates, record=True)
    assert not np.array_equal(first.mean, second.mean)
    assert first.transcript is not None
    assert second.transcript is not None
    assert first.transcript.contribution(1).tolist() != second.transcript.contribution(1).tolist()


def test_rounding_seed_makes_the_mean_repeatable_and_nothing_else() -> None:
    updates = random_updates(3, 500)
    aggregator = secfed.SecAgg(rounding_seed=7)
    first, second = aggregator.aggregate(updates, record=True), aggregator.aggregate(updates, record=True)
    assert np.array_equal(first.mean, second.mean)
    assert first.transcript is not None
    assert second.transcript is not None
    assert first.transcript.contribution(1).tolist() != second.transcript.contribution(1).tolist()
    assert not np.array_equal(first.mean, aggregator.aggregate(updates, round=1).mean)
    assert not np.array_equal(first.mean, secfed.SecAgg(rounding_seed=8).aggregate(updates).mean)


def test_rounding_seed_leaves_the_rounding_of_clients_independent() -> None:
    """With equal errors the error of the mean would be as large as each; it is seeded, so it fails always or never."""
    clients = 100
    updates = [np.full(500, 0.5 * STEP)] * clients
    mean = secfed.SecAgg(bits=16, rounding_seed=1, neighbors=6, threshold=5).aggregate(updates).mean
    assert np.abs(mean / STEP - 0.5).max() < 6 * 0.5 / math.sqrt(clients)


def test_transcript_is_kept_only_where_asked_for() -> None:
    assert SECURE.aggregate(random_updates(3)).transcript is None
    assert PLAIN.aggregate(random_updates(3)).transcript is None


def test_representation_of_an_aggregate_is_short() -> None:
    assert "bytes_up" not in repr(SECURE.aggregate(random_updates(3), record=True))


def test_threshold_in_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="threshold '2/3' must be a number of clients, or a fraction"):
        secfed.SecAgg(threshold="2/3")  # type: ignore[arg-type]


def test_dropouts_that_are_no_stages_are_refused() -> None:
    updates = [np.ones(3), np.ones(3), np.ones(3)]
    with pytest.raises(ConfigError, match="found 'SHARE_KEYS'"):
        secfed.SecAgg().aggregate(updates, dropouts={1: "SHARE_KEYS"})  # type: ignore[dict-item]


@BOTH
@pytest.mark.parametrize("dropouts", [[1, 3], (1,), {1}, 3])
def test_dropouts_that_are_no_dictionary_are_refused(aggregator: Any, dropouts: Any) -> None:
    with pytest.raises(ConfigError, match="needed a dictionary from client id to stage"):
        aggregator.aggregate(random_updates(3), dropouts=dropouts)


@BOTH
def test_mean_of_named_tuples_is_a_named_tuple(aggregator: Any) -> None:
    mean = aggregator.aggregate([Layer(np.full(2, number), np.ones(1)) for number in (1.0, 3.0)]).mean
    assert type(mean) is Layer
    assert mean.kernel == pytest.approx([2.0, 2.0], abs=1e-3)


@BOTH
def test_masked_array_is_refused_by_name(aggregator: Any) -> None:
    masked = np.ma.masked_array([1.0, 2.0], mask=[False, True])
    with pytest.raises(EncodingError, match="bias is a masked array"):
        aggregator.aggregate([{"bias": masked}, {"bias": masked}])
