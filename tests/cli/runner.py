"""Runs the command line in this process, as the entry point does."""

import sys
from dataclasses import dataclass

import pytest

from secfed.cli.__main__ import main


@dataclass(frozen=True)
class Run:
    """What came of a command."""

    exit_code: int
    stdout: str
    stderr: str


class Runner:
    """Calls `main` with arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> Run:
        self._monkeypatch.setattr(sys, "argv", ["secfed", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        found = self._capsys.readouterr()
        return Run(int(ended.value.code or 0), found.out, found.err)
