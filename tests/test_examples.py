"""The examples: each runs by itself, soon ends, and fits a screen."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
EVERY_EXAMPLE = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
MOST_LINES = 60
TIMEOUT_SECONDS = 60


def marked(path: Path, slow: bool) -> object:
    """An example as a parameter: one that imports a framework runs with the tests of the frameworks."""
    marks = [pytest.mark.integrations] if "secfed.integrations" in path.read_text() else []
    return pytest.param(path, marks=[*marks, *[pytest.mark.slow] * slow])


@pytest.mark.parametrize(
    "path",
    [marked(path, slow=path.stem == "threshold_decryption") for path in EXAMPLES],
    ids=lambda path: path.stem,
)
@pytest.mark.usefixtures("known_primes")
def test_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has loaded most of what an example loads."""
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example shows something"


@pytest.mark.parametrize(
    "path",
    [marked(path, slow=path.stem != "secure_average") for path in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_example_runs_in_a_python_of_its_own(path: Path, tmp_path: Path) -> None:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "an example shows something"


@EVERY_EXAMPLE
def test_example_fits_a_screen(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES
    assert lines[0].startswith('"""'), "an example says what it shows"
