"""The published vectors of the encoding, replayed through secfed."""

import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from secfed import errors
from secfed.encoding import conditional_rounding
from secfed.encoding.conditional_rounding import Lattice
from secfed.encoding.fixed_point import FixedPoint
from secfed.encoding.rotation import Rotation
from tests import vectors

FILES = vectors.files("encoding")
ROTATIONS = [path for path in FILES if path.stem.startswith("rotate_") and "back" not in path.stem]
# Errors of rotating back, of the norm: the specification's section 7.
ROOM = {"float64": 2.0**-48, "float32": 2.0**-20}


def run(vector: dict[str, Any]) -> dict[str, Any]:
    config = vector["config"]
    return run_rotation(vector) if "size" in config else run_rounding(vector) if "step" in config else run_fixed(vector)


def run_rotation(vector: dict[str, Any]) -> dict[str, Any]:
    config, inputs = vector["config"], vector["inputs"]
    rotation = Rotation(config["size"], bytes.fromhex(inputs["seed"]))
    if "rotated" in inputs:
        values = rotation.rotate_back(np.array(inputs["rotated"], config["dtype"]))
        assert values.dtype == config["dtype"]
        return {"values": values.tolist()}
    rotated = rotation.rotate(np.array(inputs["values"], config["dtype"]))
    assert rotated.dtype == config["dtype"]
    return {"length": rotation.length, "spread": rotation.spread, "rotated": rotated.tolist()}


def run_rounding(vector: dict[str, Any]) -> dict[str, Any]:
    config, inputs = vector["config"], vector["inputs"]
    lattice = Lattice(float(config["step"]), float(config["clip_norm"]), config["dimension"])
    values = np.array([float(value) for value in inputs["values"]])
    once = conditional_rounding._rounded
    with mock.patch.object(conditional_rounding, "_rounded", side_effect=once) as tries:
        steps = lattice.round(values, seed=bytes.fromhex(inputs["seed"]))
    return {
        "largest_square": lattice.largest_square,
        "tries": tries.call_count,
        "steps": steps.tolist(),
        "decoded": lattice.decode(steps).tolist(),
        "context": lattice.context.decode(),
    }


def run_fixed(vector: dict[str, Any]) -> dict[str, Any]:
    config = {**vector["config"], "clip": float(vector["config"]["clip"])}
    fixed = FixedPoint(**config)
    inputs = vector["inputs"]
    single = "seed" in inputs
    encoded = []
    for entry in [inputs] if single else [inputs[name] for name in sorted(inputs, key=int)]:
        values = np.array([float(value) for value in entry["values"]])
        encoded.append(fixed.encode(values, entry["weight"], seed=bytes.fromhex(entry["seed"])))
    if single:
        context = fixed.context(len(encoded[0]) - 1).decode()
        return {"vector": encoded[0].tolist(), "modulus_bits": fixed.modulus_bits, "context": context}
    total = np.sum(encoded, axis=0, dtype=np.uint64) & np.uint64((1 << fixed.modulus_bits) - 1)
    mean, weight = fixed.decode(total)
    return {"sum": total.tolist(), "mean": mean.tolist(), "weight": weight}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vector_replays_exactly(path: Path) -> None:
    vector = vectors.load(path)
    if "error" in vector:
        with pytest.raises(getattr(errors, vector["error"]["type"])):
            run(vector)
    else:
        assert run(vector) == vector["result"]


@pytest.mark.parametrize("path", ROTATIONS, ids=lambda path: path.stem)
def test_rotated_vector_is_rotated_back(path: Path) -> None:
    vector = vectors.load(path)
    rotation = Rotation(vector["config"]["size"], bytes.fromhex(vector["inputs"]["seed"]))
    dtype = vector["config"]["dtype"]
    values = np.array(vector["inputs"]["values"])
    back = rotation.rotate_back(np.array(vector["result"]["rotated"], dtype))
    assert np.abs(back - values).max() <= ROOM[dtype] * math.hypot(*values)


def test_vectors_follow_the_schema() -> None:
    """In one test: a test for each takes longer than to look at it."""
    errors_of = {path.name: [*vectors.validator().iter_errors(vectors.load(path))] for path in FILES}
    assert {name: found for name, found in errors_of.items() if found} == {}


def test_reference_writes_the_files_byte_for_byte() -> None:
    reference = vectors.reference("encoding")
    written = {name: reference.dump(vector) for name, vector in reference.vectors().items()}
    assert written == {path.name: path.read_text() for path in FILES}
