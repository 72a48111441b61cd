"""What `--json` prints: one object for each command, with the keys of its published schema; and `secfed schema`."""

import json
import math
from collections.abc import Mapping
from enum import StrEnum
from importlib.resources import files
from typing import Annotated, Any

import typer

# Increase this when a key changes its meaning or is removed; the schemas have it as a constant.
_VERSION = 1


class SchemaName(StrEnum):
    """Commands with `--json`; each has a file in the folder `schemas`."""

    SIMULATE = "simulate"
    PREFLIGHT = "preflight"
    ATTACK = "attack"
    EPSILON = "epsilon"
    NOISE = "noise"
    BUDGET_LIMIT = "budget-limit"
    BUDGET_SPEND = "budget-spend"
    BUDGET_RESERVE = "budget-reserve"
    BUDGET_COMMIT = "budget-commit"
    BUDGET_CANCEL = "budget-cancel"
    BUDGET_SHOW = "budget-show"
    BUDGET_REMAINING = "budget-remaining"
    SERVE = "serve"
    JOIN = "join"


def schema(
    command: Annotated[
        SchemaName, typer.Argument(help="A command with --json; for those of budget such as budget-spend.")
    ],
) -> None:
    """Print the JSON Schema of what a command prints with --json.

    All keys are always there. One that has no value in the chosen mode is null.

    Example:

    secfed schema simulate
    """
    typer.echo(_text(command), nl=False)


def filled(command: SchemaName, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with all keys of a command. Missing values and infinite numbers are None."""
    keys: list[str] = json.loads(_text(command))["required"]
    values: dict[str, Any] = _finite(found)
    return dict.fromkeys(keys) | {"schema": _VERSION} | values


def print_json(command: SchemaName, found: Mapping[str, Any]) -> None:
    """Print what a command found as one line on stdout."""
    typer.echo(json.dumps(filled(command, found), allow_nan=False))


def _text(command: SchemaName) -> str:
    return (files("secfed.cli") / "schemas" / f"{command.value}.json").read_text(encoding="utf-8")


def _finite(value: Any) -> Any:
    """Return a value in which None replaces numbers that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
