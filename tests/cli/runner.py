"""Runs the command line in this process, as the entry point does; checks what `--json` prints."""

import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema
import pytest

from secfed.cli.__main__ import main


@dataclass(frozen=True)
class Run:
    """What came of a command."""

    exit_code: int
    stdout: str
    stderr: str


@cache
def schema_of(name: str) -> Any:
    """The published schema of a command, ready to check with."""
    schema = json.loads((files("secfed.cli") / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def follows_schema(arguments: tuple[object, ...], printed: str) -> Any:
    """Return the one object that a command printed, which has the keys and types of its schema."""
    name = f"budget-{arguments[1]}" if arguments[0] == "budget" else str(arguments[0])
    assert printed.count("\n") == 1
    found = json.loads(printed, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    schema_of(name).validate(found)
    return found


class Runner:
    """Calls `main` with arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Run:
        self._monkeypatch.setattr(sys, "argv", ["secfed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        found = self._capsys.readouterr()
        if "--json" in arguments and found.out:
            follows_schema(arguments, found.out)
        return Run(int(ended.value.code or 0), found.out, found.err)
