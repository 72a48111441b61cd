"""The script that compares two versions of the accountant sees what is different."""

import math
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare_accountants import answered, differences, queries

ROOT = Path(__file__).parents[2]


def answer(*bounds: tuple[float, float], seconds: float = 0.1) -> dict[str, Any]:
    return {"bounds": list(bounds), "seconds": seconds}


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (answer((1.0, 1.001)), answer((1.0, 1.001)), []),
        (answer((1.0, 1.001)), answer((1.0005, 1.002)), []),
        (answer((1.0, 1.001)), answer((1.002, 1.003)), ["contradiction"]),
        (answer((1.002, 1.003)), answer((1.0, 1.001)), ["contradiction"]),
        (answer((1.0, 1.001)), answer((0.9, 1.001)), ["wider"]),
        (answer((1.0, math.inf)), answer((0.9, math.inf)), []),
        (answer((-math.inf, 1.0), (-math.inf, 2.0)), answer((-math.inf, 1.0), (-math.inf, 2.1)), ["larger"]),
        (answer((1.0, 1.0)), answer((1.0, 1.0), seconds=0.7), ["slower"]),
        (answer((1.0, 1.0)), {"failure": "ValueError()", "seconds": 0.1}, ["fails"]),
        ({"failure": "ValueError()", "seconds": 0.1}, answer((1.0, 1.0)), ["answers now"]),
    ],
)
def test_each_difference_has_a_name(before: dict[str, Any], after: dict[str, Any], found: list[str]) -> None:
    assert list(differences(before, after)) == found


def test_queries_are_the_same_for_a_seed_and_have_answers() -> None:
    drawn = list(islice(queries(3), 8))
    assert drawn == list(islice(queries(3), 8)) != list(islice(queries(4), 8))
    for query in drawn:
        bounds = answered(query)
        assert len(bounds) == (query["rounds"] if query["ask"] == "curve" else 1)
        assert all(low <= high for low, high in bounds)


@pytest.mark.slow
def test_a_version_agrees_with_itself() -> None:
    command = [sys.executable, "-m", "benchmarks.compare_accountants", str(ROOT), str(ROOT), "--seconds", "5"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "'queries'" in run.stdout and "contradiction" not in run.stdout
