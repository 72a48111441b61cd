"""The published schemas, and that each command prints the same keys in every mode; `runner` checks all other runs."""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from secfed.cli.json_output import SchemaName
from tests.cli.runner import Runner, follows_schema, schema_of
from tests.cli.test_help import COMMANDS

pytestmark = pytest.mark.usefixtures("brief_training", "undrawn")

SIMULATE = ("simulate", "--rounds", 1, "--clients", 8, "--dropout", 0)
SIMULATIONS: tuple[tuple[object, ...], ...] = (
    SIMULATE,
    (*SIMULATE, "--aggregator", "plain"),
    (*SIMULATE, "--aggregator", "paillier", "--key-bits", 2048, "--clients", 3),
    (*SIMULATE, "--privacy", "central"),
    (*SIMULATE, "--privacy", "distributed", "--clip-norm", 0.5),
    (*SIMULATE, "--adversary", "malicious_server", "--compression", "random-k:0.5", "--bits", 8),
    (*SIMULATE, "--algorithm", "fedbuff", "--buffer-size", 4, "--speed-spread", 1),
    (*SIMULATE, "--dropout", 1),  # no round gives a mean
)
PLAN = ("preflight", "--values", 100, "--clients", 10)
PLANS: tuple[tuple[object, ...], ...] = (
    PLAN,
    (*PLAN, "--no-measure"),
    (*PLAN, "--threshold", 99),
    (*PLAN, "--privacy", "central", "--epsilon", 3),
    (*PLAN, "--aggregator", "paillier", "--no-measure"),
)
RELEASE = ("--noise-multiplier", 2.0)
FIXED = ("--sampling", "fixed", "--cohort", 3, "--population", 10)
BUDGETS: tuple[tuple[object, ...], ...] = (
    ("epsilon", *RELEASE, "--delta", 1e-5),
    ("epsilon", *RELEASE, "--delta", 1e-5, *FIXED, "--plot", "epsilon.png"),
    ("epsilon", "--noise-multiplier", 1e-4, "--delta", 1e-300),
    ("noise", "--epsilon", 3, "--delta", 1e-5),
    ("noise", "--epsilon", 3, "--delta", 1e-5, *FIXED, "--adjacency", "replace"),
)


def with_properties(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema["properties"], dict):
            yield schema
        for inner in schema.values():
            yield from with_properties(inner)
    if isinstance(schema, list):
        for inner in schema:
            yield from with_properties(inner)


def test_each_command_with_json_has_a_schema_and_no_other_has() -> None:
    with_json = {
        "-".join(path)
        for path, command in COMMANDS.items()
        if any("--json" in parameter.opts for parameter in command.params)
    }
    published = {file.name.removesuffix(".json") for file in (files("secfed.cli") / "schemas").iterdir()}
    assert with_json == published == set(SchemaName)


@pytest.mark.parametrize("name", SchemaName)
def test_a_schema_requires_all_keys_and_allows_no_others(secfed: Runner, name: str) -> None:
    run = secfed("schema", name)
    assert run.exit_code == 0
    schema = json.loads(run.stdout)
    assert schema == schema_of(name).schema and schema["properties"]["schema"]["const"] == 1
    objects = list(with_properties(schema))
    assert objects[0] is schema
    for found in objects:
        assert found["additionalProperties"] is False and found["required"] == list(found["properties"])


@pytest.mark.usefixtures("known_primes")
@pytest.mark.parametrize("modes", [SIMULATIONS, PLANS, BUDGETS[:3], BUDGETS[3:]], ids=lambda modes: modes[0][0])
def test_a_command_prints_the_same_keys_in_every_mode(
    secfed: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modes: tuple[tuple[object, ...], ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = []
    for arguments in modes:
        run = secfed(*arguments, "--json")
        assert run.stdout, run.stderr
        found = follows_schema(arguments, run.stdout)
        keys.append((list(found), [list(each) for each in found["rounds"]] if arguments[0] == "simulate" else []))
    assert all(found == keys[0] for found in keys)


@pytest.mark.parametrize(
    "arguments",
    [
        ("analytic", "--clients", 2),
        ("analytic", "--clients", 2, "--aggregator", "secagg", "--privacy", "central"),
        ("analytic", "--clients", 3, "--adversary", "clients", "--aggregator", "secagg", "--colluders", 2),
        ("membership", "--quick", "--clients", 10),
        ("masks", "--clients", 3, "--seed-bits", 8),
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_attack_prints_the_keys_of_all_attacks(
    secfed: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = secfed("attack", *arguments, "--json")
    assert run.exit_code == 0, run.stderr
    found = follows_schema(("attack",), run.stdout)
    assert set(found) == set(schema_of("attack").schema["required"]) and found["attack"] == arguments[0]
