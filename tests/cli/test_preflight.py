"""The command `preflight`: a table or one JSON object, and an exit code that says whether the plan holds."""

import json
from typing import Any

from tests.cli.runner import Runner

PLAN = ("preflight", "--values", 100, "--clients", 12, "--no-measure")
KEYS = {
    "accepted", "problems", "suggestions", "round_failure", "failure", "noise_multiplier", "epsilon", "delta", "stages",
    "bytes_up", "bytes_down", "seconds", "seconds_once", "server_bytes", "key_holder_bytes", "measured",
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
