"""Compressed sums: the maps, their parameters, and every protocol with them."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed import paillier
from secfed.aggregation import (
    Compressed,
    Compression,
    LowRank,
    Maps,
    PrivateSum,
    RandomK,
    RandomRotation,
    ScaledMean,
)
from secfed.aggregation.messages import CompressedParameters
from secfed.encoding.flatten import flatten, structure
from secfed.errors import ConfigError, EncodingError, FaultyServerError, MalformedMessageError
from secfed.secagg import Stage

SEED = bytes(range(32))
CHOICES: list[Compression | tuple[Compression, ...]] = [
    RandomK(0.3),
    RandomRotation(),
    LowRank(3),
    (RandomK(0.3), RandomRotation()),
    (LowRank(3), RandomRotation()),
    (LowRank(3), RandomK(0.5)),
]
compressions = pytest.mark.parametrize("compression", CHOICES, ids=str)
WITHOUT_ROTATION = [RandomK(0.3), LowRank(3), (LowRank(3), RandomK(0.5))]


def model(seed: int = 0, dtype: Any = np.float64) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shapes = {"wide": (4, 20), "high": (20, 4), "bias": (5,), "kernel": (6, 2, 3), "scalar": ()}
    return {name: np.asarray(random.normal(0, 0.1, shape), dtype) for name, shape in shapes.items()}


def maps(compression: Any, example: Any, seed: bytes = SEED) -> Maps:
    chosen = (compression,) if isinstance(compression, Compression) else compression
    return Maps(chosen, structure(example), seed)


@compressions
def test_maps_are_linear(compression: Any) -> None:
    each = maps(compression, model())
    left, right = each.compress(model(1)), each.compress(model(2))
    both = {name: 2 * array - 3 * model(2)[name] for name, array in model(1).items()}
    assert each.compress(both) == pytest.approx(2 * left - 3 * right)
    assert each.expand(2 * left - 3 * right) == pytest.approx(2 * each.expand(left) - 3 * each.expand(right))


@compressions
def test_expected_mean_is_the_true_one(compression: Any) -> None:
    update, count = model(), 200
    expanded = [
        (each := maps(compression, update, i.to_bytes(32, "big"))).expand(each.compress(update)) for i in range(count)
    ]
    errors = np.mean(expanded, axis=0) - flatten(update)
    # Five standard deviations of the mean; a rotation alone has none.
    assert (np.abs(errors) <= 5 * np.std(expanded, axis=0) / np.sqrt(count) + 1e-12).all()


@compressions
def test_compressing_what_was_expanded_gives_it_back_scaled(compression: Any) -> None:
    each = maps(compression, model())
    values = each.compress(model())
    again = each.compress(_like(each, each.expand(values)))
    if compression == RandomK(0.3):
        assert again == pytest.approx(values * structure(model()).size / len(values))
    if compression == RandomRotation():
        assert again == pytest.approx(values)
    if compression == LowRank(3):
        wide = 4 * 3  # in the order of the names: bias, high, kernel, scalar, wide
        assert again[-wide:] == pytest.approx(values[-wide:] * 20 / 3)
        assert again[:5] == pytest.approx(values[:5])


def _like(each: Maps, values: Any) -> Any:
    from secfed.encoding.flatten import unflatten

    return unflatten(values, each.structure)


def test_random_k_sends_that_many_values_of_the_update_in_order() -> None:
    update = np.arange(1.0, 1001.0)
    each = maps(RandomK(0.1), update)
    sent = each.compress(update)
    assert len(sent) == 100
    assert (np.diff(sent) > 0).all()
    assert set(each.expand(sent)) == {0.0, *(10 * sent)}
    assert (sent != maps(RandomK(0.1), update, bytes(32)).compress(update)).any()


def test_low_rank_mean_has_that_rank_and_keeps_vectors_whole() -> None:
    update = model()
    each = maps(LowRank(3), update)
    mean = _like(each, each.expand(each.compress(update)))
    assert np.linalg.matrix_rank(mean["wide"]) == np.linalg.matrix_rank(mean["high"]) == 3
    assert (mean["bias"] == update["bias"]).all()
    assert each.size == 4 * 3 + 3 * 4 + 5 + 6 * 3 + 1
    # The kernel is a matrix of shape (6, 6).
    assert np.linalg.matrix_rank(mean["kernel"].reshape(6, 6)) == 3


def test_a_model_smaller_than_any_fraction_still_sends_one_value() -> None:
    for size in (1, 2, 3):
        each = maps(RandomK(0.01), np.ones(size))
        assert each.size == 1
        assert each.expand(each.compress(np.ones(size))).sum() == pytest.approx(size)


Pair = namedtuple("Pair", ["left", "right"])


@pytest.mark.parametrize(
    "update",
    [np.ones((5, 6)), [np.ones((3, 9)), (np.ones(2),)], Pair(np.ones((5, 5)), {"a/b": np.ones(3)})],
    ids=["array", "list", "named tuple"],
)
def test_mean_has_the_structure_of_the_updates(update: Any) -> None:
    for compression in (RandomK(0.5), RandomRotation(), LowRank(2)):
        aggregator = secfed.SecAgg(threshold=2, compression=compression)
        mean = aggregator.aggregate([update, update]).mean
        assert type(mean) is type(update)
        assert structure(update).difference(structure(mean)) == ""


def test_float32_updates_are_compressed_in_float32() -> None:
    update = model(dtype=np.float32)
    for compression in CHOICES:
        assert maps(compression, update).compress(update).dtype == np.float32
    half = {name: array.astype(np.float16) for name, array in update.items()}
    assert maps(RandomRotation(), half).compress(half).dtype == np.float64


PROTOCOLS: dict[str, Callable[..., Any]] = {
    "secagg": lambda **options: secfed.SecAgg(threshold=3, clip=1.0, bits=20, rounding_seed=7, **options),
    "paillier": lambda **options: secfed.Paillier(clip=1.0, bits=20, rounding_seed=7, **options),
}


@pytest.fixture(scope="module")
def private_key() -> Any:
    return paillier.generate_keypair(2048)[1]


@pytest.mark.parametrize("protocol", ["plain", "secagg", "paillier"])
@compressions
def test_sum_with_dropouts_is_compress_then_average(protocol: str, compression: Any, private_key: Any) -> None:
    if protocol == "plain":
        if compression == RandomRotation() or (isinstance(compression, tuple) and RandomRotation() in compression):
            with pytest.raises(ConfigError, match="RandomRotation has an effect only where values are rounded"):
                secfed.Plain(compression=compression).aggregate([model(1)])
            return
        aggregator: Any = secfed.Plain(compression=compression)
    else:
        key = {"private_key": private_key} if protocol == "paillier" else {}
        aggregator = PROTOCOLS[protocol](compression=compression, **key)
    updates, weights = {i: model(i) for i in range(1, 6)}, {i: i for i in range(1, 6)}
    prepared = aggregator.prepare(model(), updates, weights=weights)
    result = prepared.run(updates, weights, dropouts={2: Stage.MASKED_INPUT_COLLECTION})
    assert result.survivors == (1, 3, 4, 5)
    each = prepared.transform.maps
    compressed = sum(weights[i] * each.compress(updates[i]) for i in result.survivors) / 13
    # A compressed value is off by at most one step; expanding multiplies that by less than 40.
    assert flatten(result.mean) == pytest.approx(each.expand(compressed), abs=40 / 2**19)
    assert result.weight == 13


def test_fewer_values_are_fewer_bytes() -> None:
    updates = [np.ones(4000) * 0.1] * 4
    whole, tenth = (
        secfed.SecAgg(threshold=3, compression=compression).aggregate(updates).bytes_up[1]
        for compression in (None, RandomK(0.1))
    )
    assert whole > 8000
    assert tenth < whole / 4


@pytest.mark.parametrize("make", [secfed.Plain, secfed.SecAgg], ids=["plain", "secagg"])
@pytest.mark.parametrize("compression", WITHOUT_ROTATION, ids=str)
def test_private_sum_releases_the_same_event_and_clips_what_is_compressed(make: Any, compression: Any) -> None:
    privacy = secfed.CentralGaussian(clip_norm=0.5, noise_multiplier=1e-3)
    updates = [model(i) for i in range(1, 9)]
    prepared = make(compression=compression).prepare(model(), range(1, 9), privacy=privacy)
    transform = prepared.transform
    assert isinstance(transform.inner, PrivateSum)
    bare = make().prepare(np.zeros(transform.maps.size), range(1, 9), privacy=privacy)
    assert prepared.worst_event == bare.worst_event
    coordinates = transform.inner.coordinates(transform.maps.compress(updates[0]))
    assert np.linalg.norm(coordinates) <= 1 + 1e-12
    result = prepared.run(updates)
    assert result.event == bare.worst_event
    clipped = [values * min(1, 0.5 / np.linalg.norm(values)) for values in map(transform.maps.compress, updates)]
    assert flatten(result.mean) == pytest.approx(transform.maps.expand(np.mean(clipped, axis=0)), abs=0.02)


def test_noise_of_the_clients_and_surplus_noise_work_with_compression() -> None:
    privacy = secfed.DistributedGaussian(clip_norm=1.0, noise_multiplier=0.01, layers=3)
    updates = [model(i) for i in range(1, 9)]
    prepared = secfed.SecAgg(threshold=6, compression=RandomK(0.5)).prepare(model(), range(1, 9), privacy=privacy)
    result = prepared.run(updates, record=True)
    expected = prepared.transform.maps.expand(np.mean([prepared.transform.maps.compress(u) for u in updates], axis=0))
    assert flatten(result.mean) == pytest.approx(expected, abs=0.05)
    assert result.transcript is not None
    assert flatten(result.transcript.readable_mean()) == pytest.approx(flatten(result.mean))


@pytest.mark.parametrize("make", [secfed.Plain, lambda **o: secfed.SecAgg(threshold=3, **o)], ids=["plain", "secagg"])
def test_transcript_shows_what_the_server_saw_of_compressed_updates(make: Any) -> None:
    updates = [np.random.default_rng(i).normal(0, 0.1, 400) for i in range(4)]
    result = make(compression=RandomK(0.5)).aggregate(updates, record=True)
    transcript = result.transcript
    assert transcript is not None
    seen = transcript.resemblance(1, updates[0]).correlation
    assert seen > 0.999 if transcript.protection == "plain" else abs(seen) < 0.3
    assert transcript.readable(1).shape == (400,)


@given(choice=st.sampled_from(CHOICES), seed=st.binary(min_size=32, max_size=32), clip=st.floats(1e-3, 1e3))
def test_parameters_come_back_from_their_bytes(choice: Any, seed: bytes, clip: float) -> None:
    aggregator = secfed.SecAgg(clip=clip, max_weight=100, compression=choice)
    transform = aggregator.transform(model(), 10, None, None)
    transform = replace(transform, maps=replace(transform.maps, seed=seed))  # type: ignore[type-var]
    data = transform.to_bytes()
    again = Compressed.from_bytes(data, example=model(), compression=choice)
    assert again.to_bytes() == data
    vectors = [each.encode(model(1), 3, seed=SEED) for each in (transform, again)]
    assert (vectors[0] == vectors[1]).all()
    config = aggregator.config(range(1, 11), transform)
    again.check_config(config)
    with pytest.raises(FaultyServerError, match="not for vectors of this transform"):
        again.check_config(replace(config, context=transform.inner.context))


def test_parameters_of_a_private_sum_come_back_from_their_bytes() -> None:
    privacy = secfed.CentralGaussian(1.0, 0.5)
    transform = secfed.Plain(compression=RandomK(0.5)).transform(model(), 5, None, privacy)
    again = Compressed.from_bytes(transform.to_bytes(), example=model(), compression=RandomK(0.5), privacy=privacy)
    assert again.to_bytes() == transform.to_bytes()


def message(**changes: bytes) -> bytes:
    transform = secfed.SecAgg(max_weight=1, compression=RandomK(0.5)).transform(np.zeros(20), 4, None, None)
    return replace(CompressedParameters.from_bytes(transform.to_bytes()), **changes).to_bytes()


def code(number: int, parameter: int) -> bytes:
    return bytes([number]) + parameter.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("data", "check"),
    [
        (message()[:-1], "C1"),
        (message() + b"\0", "C1"),
        (message(maps=b""), "C1"),
        (message(maps=code(1, 10)[:-1]), "C1"),
        (message(maps=code(4, 10)), "C1"),
        (message(maps=code(1, 10) * 9), "C1"),
        (message(inner=b""), "C1"),
        (message(values=(21).to_bytes(8, "little")), "T2"),
        (message(maps=code(1, 9)), "T7"),
        (message(maps=code(3, 10)), "T7"),
        (message(maps=code(1, 10) + code(2, 0)), "T7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the bytes have a fresh seed in every process
)
def test_client_refuses_other_parameters(data: bytes, check: str) -> None:
    with pytest.raises((MalformedMessageError, FaultyServerError)) as caught:
        Compressed.from_bytes(data, example=np.zeros(20), compression=RandomK(0.5))
    assert caught.value.check == check


def test_client_refuses_an_inner_transform_of_another_length() -> None:
    inner = secfed.SecAgg(max_weight=1).transform(np.zeros(11), 4, None, None).to_bytes()
    with pytest.raises(FaultyServerError, match="11 values, this client's 10") as caught:
        Compressed.from_bytes(message(inner=inner), example=np.zeros(20), compression=RandomK(0.5))
    assert caught.value.check == "T2"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: RandomK(0.0), "fraction 0.0 must be above 0 and below 1"),
        (lambda: RandomK(1.0), "fraction 1.0 must be above 0 and below 1"),
        (lambda: RandomK("0.1"), "must be above 0 and below 1"),  # type: ignore[arg-type]
        (lambda: RandomK(None), "fraction None must be"),  # type: ignore[arg-type]
        (lambda: LowRank(0), "rank 0 must be a whole number"),
        (lambda: LowRank(2.5), "rank 2.5 must be a whole number"),  # type: ignore[arg-type]
        (lambda: secfed.SecAgg(compression="random-k"), "compression 'random-k' must be RandomK"),  # type: ignore[arg-type]
        (lambda: secfed.Plain(compression=()), "compression has 0 maps, needed 1 to 8"),
        (lambda: secfed.Paillier(compression=[RandomRotation(), RandomK(0.1)]), "RandomRotation must be the last map"),
        (lambda: secfed.Plain(compression=LowRank(8)).aggregate([np.ones(9)]), "no effect on arrays of shapes"),
        (lambda: maps(RandomK(0.1), np.ones(9), b"short"), "seed of the compression has 5 bytes, needs 32"),
    ],
)
def test_compression_without_effect_or_out_of_range_is_refused(make: Callable[[], Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


def test_rotation_with_privacy_is_refused() -> None:
    aggregator = secfed.SecAgg(compression=(RandomK(0.5), RandomRotation()))
    with pytest.raises(ConfigError, match="RandomRotation has an effect only where values are rounded"):
        aggregator.prepare(model(), range(1, 9), privacy=secfed.CentralGaussian(1.0, 1.0))


def test_update_of_another_shape_or_not_finite_is_refused_before_sending() -> None:
    aggregator = secfed.SecAgg(threshold=2, compression=RandomK(0.5))
    for odd in (np.zeros(9), np.full(10, np.inf)):
        with pytest.raises(EncodingError, match="client 2"):
            aggregator.aggregate([np.zeros(10), odd])


def test_maps_are_fresh_for_every_sum_and_repeatable_with_a_rounding_seed() -> None:
    def seed_of(aggregator: Any, round: int) -> bytes:
        found: bytes = aggregator.prepare(model(), range(1, 5), round=round, weights=[1] * 4).transform.maps.seed
        return found

    fresh, fixed = secfed.SecAgg(compression=RandomK(0.5)), secfed.SecAgg(compression=RandomK(0.5), rounding_seed=1)
    assert seed_of(fresh, 1) != seed_of(fresh, 1)
    assert seed_of(fixed, 1) == seed_of(fixed, 1) != seed_of(fixed, 2)


def scaled(**options: Any) -> ScaledMean:
    return ScaledMean(
        **{"structure": structure(model()), "clip": 1.0, "bits": 4, "clients": 50, "max_weight": 128} | options
    )


@pytest.mark.parametrize("protocol", ["secagg", "paillier"])
@pytest.mark.parametrize("compression", [None, (RandomK(0.5), RandomRotation())], ids=str)
def test_scaled_mean_is_the_weighted_mean(protocol: str, compression: Any, private_key: Any) -> None:
    key = {"private_key": private_key} if protocol == "paillier" else {}
    aggregator = PROTOCOLS[protocol](compression=compression, scale_weights=True, max_weight=1000, **key)
    updates, weights = {i: model(i) for i in range(1, 6)}, {1: 1, 2: 400, 3: 77, 4: 1000, 5: 999}
    result = aggregator.prepare(model(), updates).run(updates, weights, dropouts={3: Stage.MASKED_INPUT_COLLECTION})
    assert result.weight == 2400
    if compression is None:
        expected = sum(weights[i] * flatten(updates[i]) for i in result.survivors) / 2400
        # Each rounding is off by at most one step.
        assert flatten(result.mean) == pytest.approx(expected, abs=4 / 2.4 / (2**19 - 1))


def test_scaled_mean_takes_fewer_bits_and_sends_the_weight_in_digits() -> None:
    few = scaled()
    assert (few.modulus_bits, few.digit_bits, few.digits) == (10, 3, 3)
    vector = few.encode(model(), 0b1_000_101, seed=SEED)
    assert vector[-3:].tolist() == [0b101, 0b000, 0b1]
    usual = secfed.SecAgg(clip=1.0, bits=4, max_weight=128).transform(model(), 50, None, None)
    assert usual.modulus_bits == 17


@given(bits=st.integers(2, 12), clients=st.integers(1, 300), top=st.integers(2, 10**6), data=st.data())
def test_sum_of_digits_never_wraps(bits: int, clients: int, top: int, data: Any) -> None:
    few = scaled(structure=structure(np.zeros(1)), bits=bits, clients=clients, max_weight=top)
    weights = data.draw(st.lists(st.integers(1, top), min_size=1, max_size=min(clients, 5)))
    weights += [top] * (clients - len(weights))
    vectors = {weight: few.encode(np.ones(1), weight, seed=SEED) for weight in set(weights)}
    total = sum(vectors[weight].astype(np.uint64) for weight in weights) % 2**few.modulus_bits
    decoded = few.decode(total, range(clients))
    assert decoded.weight == sum(weights)
    # The mean of values at the clip: each is off by less than a step, before the division by the mean weight.
    assert abs(decoded.mean[0] - 1) <= clients / few.fixed_point.levels / (sum(weights) / top)


def test_rounding_of_a_scaled_mean_is_unbiased() -> None:
    few, update = scaled(clients=1, structure=structure(np.zeros(20_000))), np.full(20_000, 0.3)
    mean = few.decode(few.encode(update, 40, seed=SEED), [1]).mean
    assert len(set(mean)) == 2
    assert np.mean(mean) == pytest.approx(0.3, abs=5 * np.std(mean) / np.sqrt(20_000))


def test_parameters_of_a_scaled_mean_come_back_from_their_bytes() -> None:
    few = scaled()
    again = ScaledMean.from_bytes(few.to_bytes(), example=model())
    assert again.to_bytes() == few.to_bytes()
    assert len(few.to_bytes()) == 31
    aggregator = secfed.SecAgg(bits=6, max_weight=9, scale_weights=True, compression=RandomK(0.5))
    transform = aggregator.transform(model(), 5, None, None)
    read = Compressed.from_bytes(transform.to_bytes(), example=model(), compression=RandomK(0.5))
    assert isinstance(read.inner, ScaledMean)
    with pytest.raises(FaultyServerError, match="values, this client's 9"):
        ScaledMean.from_bytes(few.to_bytes(), example=np.zeros(9))
    with pytest.raises(MalformedMessageError, match="do not fit together"):
        ScaledMean.from_bytes(few.to_bytes()[:18] + b"\1" + few.to_bytes()[19:], example=model())


def test_scaled_weights_without_effect_or_out_of_range_are_refused() -> None:
    for options in ({}, {"bits": 4, "max_weight": 1}):
        with pytest.raises(ConfigError, match="scale_weights with bits"):
            secfed.SecAgg(scale_weights=True, **options)
    with pytest.raises(ConfigError, match="scale_weights has no effect with privacy"):
        secfed.SecAgg(scale_weights=True, bits=4).prepare(
            model(), range(1, 9), privacy=secfed.CentralGaussian(1.0, 1.0)
        )
    with pytest.raises(ConfigError, match="max_weight"):
        scaled(max_weight=0)
    with pytest.raises(EncodingError, match="from 1 to max_weight 128"):
        scaled().encode(model(), 129)
    few = scaled()
    with pytest.raises(EncodingError, match="the weights sum to"):
        few.decode(few.encode(model(), 128), [1, 2] * 65)
