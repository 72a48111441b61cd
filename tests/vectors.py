"""Loads the vectors and the references of the specification wing."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema

PROTOCOLS = Path(__file__).parent.parent / "protocols"


def files(protocol: str) -> list[Path]:
    return sorted((PROTOCOLS / protocol / "vectors").glob("*.json"))


def load(path: Path) -> dict[str, Any]:
    vector: dict[str, Any] = json.loads(path.read_text())
    return vector


@cache
def validator() -> Any:
    """The schema of every vector, checked and prepared once: that takes longer than to look at a vector."""
    schema = json.loads((PROTOCOLS / "vector.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def reference(protocol: str) -> ModuleType:
    path = PROTOCOLS / protocol / "reference.py"
    spec = importlib.util.spec_from_file_location(f"reference_{protocol}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
