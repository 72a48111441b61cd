"""Fixtures of the command line's tests."""

from pathlib import Path

import pytest

from secfed.cli.simulation import perceptron
from tests.cli.runner import Runner

WHOLE_TRAINING = perceptron.LOCAL_EPOCHS


@pytest.fixture
def brief_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients train for one epoch a round: most of a small run is their training, which few tests look at."""
    monkeypatch.setattr(perceptron, "LOCAL_EPOCHS", 1)


@pytest.fixture
def whole_training(brief_training: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients train as they do for users, in a file where they are brief otherwise."""
    monkeypatch.setattr(perceptron, "LOCAL_EPOCHS", WHOLE_TRAINING)


@pytest.fixture
def secfed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Run the command line: `secfed("simulate", "--rounds", 2)`."""
    monkeypatch.setenv("COLUMNS", "200")  # errors come in a box: no line of them is broken
    return Runner(monkeypatch, capsys)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pictures empty where a test does not look at them: drawing takes as long as a small run."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda self, file, **_: Path(file).touch())
