"""What pyproject.toml declares, and what other files repeat of it."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extras>[\w,]+)\])?(?P<bounds>.*)")


def bounds(requirements: list[str]) -> dict[str, str]:
    """Return what is required of each package, those of the extras of secfed among them."""
    found: dict[str, str] = {}
    for requirement in requirements:
        parts = REQUIREMENT.fullmatch(requirement)
        assert parts, requirement
        if parts["name"] == "secfed":
            for extra in parts["extras"].split(","):
                found |= bounds(EXTRAS[extra])
        else:
            found[parts["name"]] = parts["bounds"]
    return found


def release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version without zeros at the end: 1.26.0 is 1.26."""
    numbers = [int(number) for number in version.split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def test_a_requirement_is_a_lower_bound_and_no_more() -> None:
    """An upper cap would keep secfed from being installed with a framework that needs a newer release."""
    everything = bounds([*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)])
    assert {name: bound for name, bound in everything.items() if not re.fullmatch(r">=[\d.]+", bound)} == {}


def test_the_oldest_releases_that_are_tested_are_the_oldest_that_are_allowed() -> None:
    declared = bounds([*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["torch"]])
    lines = (ROOT / ".ci" / "oldest.txt").read_text().partition("# Not declared.")
    tested, others = (re.findall(r"^([\w-]+)==(\S+)$", part, re.MULTILINE) for part in (lines[0], lines[2]))
    assert {name: release(version) for name, version in tested} == {
        name: release(bound.removeprefix(">=")) for name, bound in declared.items()
    }
    assert tested == sorted(tested)
    assert not {name for name, _ in others} & set(declared)


def test_the_license_of_each_declared_dependency_is_listed() -> None:
    """To write the page anew, run `python .ci/licenses.py` where all extras are installed."""
    extras = ("cli", "paillier", "data", "phe", "torch", "flower", "nvflare", "transport")
    assert set(extras) | {"test", "engines", "docs"} == set(EXTRAS)  # the last three are for work on secfed itself
    declared = bounds([*PROJECT["dependencies"], *(each for extra in extras for each in EXTRAS[extra])])
    page = (ROOT / "docs" / "licenses.md").read_text()
    rows = dict(re.findall(r"^\| ([\w-]+) \| [\w.]+ \| (.+) \| \w+ \|$", page, re.MULTILINE))
    assert set(declared) - set(rows) == set()
    assert "not in its metadata" not in rows.values()
