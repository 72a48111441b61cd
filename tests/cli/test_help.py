"""What `--help` of each command shows."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from secfed.cli.app import app
from tests.cli.runner import Runner

# Beyond, options are shown in panels of their own.
_FEW = 8


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)


COMMANDS = dict(commands(typer.main.get_command(app)))


def examples(path: tuple[str, ...]) -> list[list[str]]:
    text = COMMANDS[path].help.partition("Example")[2].partition(":")[2]
    return [shlex.split(paragraph) for paragraph in text.split("\n\n") if paragraph.strip()]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_ends_with_examples_of_the_command(path: tuple[str, ...]) -> None:
    found = examples(path)
    assert 1 <= len(found) <= 4
    for secfed, *words in found:
        called = path if tuple(words[: len(path)]) == path else None
        assert secfed == "secfed" and called
        called = next(tuple(words[:n]) for n in (2, 1) if tuple(words[:n]) in COMMANDS)
        options = {name for parameter in COMMANDS[called].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_panels_and_defaults_without_parentheses(secfed: Runner, path: tuple[str, ...]) -> None:
    run = secfed(*path, "--help")
    assert run.exit_code == 0 and "Example" in run.stdout
    assert "default: (" not in run.stdout and "default: None" not in run.stdout and "0.666" not in run.stdout
    assert "dim]" not in run.stdout and "\\[" not in run.stdout
    panels = re.findall(r"^╭─ (.+?) ─+╮$", run.stdout, re.MULTILINE)
    options = [parameter for parameter in COMMANDS[path].params if parameter.opts[0].startswith("-")]
    assert len(options) <= _FEW or len(panels) >= 3
    if "--threshold" in {name for parameter in options for name in parameter.opts} and path != ("join",):
        assert "[default: 2/3]" in " ".join(run.stdout.replace("│", " ").split())  # it may be on two lines


def test_examples_about_budgets_run(secfed: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (
        ("noise",),
        *(("budget", name) for name in ("limit", "spend", "reserve", "commit", "remaining", "show")),
    ):
        for _, *words in examples(path):
            assert secfed(*words).exit_code == 0, words


def test_a_wrong_choice_is_named_without_words_of_another_library(secfed: Runner) -> None:
    run = secfed("simulate", "--algorithm", "fedadm")
    assert run.exit_code == 2
    assert "Invalid value for '--algorithm': 'fedadm' is not one of 'fedavg'" in run.stderr


def test_a_threshold_that_was_raised_is_told_first(
    secfed: Runner, tmp_path: Path, brief_training: None, undrawn: None
) -> None:
    run = secfed("simulate", "--clients", 8, "--rounds", 1, "--threshold", 0.4, "--output", tmp_path)
    assert run.stderr.startswith("threshold: 5 of the 8 clients can unmask the sum\n")


def test_a_threshold_that_is_too_large_is_an_error_only(secfed: Runner, tmp_path: Path) -> None:
    run = secfed("simulate", "--clients", 8, "--rounds", 1, "--threshold", 9, "--output", tmp_path)
    assert run.exit_code == 2 and "can unmask" not in run.stderr
    assert "threshold 9 must be a whole number from 2 to 8" in run.stderr


def test_a_cohort_of_fixed_size_moves_the_sum_twice_as_far_and_it_is_said(secfed: Runner) -> None:
    rest = ("--delta", 1e-5, "--noise-multiplier", 2)
    words = "another client takes the place of an absent one, so the sum moves by up to twice clip_norm"
    fixed = secfed("epsilon", *rest, "--sampling", "fixed", "--cohort", 10, "--population", 100)
    assert words in fixed.stdout and words not in secfed("epsilon", *rest).stdout
