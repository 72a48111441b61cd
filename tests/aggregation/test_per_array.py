"""Clipping of each array by itself: sums, norms, parameters, sessions."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed.aggregation import (
    Compressed,
    LowRank,
    Maps,
    PerArrayClipping,
    PrivateSum,
    RandomK,
    RandomRotation,
    ScaledMean,
    WeightedMean,
)
from secfed.aggregation.array_clips import whole_norm
from secfed.aggregation.messages import ArrayClipsParameters
from secfed.aggregation.per_array import in_float64
from secfed.encoding.flatten import arrays, combine, structure
from secfed.errors import ConfigError, EncodingError, FaultyServerError, MalformedMessageError
from secfed.secagg import Stage
from tests.paillier.keys import keypair

SHAPES = st.lists(st.sampled_from([(), (3,), (2, 4), (0, 2), (5, 1)]), min_size=1, max_size=4).filter(
    lambda shapes: any(math.prod(shape) for shape in shapes)
)
SCALES = st.floats(1e-6, 1e6)
DTYPES = st.sampled_from([np.float16, np.float32, np.float64])


@st.composite
def settings(draw: Any) -> tuple[Any, Any, list[Any], list[int]]:
    """An update's clips, its arrays, updates and weights."""
    shapes = draw(SHAPES)
    named = draw(st.booleans())
    scales = [draw(SCALES) for _ in shapes]
    dtypes = [draw(DTYPES) if 1e-3 < scale < 1e3 else np.float64 for scale in scales]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    clients = draw(st.integers(2, 5))
    lists = [
        [
            np.asarray(random.normal(0, scale, shape), dtype)
            for shape, scale, dtype in zip(shapes, scales, dtypes, strict=True)
        ]
        for _ in range(clients)
    ]
    clips = [scale * draw(st.floats(0.5, 4)) for scale in scales]

    def tree(parts: list[Any]) -> Any:
        return dict(zip("dbca", parts, strict=False)) if named else parts

    return (
        tree(clips),
        tree(lists[0]),
        [tree(parts) for parts in lists],
        [draw(st.integers(1, 9)) for _ in range(clients)],
    )


@given(settings(), st.integers(3, 16), st.booleans(), st.data())
def test_sum_is_the_mean_of_separately_clipped_values_within_each_step(
    setting: Any, bits: int, scaled: bool, data: Any
) -> None:
    clips, example, updates, weights = setting
    aggregator = secfed.SecAgg(clip=clips, bits=bits, max_weight=9, scale_weights=scaled)
    transform: Any = aggregator.transform(example, len(updates), None, None)
    survivors = data.draw(st.sets(st.sampled_from(range(len(updates))), min_size=1))
    vectors = [transform.encode(updates[i], weights[i]) for i in survivors]
    modulus = np.uint64((1 << transform.modulus_bits) - 1)
    total = sum(vector.astype(np.uint64) for vector in vectors) & modulus
    decoded = transform.decode(total.astype(vectors[0].dtype), survivors)
    weight = sum(weights[i] for i in survivors)
    assert decoded.weight == weight
    own = arrays(combine(lambda part: part, clips_as_arrays(clips)))
    for place, (mean, clip) in enumerate(zip(arrays(decoded.mean), own, strict=True)):
        parts = [np.clip(arrays(updates[i])[place].astype(np.float64), -clip, clip) * weights[i] for i in survivors]
        exact = sum(parts) / weight
        # A scaled mean rounds weighted values: each client's step counts max_weight / weight times.
        step = float(clip) / ((1 << (bits - 1)) - 1) * (9 * len(survivors) / weight if scaled else 1)
        rounding = np.finfo(mean.dtype).eps * float(clip) + np.finfo(mean.dtype).tiny
        assert mean.dtype == arrays(example)[place].dtype and mean.shape == arrays(example)[place].shape
        assert np.all(np.abs(mean.astype(np.float64) - exact) <= step * (1 + 1e-9) + rounding)
    beyond = sum(
        int(np.count_nonzero(np.abs(array.astype(np.float64)) > clip * (1 + 1e-12)))
        for array, clip in zip(arrays(updates[0]), own, strict=True)
    )
    assert transform.beyond_clip(updates[0]) == beyond


def clips_as_arrays(clips: Any) -> Any:
    return (
        {name: np.array(clip) for name, clip in clips.items()} if isinstance(clips, dict) else [*map(np.array, clips)]
    )


@given(settings(), st.sampled_from(["central", "distributed"]), st.data())
def test_private_vectors_keep_their_norm_bound_on_the_integers(setting: Any, kind: str, data: Any) -> None:
    clips, example, updates, weights = setting
    cap = data.draw(st.none() | st.floats(1, 9))
    privacy: Any = secfed.CentralGaussian(clips, 1.0, weight_cap=cap)
    if kind == "distributed":
        privacy = secfed.DistributedGaussian(clips, 1.0, weight_cap=cap, minimum_survivors=2)
    transform = secfed.SecAgg(threshold=2).transform(example, len(updates), None, privacy)
    private: Any = transform.inner
    assert isinstance(transform, PerArrayClipping) and isinstance(private, PrivateSum)
    own = [float(clip) for clip in arrays(clips_as_arrays(clips))]
    assert private.privacy.clip_norm == privacy.whole_norm == pytest.approx(math.hypot(*own))
    for update, weight in zip(updates, weights, strict=True):
        inside = arrays(transform.inside(update))
        assert all(
            np.linalg.norm(part) <= min(clip, np.linalg.norm(array.astype(np.float64))) * (1 + 1e-12)
            for part, clip, array in zip(inside, own, arrays(update), strict=True)
        )
        steps = private.lattice.round(private.coordinates(transform.inside(update), weight), seed=bytes(32))
        assert int(steps.astype(object) @ steps.astype(object)) <= private.lattice.largest_square


def updates_of(seed: int = 0, count: int = 4) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [
        {
            "lora_A": random.normal(0, 0.01, (40, 4)).astype(np.float32),
            "lora_B": random.normal(0, 1.0, (4, 30)),
            "norm": random.normal(0, 10.0, 7),
        }
        for _ in range(count)
    ]


CLIPS = {"lora_A": 0.05, "lora_B": 5.0, "norm": 50.0}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("compression", [None, RandomK(0.5), LowRank(2), (LowRank(2), RandomK(0.5))], ids=str)
def test_session_with_dropouts_gives_the_mean_of_the_survivors(scaled: bool, compression: Any) -> None:
    options: Any = {"threshold": 3, "max_weight": 8, "rounding_seed": 3, "compression": compression}
    updates, weights = updates_of(), [8, 3, 5, 1]
    fine = secfed.SecAgg(clip=1000.0, bits=30, **options)
    own = secfed.SecAgg(clip=CLIPS, bits=8, scale_weights=scaled, **options)
    dropouts = {2: Stage.MASKED_INPUT_COLLECTION}
    exact = fine.aggregate(updates, weights, dropouts=dropouts)
    found = own.aggregate(updates, weights, dropouts=dropouts)
    assert found.survivors == exact.survivors == (1, 3, 4) and found.weight == exact.weight
    # A map that expands multiplies errors: by 1 / fraction, or at most by the longer side over the rank.
    factor = {None: 1, RandomK(0.5): 2, LowRank(2): 20, (LowRank(2), RandomK(0.5)): 40}[compression]
    for name, clip in CLIPS.items():
        step = clip / 127 * (3 * 8 / 14 if scaled else 1)
        assert np.abs(found.mean[name] - exact.mean[name]).max() <= 1.5 * factor * step + 1e-6


def test_own_clips_cost_no_bytes_of_the_masked_vector() -> None:
    one = secfed.SecAgg(threshold=3, max_weight=8, bits=8, clip=50.0).aggregate(updates_of(), [1, 2, 3, 8])
    own = secfed.SecAgg(threshold=3, max_weight=8, bits=8, clip=CLIPS).aggregate(updates_of(), [1, 2, 3, 8])
    assert own.bytes_up == one.bytes_up


def test_paillier_adds_arrays_with_their_own_clips() -> None:
    updates = updates_of(count=2)
    result = secfed.Paillier(private_key=keypair()[1], noise="short", clip=CLIPS, bits=8).aggregate(
        updates, record=True
    )
    for name, clip in CLIPS.items():
        assert np.abs(result.mean[name] - (updates[0][name] + updates[1][name]) / 2).max() <= clip / 127 + 1e-6
    assert result.transcript is not None
    assert result.transcript.readable_mean()["norm"].tolist() == result.mean["norm"].tolist()


def test_values_beyond_the_clip_of_their_array_are_counted() -> None:
    updates = [{"a": np.array([1.0, 3.0]), "b": np.array([0.5, 0.05])}] * 2
    with pytest.warns(secfed.aggregation.ClippingWarning, match="4 of 8 values were beyond the clip"):
        result = secfed.SecAgg(threshold=2, clip={"a": 2.0, "b": 0.1}).aggregate(updates)
    assert result.mean["a"] == pytest.approx([1, 2], abs=1e-3) and result.mean["b"] == pytest.approx(
        [0.1, 0.05], abs=1e-5
    )


def test_transcript_reads_what_clear_and_masked_clients_sent() -> None:
    updates = updates_of()
    privacy = secfed.CentralGaussian({"lora_A": 1.0, "lora_B": 100.0, "norm": 100.0}, 0.001)
    for aggregator, given_privacy in ((secfed.SecAgg(threshold=3, clip=CLIPS), None), (secfed.Plain(), privacy)):
        transcript = aggregator.aggregate(updates, record=True, privacy=given_privacy).transcript
        assert transcript is not None
        exact = np.mean([update["norm"] for update in updates], axis=0)
        assert transcript.readable_mean()["norm"] == pytest.approx(exact, abs=0.2)
        seen = transcript.readable(1)
        assert {name: array.shape for name, array in seen.items()} == {n: a.shape for n, a in updates[0].items()}
        assert transcript.resemblance(1, updates[0]).hidden is (given_privacy is None)
        if given_privacy:
            assert seen["norm"] == pytest.approx(updates[0]["norm"], abs=0.2)


def test_private_release_is_that_of_the_whole_norm() -> None:
    updates = updates_of()
    own = secfed.CentralGaussian(CLIPS, 1.0)
    whole = secfed.CentralGaussian(own.whole_norm, 1.0)
    aggregator = secfed.SecAgg(threshold=3)
    assert (
        aggregator.aggregate(updates, privacy=own).event
        == aggregator.aggregate(updates, privacy=whole).event
        is not None
    )


def test_array_is_scaled_down_to_its_own_norm_and_others_stay() -> None:
    updates = [{"long": np.full(4, 5.0), "short": np.full(4, 0.1)}] * 4
    privacy = secfed.CentralGaussian({"long": 1.0, "short": 1.0}, 1e-6)
    mean = secfed.Plain().aggregate(updates, privacy=privacy).mean
    assert mean["long"] == pytest.approx(0.5, abs=2e-3) and mean["short"] == pytest.approx(0.1, abs=2e-3)


def test_training_reports_the_whole_norm() -> None:
    privacy = secfed.CentralGaussian([3.0, 4.0], 1.0)
    training = secfed.FedAvg(
        lambda model, data: ([part * 0 + 0.01 for part in model], 1),
        aggregator=secfed.SecAgg(threshold=2),
        privacy=privacy,
    )
    reports = [*training.rounds([np.zeros(3), np.zeros(2)], {1: 0, 2: 0, 3: 0}, 1)]
    assert reports[0].clip_norm == 5.0


def test_client_makes_the_same_transform_from_the_parameters() -> None:
    example = updates_of()[0]
    for options in (
        {},
        {"bits": 8, "scale_weights": True},
        {"compression": (LowRank(2), RandomK(0.5))},
        {"bits": 8, "scale_weights": True, "compression": RandomK(0.5)},
    ):
        server = secfed.SecAgg(clip=CLIPS, max_weight=8, **options).transform(example, 4, None, None)
        client = PerArrayClipping.from_bytes(
            server.to_bytes(), example=example, clip=CLIPS, compression=options.get("compression")
        )
        assert (client.to_bytes(), client.context, client.length) == (server.to_bytes(), server.context, server.length)
        left, right = (each.encode(example, 5, seed=bytes(32)) for each in (client, server))
        assert left.tolist() == right.tolist()


def test_client_makes_the_same_private_sum_from_the_parameters() -> None:
    example = updates_of()[0]
    for privacy in (secfed.CentralGaussian(CLIPS, 1.0), secfed.DistributedGaussian(CLIPS, 1.0, minimum_survivors=3)):
        server = secfed.SecAgg(threshold=3).transform(example, 4, None, privacy)
        client = PerArrayClipping.from_bytes(server.to_bytes(), example=example, privacy=privacy)
        assert (client.to_bytes(), client.context, client.fewest) == (server.to_bytes(), server.context, server.fewest)
        other: Any = type(privacy)(CLIPS | {"norm": 51.0}, 1.0)
        with pytest.raises(FaultyServerError, match="'norm'") as caught:
            PerArrayClipping.from_bytes(server.to_bytes(), example=example, privacy=other)
        assert caught.value.check == "T8"


def parameters(**fields: Any) -> bytes:
    sent = ArrayClipsParameters.from_bytes(
        secfed.SecAgg(clip=CLIPS, max_weight=8).transform(updates_of()[0], 4, None, None).to_bytes()
    )
    return ArrayClipsParameters(**({"clips": sent.clips, "inner": sent.inner} | fields)).to_bytes()


def test_client_refuses_parameters_that_it_did_not_agree_to() -> None:
    example = updates_of()[0]
    with pytest.raises(FaultyServerError, match="has 2 arrays") as caught:
        PerArrayClipping.from_bytes(parameters(clips=np.array([0.05, 5.0]).tobytes()), example=example, clip=CLIPS)
    assert caught.value.check == "T2"
    with pytest.raises(FaultyServerError, match="'lora_B', 'norm'") as caught:
        PerArrayClipping.from_bytes(parameters(), example=example, clip=CLIPS | {"lora_B": 1.0, "norm": 2.0})
    assert caught.value.check == "T8"
    with pytest.raises(ConfigError, match="needed a dictionary or list of clips"):
        PerArrayClipping.from_bytes(parameters(), example=example, clip=1.0)
    with pytest.raises(ConfigError, match="have no clip"):
        PerArrayClipping.from_bytes(parameters(), example=example, clip=[1.0, 1.0])
    with pytest.raises(ConfigError, match="needed a dictionary or list of clips"):
        PerArrayClipping.from_bytes(parameters(), example=example, privacy=secfed.CentralGaussian(1.0, 1.0))
    with pytest.raises(ConfigError, match="RandomRotation mixes"):
        PerArrayClipping.from_bytes(parameters(), example=example, clip=CLIPS, compression=RandomRotation())
    with pytest.raises(MalformedMessageError):  # no private sum
        PerArrayClipping.from_bytes(parameters(), example=example, privacy=secfed.CentralGaussian(CLIPS, 1.0))


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 1e-101, 1e101])
def test_clip_that_no_transform_can_have_is_malformed(clip: float) -> None:
    with pytest.raises(MalformedMessageError):
        PerArrayClipping.from_bytes(
            parameters(clips=np.array([0.05, clip, 50.0]).tobytes()), example=updates_of()[0], clip=CLIPS
        )


def test_parameters_with_a_broken_part_are_malformed() -> None:
    mean = WeightedMean.of(in_float64(updates_of()[0]), clip=2.0, clients=4, max_weight=8)
    for broken in (
        parameters(clips=b""),
        parameters(clips=bytes(7)),
        parameters(inner=b""),
        parameters(inner=mean.to_bytes()),
        parameters(inner=parameters()),
        parameters() + b"\0",
    ):
        with pytest.raises(MalformedMessageError):
            PerArrayClipping.from_bytes(broken, example=updates_of()[0], clip=CLIPS)


@given(st.binary(max_size=8), st.integers(0, 120), st.sampled_from([None, RandomK(0.5), "private"]))
def test_changed_parameters_raise_only_named_errors(data: bytes, place: int, kind: Any) -> None:
    example = updates_of()[0]
    privacy = secfed.DistributedGaussian(CLIPS, 1.0, minimum_survivors=3) if kind == "private" else None
    compression = None if privacy else kind
    aggregator = secfed.SecAgg(threshold=3, clip=CLIPS, max_weight=8, compression=compression)
    valid = aggregator.transform(example, 4, None, privacy).to_bytes()
    changed = valid[:place] + data + valid[place + len(data) :]
    try:
        client = PerArrayClipping.from_bytes(
            changed, example=example, clip=CLIPS, compression=compression, privacy=privacy
        )
    except (MalformedMessageError, FaultyServerError):
        return
    assert client.to_bytes() == changed and client.clips == (0.05, 5.0, 50.0)


def test_inner_transform_must_fit_the_clips() -> None:
    example = updates_of()[0]
    like, wide, clips = structure(example), in_float64(example), (0.05, 5.0, 50.0)
    one = WeightedMean.of(wide, clip=1.0, clients=2)
    assert PerArrayClipping(like, clips, one).length == one.length
    rotated = Maps((RandomRotation(),), structure(wide), bytes(32))
    chosen = Maps((RandomK(0.5),), structure(wide), bytes(32))
    private = PrivateSum.of(secfed.CentralGaussian(whole_norm(clips), 1.0), example, clients=2)
    inside = PrivateSum.of(secfed.CentralGaussian(whole_norm(clips), 1.0), np.zeros(chosen.size), clients=2)
    assert PerArrayClipping(like, clips, private).bound == private.bound
    for transform, own in (
        (one, clips[:2]),
        (WeightedMean.of(wide, clip=2.0, clients=2), clips),
        (ScaledMean(structure(np.zeros(3)), 1.0, 4, 2, 8), clips),
        (Compressed(rotated, WeightedMean.of(np.zeros(rotated.size), clip=1.0, clients=2)), clips),
        (Compressed(chosen, inside), clips),
        (private, (0.05, 5.0, 51.0)),
    ):
        with pytest.raises(ConfigError):
            PerArrayClipping(like, own, transform)


def test_update_that_does_not_fit_is_refused_before_anything_is_sent() -> None:
    example = updates_of()[0]
    for aggregator, privacy in (
        (secfed.SecAgg(clip=CLIPS, max_weight=8), None),
        (secfed.Plain(), secfed.CentralGaussian(CLIPS, 1.0)),
    ):
        transform = aggregator.transform(example, 4, None, privacy)
        for bad in (example | {"norm": np.zeros(6)}, example | {"norm": np.full(7, np.inf)}, {"norm": np.zeros(7)}):
            with pytest.raises(EncodingError):
                transform.encode(bad, 1)
            with pytest.raises(EncodingError):
                transform.check(bad, 1)
    with pytest.raises(EncodingError, match="weight"):
        secfed.SecAgg(clip=CLIPS, max_weight=8).transform(example, 4, None, None).check(example, 9)


def test_huge_values_are_clipped_where_the_quotient_overflows() -> None:
    updates = [{"a": np.array([1e300, -1e300]), "b": np.array([1.0])}] * 2
    with pytest.warns(secfed.aggregation.ClippingWarning):
        mean = secfed.SecAgg(threshold=2, clip={"a": 1e-90, "b": 2.0}).aggregate(updates).mean
    assert mean["a"] == pytest.approx([1e-90, -1e-90])


def test_encoding_takes_memory_for_blocks_only() -> None:
    import tracemalloc

    update = {"a": np.ones(400_000, np.float32), "b": np.ones(600_000, np.float32)}
    transform = secfed.SecAgg(clip={"a": 2.0, "b": 4.0}, max_weight=8, bits=8).transform(update, 4, None, None)
    transform.encode(update, 1, seed=bytes(32))
    tracemalloc.start()
    vector = transform.encode(update, 1, seed=bytes(32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - vector.nbytes < 3_000_000  # a second update in float64 would be 8,000,000


def test_private_sum_alone_takes_one_norm() -> None:
    with pytest.raises(ConfigError, match="needed one number"):
        PrivateSum.of(secfed.CentralGaussian(CLIPS, 1.0), updates_of()[0], clients=2)
