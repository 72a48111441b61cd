"""`secfed attack`: quality where nothing protects, chance where something does, one JSON object, a picture."""

import json
from pathlib import Path
from typing import Any

import pytest

from secfed.cli.leakage import analytic, exact, inversion
from secfed.cli.leakage.scenario import Settings, record_round
from secfed.errors import ConfigError
from tests.cli.runner import Runner

UNDRAWN = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _fewer_runs_on_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "NULL_RUNS", 15)
    monkeypatch.setattr(inversion, "NULL_RUNS", 1)
    monkeypatch.setattr(exact, "NULL_RUNS", 2)


def attacked(secfed: Runner, tmp_path: Path, *options: object, name: str = "analytic") -> dict[str, Any]:
    run = secfed("attack", name, "--json", "--output", tmp_path, *options)
    assert run.exit_code == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    score = found["released"]
    assert f"PSNR {score['psnr']:.1f} dB, SSIM {score['ssim']:z.2f}, " in run.stderr
    assert [Path(file).name for file in found["files"]] == [f"{name}.png"] and Path(*found["files"]).exists()
    return found


def at_chance(score: dict[str, Any]) -> bool:
    # Guesses among 100 are right by luck, and masks are new in each run: one right of 3 clients, or 2 of 8, is chance.
    return bool(score["psnr"] < score["null"]["psnr"]["upper"] + 1 and score["identified"] <= 0.34)


def test_without_protection_every_picture_is_rebuilt_exactly(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path)
    assert found["messages"]["psnr"] > 150 and found["messages"]["identified"] == 1
    assert found["baseline"]["psnr"] < 15 and found["messages"]["null"]["psnr"]["upper"] < 15
    assert found["messages"]["ssim"] > 0.999 and found["messages"]["null"]["ssim"]["upper"] < 0.1
    assert 0.3 < found["baseline"]["ssim"] < 0.8 and found["messages"]["ssim"] > found["sum"]["ssim"]
    assert found["epsilon"] is found["delta"] is None
    data = Path(*found["files"]).read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) > 10_000


@UNDRAWN
@pytest.mark.usefixtures("known_primes")
@pytest.mark.parametrize(
    "protection",
    [("secagg",), pytest.param(("paillier", "--key-bits", 2048), marks=pytest.mark.slow)],
    ids=lambda rest: rest[0],
)
def test_a_protection_of_the_sum_hides_messages_and_not_the_sum(
    secfed: Runner, tmp_path: Path, protection: tuple[object, ...]
) -> None:
    found = attacked(secfed, tmp_path, "--aggregator", *protection)
    assert at_chance(found["messages"])
    assert found["messages"]["ssim"] < 0.1 < found["baseline"]["ssim"] < found["sum"]["ssim"]
    assert found["sum"]["psnr"] > 30 and found["sum"]["identified"] >= 0.25  # units that one client alone turned on


@UNDRAWN
def test_the_clients_noise_leaves_chance_in_the_sum_too(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path, "--aggregator", "secagg", "--privacy", "distributed")
    assert at_chance(found["messages"]) and at_chance(found["sum"]) and at_chance(found["released"])
    assert (found["epsilon"], found["delta"]) == (3.0, 1e-5)


@UNDRAWN
def test_the_servers_noise_protects_what_is_released_and_not_what_it_saw(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path, "--privacy", "central")
    assert found["messages"]["identified"] == 1
    assert at_chance(found["released"])


def inverted(secfed: Runner, tmp_path: Path, *options: object) -> dict[str, Any]:
    run = secfed("attack", "inversion", "--json", "--output", tmp_path, "--clients", 2, *options)
    assert run.exit_code == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    assert found["attack"] == "inversion" and [Path(file).name for file in found["files"]] == ["inversion.png"]
    return found


@UNDRAWN
def test_gradient_inversion_shows_faces_of_messages_in_the_clear_only(
    secfed: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inversion, "_MOST_MESSAGES", 1)  # each costs a search
    monkeypatch.setattr(inversion, "_STEPS", inversion.Steps(120, 100))
    plain = inverted(secfed, tmp_path)
    assert plain["messages"]["psnr"] > 22 and plain["messages"]["identified"] == 1
    secagg = inverted(secfed, tmp_path, "--aggregator", "secagg")
    assert secagg["messages"]["psnr"] < secagg["baseline"]["psnr"] and secagg["sum"]["psnr"] > 22


@pytest.mark.slow
def test_gradient_inversion_shows_no_face_under_the_clients_noise(secfed: Runner, tmp_path: Path) -> None:
    noise = inverted(secfed, tmp_path, "--aggregator", "secagg", "--privacy", "distributed")
    assert noise["sum"]["psnr"] < noise["baseline"]["psnr"]


def test_gradient_inversion_needs_a_face_for_each_client(secfed: Runner, tmp_path: Path) -> None:
    run = secfed("attack", "inversion", "--clients", 90, "--output", tmp_path)
    assert run.exit_code != 0 and "90 clients: faces has pictures for 80" in " ".join(run.stderr.split())


def test_the_exact_attack_rebuilds_every_picture_from_a_secure_sum(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path, "--aggregator", "secagg", "--clients", 3, name="exact")
    assert at_chance(found["messages"])
    assert found["attack"] == "exact" and found["sum"]["psnr"] > 50 and found["sum"]["identified"] == 1
    assert found["sum"]["null"]["identified"]["upper"] < 0.5


@pytest.mark.slow
def test_the_exact_attack_finds_nothing_under_the_clients_noise(secfed: Runner, tmp_path: Path) -> None:
    found = attacked(secfed, tmp_path, "--aggregator", "secagg", "--privacy", "distributed", name="exact")
    assert at_chance(found["messages"]) and at_chance(found["sum"]) and at_chance(found["released"])


@pytest.mark.slow  # 318,010 values are encrypted for each client
@pytest.mark.usefixtures("known_primes")
def test_the_exact_attack_rebuilds_every_picture_from_an_encrypted_sum(secfed: Runner, tmp_path: Path) -> None:
    settings = ("--aggregator", "paillier", "--clients", 2, "--key-bits", 2048)
    found = attacked(secfed, tmp_path, *settings, name="exact")
    assert found["sum"]["psnr"] > 50 and found["sum"]["identified"] == 1


def test_the_exact_attack_needs_a_round_of_its_own_network() -> None:
    with pytest.raises(ConfigError, match="round of digits: the exact attack needs"):
        exact.attack(record_round(Settings(clients=2)))


@UNDRAWN
def test_a_large_cohort_is_a_mixture(secfed: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "NULL_RUNS", 2)  # not looked at
    found = attacked(secfed, tmp_path, "--aggregator", "secagg", "--clients", 50)
    assert found["sum"]["identified"] <= 0.1


@UNDRAWN
def test_the_same_seed_gives_the_same_figures(secfed: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "NULL_RUNS", 10)
    first, again, other = (attacked(secfed, tmp_path, "--clients", 4, "--seed", seed) for seed in (5, 5, 6))
    assert first == again != other


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


@pytest.mark.parametrize("arguments", [(), ("analytic", "--all")])
def test_one_attack_or_all_of_them_must_be_named(secfed: Runner, arguments: tuple[str, ...]) -> None:
    run = secfed("attack", *arguments)
    assert run.exit_code == 2 and "needed the name of an attack" in " ".join(run.stderr.split())


def test_an_option_of_one_attack_has_no_effect_on_all(secfed: Runner) -> None:
    run = secfed("attack", "--all", "--clients", 5)
    assert run.exit_code == 2 and "--clients has no effect on the attack all" in run.stderr
