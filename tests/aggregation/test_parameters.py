"""Parameters of a transform on another machine: the same vectors, and nothing believed that can be checked."""

import contextlib
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed.aggregation import (
    AdaptiveClipping,
    CentralGaussian,
    DistributedGaussian,
    PrivateSum,
    WeightedMean,
    messages,
)
from secfed.dp.noise import messages as noise_messages
from secfed.dp.noise.distributed import Layers
from secfed.errors import FaultyServerError, MalformedMessageError, SecFedError
from secfed.wire import layout
from tests import vectors
from tests.examples import examples

SIZE, CLIENTS = 50, 12
IDS = range(1, CLIENTS + 1)
PRIVACIES: dict[str, Any] = {
    "central": CentralGaussian(0.7, 1.5),
    "central_weights": CentralGaussian(0.7, 1.5, weight_cap=10.0),
    "central_adaptive": CentralGaussian(0.7, 1.5, adaptive=AdaptiveClipping(count_noise=2.0)),
    "discrete_gaussian": DistributedGaussian(0.7, 1.5),
    "skellam": DistributedGaussian(0.7, 1.5, mechanism="skellam", layers=3),
    "colluders": DistributedGaussian(0.7, 1.5, layers=4, colluders=2, adaptive=AdaptiveClipping(count_noise=2.0)),
}
EVERY_PRIVACY = pytest.mark.parametrize("privacy", PRIVACIES.values(), ids=PRIVACIES)


def private_sum(privacy: Any) -> PrivateSum:
    prepared = secfed.SecAgg(threshold=8).prepare(np.zeros(SIZE), IDS, privacy=privacy)
    assert prepared.private is not None
    return prepared.private


@EVERY_PRIVACY
def test_client_on_another_machine_has_the_same_private_sum(privacy: Any) -> None:
    ours = private_sum(privacy)
    theirs = PrivateSum.from_bytes(ours.to_bytes(), example=np.ones(SIZE), privacy=privacy)
    assert theirs.to_bytes() == ours.to_bytes()
    assert (theirs.hash, theirs.context, theirs.length, theirs.modulus_bits) == (
        ours.hash,
        ours.context,
        ours.length,
        ours.modulus_bits,
    )
    update, seed = np.random.default_rng(0).normal(size=SIZE), bytes(range(32))
    assert np.array_equal(theirs.coordinates(update, 7.0), ours.coordinates(update, 7.0))
    if ours.plan is None:
        assert np.array_equal(theirs.encode(update, 7.0, seed=seed), ours.encode(update, 7.0, seed=seed))
    else:
        assert theirs.plan is not None
        assert theirs.plan.noise == ours.plan.noise and theirs.event(12) == ours.event(12)
        theirs.check_config(secfed.SecAgg(threshold=8).config(IDS, ours))
    layers = len(ours.plan.noise.honest) if ours.plan else 0
    assert len(ours.to_bytes()) == 80 + len(ours.rotation_seed) + 4 * layers


@given(st.floats(1e-3, 1e3), st.integers(2, 20), st.integers(1, 1000), st.integers(1, 1000), st.integers(0, 2**32))
@examples(14, 100)
def test_client_on_another_machine_has_the_same_weighted_mean(
    clip: float, bits: int, clients: int, max_weight: int, number: int
) -> None:
    ours = WeightedMean.of({"a": np.zeros(3), "b": np.zeros((2, 2))}, clip=clip, clients=clients, max_weight=max_weight,
                           bits=bits)  # fmt: skip
    data = ours.to_bytes()
    theirs = WeightedMean.from_bytes(data, example={"b": np.ones((2, 2)), "a": np.ones(3)})
    assert len(data) == 31
    assert theirs.fixed_point == ours.fixed_point and theirs.context == ours.context
    generator = np.random.default_rng(number)
    update = {"a": generator.normal(size=3), "b": generator.normal(size=(2, 2))}
    assert np.array_equal(theirs.encode(update, 1, seed=bytes(32)), ours.encode(update, 1, seed=bytes(32)))


def changed(transform: PrivateSum, **fields: bytes) -> bytes:
    found = messages.PrivateSumParameters.from_bytes(transform.to_bytes())
    return replace(found, **fields).to_bytes()


ASKED = DistributedGaussian(0.7, 1.5, layers=3, colluders=1, minimum_survivors=8)


@pytest.mark.parametrize(
    ("asked", "check"),
    [
        (replace(ASKED, clip_norm=0.8), "T3"),
        (replace(ASKED, weight_cap=3.0), "T3"),
        (replace(ASKED, adaptive=AdaptiveClipping()), "T3"),
        (CentralGaussian(0.7, 1.5), "T4"),
        (replace(ASKED, mechanism="skellam"), "T4"),
        (replace(ASKED, colluders=2), "T4"),
        (replace(ASKED, minimum_survivors=9), "T4"),
        (replace(ASKED, layers=2), "T4"),
        (replace(ASKED, noise_multiplier=1.51), "T5"),
    ],
)
def test_client_refuses_less_than_it_insists_on(asked: Any, check: str) -> None:
    ours = private_sum(ASKED)
    PrivateSum.from_bytes(ours.to_bytes(), example=np.zeros(SIZE), privacy=ASKED)
    with pytest.raises(FaultyServerError) as caught:
        PrivateSum.from_bytes(ours.to_bytes(), example=np.zeros(SIZE), privacy=asked)
    assert caught.value.check == check


def test_client_refuses_parameters_that_would_make_its_noise_too_little() -> None:
    ours = private_sum(ASKED)
    assert ours.plan is not None
    noise, step = ours.plan.noise, ours.lattice.step
    honest = b"".join(number.to_bytes(4, "little") for number in (11, 9, 8))
    tiny = Layers(noise.variance, (100_000_000, 99_999_999, 7))
    for fields, check in (
        ({"noise_variance": messages.f64(noise.variance * (1 - 1e-5))}, "T5"),
        ({"step": messages.f64(step * 0.999)}, "T5"),  # the same noise is then less, in units of the clip
        ({"honest": honest}, "T4"),  # made for more survivors than the threshold
        ({"threshold": (7).to_bytes(4, "little")}, "T4"),
        ({"mechanism": b"\0"}, "T4"),
        ({"honest": b"".join(number.to_bytes(4, "little") for number in tiny.honest)}, "T5"),
        ({"values": (51).to_bytes(8, "little")}, "T2"),
    ):
        with pytest.raises(FaultyServerError) as caught:
            PrivateSum.from_bytes(changed(ours, **fields), example=np.zeros(SIZE), privacy=ASKED)
        assert caught.value.check == check, fields


@pytest.mark.parametrize(
    "fields",
    [
        {"clip_norm": messages.f64(math.nan)},
        {"clip_norm": messages.f64(-0.7)},
        {"step": messages.f64(0.0)},
        {"step": messages.f64(1e-12)},
        {"noise_variance": messages.f64(math.inf)},
        {"rotation_seed": bytes(31)},
        {"rotation_seed": b""},
        {"mechanism": b"\3"},
        {"honest": bytes(4)},
        {"honest": bytes(5)},
        {"modulus_bits": b"\0"},
        {"modulus_bits": b"\x41"},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_numbers_that_no_transform_can_have_are_refused(fields: Any) -> None:
    with pytest.raises(SecFedError) as caught:
        PrivateSum.from_bytes(changed(private_sum(ASKED), **fields), example=np.zeros(SIZE), privacy=ASKED)
    assert isinstance(caught.value, MalformedMessageError | FaultyServerError)


@pytest.mark.parametrize(
    "fields",
    [
        {"modulus_bits": b"\1"},
        {"modulus_bits": b"\x41"},
        {"divisor": messages.f64(0.0)},
        {"weight_cap": messages.f64(-0.0)},
        {"rotation_seed": bytes(31)},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_numbers_that_no_sum_with_the_servers_noise_can_have_are_refused(fields: Any) -> None:
    privacy = PRIVACIES["central"]
    with pytest.raises(MalformedMessageError):
        PrivateSum.from_bytes(changed(private_sum(privacy), **fields), example=np.zeros(SIZE), privacy=privacy)


@examples(67, 400)
@given(st.binary(max_size=120), st.integers(0, 130), st.sampled_from(["private", "mean", "random"]))
def test_random_bytes_raise_only_named_errors(data: bytes, place: int, kind: str) -> None:
    valid = (
        private_sum(ASKED).to_bytes()
        if kind == "private"
        else WeightedMean.of(np.zeros(SIZE), clip=1.0, clients=3).to_bytes()
    )
    if kind != "random":
        data = (valid[:place] + data[:3] + valid[place + 3 :])[: len(valid)]
    for read in (
        lambda: PrivateSum.from_bytes(data, example=np.zeros(SIZE), privacy=ASKED),
        lambda: WeightedMean.from_bytes(data, example=np.zeros(SIZE)),
    ):
        with contextlib.suppress(MalformedMessageError, FaultyServerError):
            read()


def test_session_for_other_vectors_is_refused() -> None:
    mean = WeightedMean.of(np.zeros(SIZE), clip=1.0, clients=CLIENTS)
    ours = private_sum(ASKED)
    config = secfed.SecAgg(threshold=8).config(IDS, ours)
    ours.check_config(config)
    for other in (mean, private_sum(ASKED)):  # the second has another rotation
        with pytest.raises(FaultyServerError) as caught:
            other.check_config(config)
        assert caught.value.check == "T6"
    with pytest.raises(FaultyServerError, match="has 50 values, this client's 51"):
        WeightedMean.from_bytes(mean.to_bytes(), example=np.zeros(SIZE + 1))


def test_messages_are_those_of_the_specification() -> None:
    schema = json.loads((vectors.PROTOCOLS / "aggregation" / "messages.json").read_text())
    for entry in schema["messages"]:
        kind = getattr(noise_messages if entry["stage"] == "SURPLUS_NOISE" else messages, entry["name"])
        assert kind.kind == entry["kind"]
        found = [(name, "variable" if size is None else size) for name, size in layout(kind)]
        assert found == [(field["name"], field["length"]) for field in entry["fields"]]
