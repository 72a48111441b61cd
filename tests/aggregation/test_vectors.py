"""The published vectors of aggregation, replayed through secfed."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secfed
from secfed import errors
from secfed.aggregation import (
    AdaptiveClipping,
    CentralGaussian,
    Compressed,
    DistributedGaussian,
    LowRank,
    PerArrayClipping,
    PrivateSum,
    RandomK,
    RandomRotation,
    ScaledMean,
    WeightedMean,
)
from secfed.dp.noise import NoiseShare, SurplusNoise, samplers
from secfed.dp.noise.distributed import MECHANISMS
from tests import vectors

FILES = vectors.files("aggregation")
ENCODE, MEANS, NOISE, PARAMETERS, SURPLUS = (
    [path for path in FILES if path.stem.startswith(start)]
    for start in (
        "encode_",
        ("array_clips_", "compressed_", "scaled_"),
        "noise_",
        "parameters_",
        ("surplus_", "reject_N", "reject_M"),
    )
)
REJECT = [path for path in FILES if path.stem.startswith("reject_T")]


MAPS: dict[int, Any] = {1: RandomK, 2: lambda parameter: RandomRotation(), 3: LowRank}


def by_name(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def privacy_of(policy: dict[str, Any]) -> Any:
    same = {
        "clip_norm": policy["clip_norm"],
        "noise_multiplier": policy["noise_multiplier"],
        "weight_cap": policy["weight_cap"] or None,
        "adaptive": AdaptiveClipping() if policy["adaptive"] else None,
    }
    if not policy["mechanism"]:
        return CentralGaussian(**same)
    return DistributedGaussian(
        **same,
        mechanism=MECHANISMS[policy["mechanism"] - 1],
        layers=policy["layers"],
        minimum_survivors=policy["fewest_survivors"],
        colluders=policy["colluders"],
    )


def transform_of(vector: dict[str, Any], message: str, example: Any) -> Any:
    """What a client makes of the parameters that came from a server."""
    data, inputs = bytes.fromhex(message), vector.get("inputs", {})
    maps: Any = [MAPS[code](parameter) for code, parameter in inputs.get("compression", [])] or None
    if "clips" in inputs:
        clips: Any = inputs["clips"]
        privacy = replace(privacy_of(vector["policy"]), clip_norm=clips) if "policy" in vector else None
        return PerArrayClipping.from_bytes(data, example=example, clip=clips, compression=maps, privacy=privacy)
    if maps:
        return Compressed.from_bytes(data, example=example, compression=maps)
    if vector["config"].get("scaled"):
        return ScaledMean.from_bytes(data, example=example)
    if "policy" not in vector:
        return WeightedMean.from_bytes(data, example=example)
    return PrivateSum.from_bytes(data, example=example, privacy=privacy_of(vector["policy"]))


def arrays(update: Any) -> Any:
    if isinstance(update, dict):
        return {name: arrays(part) for name, part in update.items()}
    return np.array(update)


@contextmanager
def refusal(error: dict[str, Any]) -> Iterator[None]:
    """Expect the error; where bytes are malformed, the codec does not know whose check that is."""
    with pytest.raises(getattr(errors, error["type"])) as caught:
        yield
    if error["type"] != "MalformedMessageError":
        assert caught.value.check == error["check"]  # type: ignore[attr-defined]
    assert getattr(caught.value, "client_id", None) == error.get("client_id")


@by_name(PARAMETERS)
def test_client_reads_the_parameters(path: Path) -> None:
    vector = vectors.load(path)
    config, result = vector["config"], vector["result"]
    transform = transform_of(vector, result["bytes"], np.zeros(config["values"]))
    found = {
        "bytes": transform.to_bytes().hex(),
        "hash": transform.hash.hex(),
        "length": transform.length,
        "modulus_bits": transform.modulus_bits,
        "context": transform.context.decode(),
    }
    if config.get("mechanism"):
        noise = transform.plan.noise
        found |= {"variances": list(noise.variances), "kept": {}}
        for survivors in result["kept"]:
            try:
                found["kept"][survivors] = noise.kept(int(survivors) - config["colluders"])
            except errors.TooFewSurvivorsError:
                found["kept"][survivors] = None
    assert found == result
    assert fields_of(transform) == config


def fields_of(transform: Any) -> dict[str, Any]:
    """The fields by name, from the attributes of a transform."""
    if isinstance(transform, WeightedMean):
        fixed = transform.fixed_point
        return {
            "values": transform.structure.size,
            "clip": fixed.clip,
            "bits": fixed.bits,
            "clients": fixed.clients,
            "max_weight": fixed.max_weight,
        }
    plan, privacy = transform.plan, transform.privacy
    return {
        "values": transform.structure.size,
        "clip_norm": privacy.clip_norm,
        "weight_cap": privacy.weight_cap or 0.0,
        "count_scale": transform.count_scale,
        "divisor": transform.expected,
        "step": transform.lattice.step,
        "modulus_bits": transform.modulus_bits,
        "rotation_seed": transform.rotation_seed.hex(),
        "mechanism": 1 + MECHANISMS.index(plan.mechanism) if plan else 0,
        "clients": plan.clients if plan else 0,
        "threshold": plan.threshold if plan else 0,
        "colluders": plan.colluders if plan else 0,
        "noise_variance": plan.noise.variance if plan else transform.noise_variance,
        "honest": list(plan.noise.honest) if plan else [],
    }


@by_name(ENCODE)
def test_client_encodes_to_the_same_vector(path: Path) -> None:
    vector = vectors.load(path)
    inputs = vector["inputs"]
    update = arrays(inputs["update"])
    transform = transform_of(vector, inputs["message"], update)
    encoded = transform.encode(update, inputs["weight"], seed=bytes.fromhex(inputs["seed"]))
    assert encoded.tolist() == vector["result"]["vector"]


@by_name(MEANS)
def test_client_reads_the_parameters_of_a_mean_and_encodes_to_the_same_vector(path: Path) -> None:
    vector = vectors.load(path)
    inputs, result = vector["inputs"], vector["result"]
    update = [np.array(part) for part in inputs["update"]] if len(inputs["shapes"]) > 1 else np.array(inputs["update"])
    transform = transform_of(vector, inputs["message"], update)
    encoded = transform.encode(update, inputs["weight"], seed=bytes.fromhex(inputs["seed"]))
    assert result == {
        "bytes": transform.to_bytes().hex(),
        "hash": transform.hash.hex(),
        "vector": encoded.tolist(),
        "length": transform.length,
        "modulus_bits": transform.modulus_bits,
        "context": transform.context.decode(),
    }


@by_name(NOISE)
def test_seed_gives_the_same_noise(path: Path) -> None:
    vector = vectors.load(path)
    inputs, result = vector["inputs"], vector["result"]
    variance, size, seed = inputs["variance"], inputs["size"], bytes.fromhex(inputs["seed"])
    draw = {"discrete_gaussian": samplers.discrete_gaussian, "skellam": samplers.skellam}[inputs["law"]]
    samples = draw(variance, size, seed)
    assert list(map(str, samples[:64].tolist())) == result["samples"]
    if size > 64:
        assert hashlib.sha256(samples.astype("<i8").tobytes()).hexdigest() == result["sha256"]
        assert list(map(str, draw(variance, 64, seed).tolist())) == result["samples"]


@by_name(REJECT)
def test_client_refuses_the_parameters_or_the_session(path: Path) -> None:
    vector = vectors.load(path)
    inputs = vector["inputs"]
    shapes = inputs.get("shapes")
    example = [np.zeros(shape) for shape in shapes] if shapes else np.zeros(inputs["values"])
    if "session" not in inputs:
        with refusal(vector["error"]):
            transform_of(vector, inputs["message"], example)
        return
    transform = transform_of(vector, inputs["message"], example)
    usual = secfed.SecAgg(threshold=6).config(range(1, 11), transform)
    transform.check_config(usual)
    session = inputs["session"]
    config = replace(usual, **session | {"context": session["context"].encode()})
    with refusal(vector["error"]):
        transform.check_config(config)


class Given:
    """Seeds of layers as a source of secret bytes."""

    def __init__(self, seeds: list[str]) -> None:
        self._seeds = seeds

    def draw(self, label: str, size: int) -> bytes:
        seed = bytes.fromhex(self._seeds[int(label.removeprefix("noise "))])
        assert len(seed) == size
        return seed


@by_name(SURPLUS)
def test_surplus_noise_is_asked_for_given_and_refused_alike(path: Path) -> None:
    vector = vectors.load(path)
    inputs, error = vector["inputs"], vector.get("error")
    transform = transform_of(vector, inputs["message"], np.zeros(vector["config"]["values"]))
    server, survivors = transform.surplus_noise(inputs["survivors"]), len(inputs["survivors"])
    clients = {
        int(name): NoiseShare(transform.plan, transform.hash, entropy=Given(seeds))
        for name, seeds in inputs["seeds"].items()
    }
    opening, *steps = vector["steps"]
    assert opening["sends"] == ({str(u): server.request.hex() for u in inputs["survivors"]} if server.request else {})
    last = steps.pop() if error else None
    for step in steps:
        if step["to"] == "server":
            server.receive(step["from"], bytes.fromhex(step["receives"]))
        else:
            reply = clients[client_of(step)].receive(bytes.fromhex(step["receives"]), survivors)
            assert reply.hex() == step["replies"]
    if last is None:
        assert vector["result"] == {"kept": server._kept, "seeds": taken(server)}
        return
    before = taken(server)
    with refusal(error):
        if last["to"] == "server":
            server.receive(last["from"], bytes.fromhex(last["receives"]))
        else:
            clients[client_of(last)].receive(bytes.fromhex(last["receives"]), survivors)
    assert taken(server) == before
    if last["to"] != "server":
        right, client = bytes.fromhex(opening["sends"]["1"]), clients[client_of(last)]
        if error["check"] == "N1":  # nothing has changed
            assert client.receive(right, survivors)
        else:  # it has forgotten its seeds
            with refusal({"type": "StageError", "check": "N4"}):
                client.receive(right, survivors)


def client_of(step: dict[str, Any]) -> int:
    return int(step["to"].removeprefix("client "))


def taken(server: SurplusNoise) -> dict[str, list[str]]:
    """The seeds that the server has, by client."""
    return {str(client_id): [seed.hex() for seed in seeds] for client_id, seeds in server._seeds.items()}


def test_vectors_follow_the_schema() -> None:
    """In one test: a test for each takes longer than to look at it."""
    errors_of = {path.name: [*vectors.validator().iter_errors(vectors.load(path))] for path in FILES}
    assert {name: found for name, found in errors_of.items() if found} == {}


def test_every_vector_is_replayed_by_one_test() -> None:
    assert sorted([*PARAMETERS, *ENCODE, *MEANS, *NOISE, *REJECT, *SURPLUS]) == FILES


@pytest.mark.parametrize("much_noise", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_reference_writes_the_files_byte_for_byte(much_noise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default run leaves out vectors of much noise: the reference takes seconds to draw them."""
    reference = vectors.reference("aggregation")
    cases = reference.noise_cases()
    much = {name for name, (_, _, variance, size, *_) in cases.items() if size > 64 or variance == 2.0**36}
    assert len(much) == 6
    left_out = set() if much_noise else much
    monkeypatch.setattr(reference, "noise_cases", lambda: {name: cases[name] for name in cases.keys() - left_out})
    written = {name: reference.dump(vector) for name, vector in reference.vectors().items()}
    assert written == {path.name: path.read_text() for path in FILES if path.stem not in left_out}
