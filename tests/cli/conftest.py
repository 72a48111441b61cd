"""Fixtures of the command line's tests."""

import pytest

from tests.cli.runner import Runner


@pytest.fixture
def secfed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Run the command line: `secfed("simulate", "--rounds", 2)`."""
    monkeypatch.setenv("COLUMNS", "200")  # errors come in a box: no line of them is broken
    return Runner(monkeypatch, capsys)
