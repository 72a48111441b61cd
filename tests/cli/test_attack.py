"""`secfed attack`: quality where nothing protects, chance where something does, one JSON object, a picture."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import Runner


def attacked(secfed: Runner, tmp_path: Path, *options: object) -> dict[str, Any]:
    run = secfed("attack", "analytic", "--json", "--output", tmp_path, *options)
    assert run.exit_code == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    assert [Path(file).read_bytes()[:4] for file in found["files"]] == [b"\x89PNG"]
    return found


def at_chance(score: dict[str, Any]) -> bool:
    return bool(score["psnr"] < score["null"]["psnr"]["upper"] + 1 and score["identified"] <= 0.25)


def test_without_protection_every_picture_is_rebuilt_exactly(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path)
    assert found["messages"]["psnr"] > 150 and found["messages"]["identified"] == 1
    assert found["baseline"]["psnr"] < 15 and found["messages"]["null"]["psnr"]["upper"] < 15
    assert found["epsilon"] is found["delta"] is None


@pytest.mark.parametrize("protection", [("secagg",), ("paillier", "--key-bits", 2048)], ids=lambda rest: rest[0])
def test_a_protection_of_the_sum_hides_messages_and_not_the_sum(
    secfed: Runner, tmp_path: Path, protection: tuple[object, ...]
) -> None:
    found = attacked(secfed, tmp_path, "--aggregator", *protection)
    assert at_chance(found["messages"])
    assert found["sum"]["psnr"] > 30 and found["sum"]["identified"] >= 0.25  # units that one client alone turned on


def test_the_clients_noise_leaves_chance_in_the_sum_too(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path, "--aggregator", "secagg", "--privacy", "distributed")
    assert at_chance(found["messages"]) and at_chance(found["sum"]) and at_chance(found["released"])
    assert (found["epsilon"], found["delta"]) == (3.0, 1e-5)


def test_the_servers_noise_protects_what_is_released_and_not_what_it_saw(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path, "--privacy", "central")
    assert found["messages"]["identified"] == 1
    assert at_chance(found["released"])


def test_a_large_cohort_is_a_mixture(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path, "--aggregator", "secagg", "--clients", 50)
    assert found["sum"]["identified"] <= 0.1


def test_the_same_seed_gives_the_same_figures(secfed: Runner, tmp_path: Path) -> None:
    assert attacked(secfed, tmp_path, "--seed", 5) == attacked(secfed, tmp_path, "--seed", 5)
    assert attacked(secfed, tmp_path, "--seed", 5) != attacked(secfed, tmp_path, "--seed", 6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--epsilon", "1"), "--epsilon has no effect with --privacy none"),
        (("--key-bits", "2048"), "--key-bits has no effect with --aggregator plain"),
        (("--aggregator", "secagg", "--key-bits", "2048"), "--key-bits has no effect with --aggregator secagg"),
        (("--privacy", "distributed"), "--privacy distributed needs --aggregator secagg or paillier"),
        (("--clients", "1"), "--clients"),
        (("--clients", "101"), "--clients"),
        (("--epsilon", "nan", "--privacy", "central"), "must be positive and finite"),
    ],
)
def test_wrong_use_ends_with_exit_code_2_and_says_why(
    secfed: Runner, tmp_path: Path, options: tuple[str, ...], text: str
) -> None:
    run = secfed("attack", "analytic", "--json", "--output", tmp_path / "new", *options)
    assert run.exit_code == 2 and run.stdout == ""
    assert text in " ".join(run.stderr.split())
    assert not (tmp_path / "new").exists()


def test_an_unknown_attack_names_those_that_exist(secfed: Runner) -> None:
    run = secfed("attack", "guessing")
    assert run.exit_code == 2 and "'analytic'" in run.stderr
