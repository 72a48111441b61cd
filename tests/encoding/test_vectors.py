"""The published vectors of the encoding, replayed through secfed."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from secfed import errors
from secfed.encoding.fixed_point import FixedPoint
from tests import vectors

FILES = vectors.files("encoding")


def run(vector: dict[str, Any]) -> dict[str, Any]:
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vector_replays_exactly(path: Path) -> None:
    vector = vectors.load(path)
    if "error" in vector:
        with pytest.raises(getattr(errors, vector["error"]["type"])):
            run(vector)
    else:
        assert run(vector) == vector["result"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_vector_follows_the_schema(path: Path) -> None:
    schema = json.loads((vectors.PROTOCOLS / "vector.schema.json").read_text())
    jsonschema.validate(vectors.load(path), schema)


def test_reference_writes_the_files_byte_for_byte() -> None:
    reference = vectors.reference("encoding")
    written = {name: reference.dump(vector) for name, vector in reference.vectors().items()}
    assert written == {path.name: path.read_text() for path in FILES}
