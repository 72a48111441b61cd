"""The command `preflight`: a table or one JSON object, and an exit code that says whether the plan holds."""

import inspect
import json
from dataclasses import fields
from typing import Any

import pytest

from secfed import dp
from secfed.cli.preflight import _PLAN_NAMES, in_bytes, preflight
from secfed.dp.rounding import up
from secfed.preflight import Plan
from tests.cli.runner import Runner

PLAN = ("preflight", "--values", 100, "--clients", 12, "--no-measure")
KEYS = {
    "schema",
    "accepted", "problems", "suggestions", "round_failure", "failure", "noise_multiplier", "epsilon", "delta", "stages",
    "bytes_up", "bytes_down", "seconds", "seconds_once",
    "server_bytes", "server_seconds", "key_holder_bytes", "measured",
}  # fmt: skip


def report(text: str) -> dict[str, Any]:
    assert text.count("\n") == 1
    found = json.loads(text)
    assert isinstance(found, dict) and set(found) == KEYS
    return found


def test_a_plan_that_holds_ends_with_0_and_shows_what_a_round_costs(secfed: Runner) -> None:
    run = secfed(*PLAN, "--dropout", 0.01)
    assert run.exit_code == 0
    assert "the plan holds" in run.stdout and "MASKED_INPUT_COLLECTION" in run.stdout


def test_a_plan_that_is_refused_ends_with_1_and_lists_all_problems(secfed: Runner) -> None:
    run = secfed(*PLAN, "--threshold", 6, "--bits", 99, "--key-bits", 2048, "--json")
    assert run.exit_code == 1
    found = report(run.stdout)
    assert not found["accepted"] and found["stages"] == {} and found["bytes_up"] is None
    assert [problem["text"] for problem in found["problems"]] == [
        "key_bits 2048 has no effect with aggregator secagg: leave it out",
        "threshold 6 must be more than half of 12 clients",
        "bits 99 must be from 2 to 32",
    ]


def test_json_has_the_same_keys_for_a_plan_that_holds(secfed: Runner) -> None:
    run = secfed(*PLAN, "--json")
    found = report(run.stdout)
    assert run.exit_code == 0 and found["accepted"] and found["problems"] == []
    assert found["bytes_up"] == sum(stage["bytes_up"] for stage in found["stages"].values())
    assert "the plan holds" in run.stderr


def test_every_option_of_the_command_is_one_of_the_plan() -> None:
    given = set(inspect.signature(preflight).parameters) - {"context", "measure", "as_json"}
    known = {option.name for option in fields(Plan)}
    assert {_PLAN_NAMES.get(name, name) for name in given} == known


def test_what_would_work_is_said_as_options_that_do_work(secfed: Runner) -> None:
    plan = ("preflight", "--values", 100, "--clients", 10, "--dropout", 0.1, "--rounds", 10, "--no-measure")
    run = secfed(*plan, "--key-bits", 2048)
    assert run.exit_code == 1
    [line] = [line for line in run.stdout.splitlines() if line.startswith("would work: ")]
    assert line == "would work: without --key-bits, --clients 30"
    assert secfed(*plan, "--clients", 30).exit_code == 0


def test_a_private_plan_says_its_noise_and_what_it_spends(secfed: Runner) -> None:
    plan = ("--privacy", "distributed", "--epsilon", 3, "--rounds", 5, "--no-measure")
    run = secfed("preflight", "--values", 50, "--clients", 20, *plan)
    assert run.exit_code == 0
    noise = dp.noise_multiplier(epsilon=3.0, delta=1e-5, rounds=5)
    assert f"noise multiplier: {up(noise, 6)}" in run.stdout
    assert "epsilon of 5 rounds: 3 at delta 1e-05" in run.stdout


@pytest.mark.parametrize("number", range(4))
def test_examples_of_the_help_text_hold(secfed: Runner, number: int) -> None:
    text = " ".join((preflight.__doc__ or "").partition("Examples:")[2].split())
    commands = ["preflight" + rest for rest in text.split("secfed preflight")[1:]]
    assert len(commands) == 4
    run = secfed(*commands[number].split(), "--no-measure")
    assert run.exit_code == 0, run.stdout


def test_seconds_are_in_the_table_and_say_what_they_were_measured_on(secfed: Runner) -> None:
    run = secfed("preflight", "--values", 100, "--clients", 5)
    assert run.exit_code == 0
    assert "processor time of one thread, measured here on 101 values" in run.stdout
    assert "the server computes for about " in run.stdout


def test_a_text_that_is_no_number_is_wrong_use(secfed: Runner) -> None:
    assert secfed(*PLAN, "--threshold", "most").exit_code == 2
    assert secfed("preflight", "--clients", 5).exit_code == 2


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (999.6, "1 kB"), (12_345, "12.3 kB")])
def test_bytes_have_three_digits_and_a_unit(count: float, text: str) -> None:
    assert in_bytes(count) == text
