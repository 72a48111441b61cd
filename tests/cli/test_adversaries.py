"""`secfed attack --adversary`: what each adversary gets, and options that do not fit it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from secfed.cli.leakage import analytic
from secfed.cli.leakage.reconstruction import picture, reconstruct
from secfed.cli.leakage.scenario import Settings, record_round
from secfed.errors import ConfigError
from tests.cli.runner import Runner

SHORT = ("--clients", 4)


@pytest.fixture
def attacked(secfed: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Any:
    monkeypatch.setattr(analytic, "NULL_RUNS", 2)

    def run(*options: object) -> dict[str, Any]:
        ended = secfed("attack", "analytic", "--json", "--output", tmp_path, *SHORT, *options)
        assert ended.exit_code == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    return run


def test_a_picture_without_messages_is_drawn(tmp_path: Path) -> None:
    settings = Settings(3, "secagg", adversary="clients")
    result = reconstruct(record_round(settings), "analytic", analytic.from_messages, lambda mean, clients: mean_of(), 2)
    picture(result, tmp_path / "picture.png")
    assert result.messages is None and (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def mean_of() -> npt.NDArray[np.float64]:
    return np.full((1, 64), 0.5)


def test_an_outsider_gets_what_the_server_gets(attacked: Any) -> None:
    server, outsider = (attacked("--aggregator", "secagg", "--adversary", who) for who in ("server", "outsider"))
    assert (server["adversary"], outsider["adversary"]) == ("server", "outsider")
    assert server["sum"] == outsider["sum"] and server["messages"]["identified"] <= 0.25


@pytest.mark.usefixtures("known_primes")
def test_the_key_holder_gets_the_sum_and_no_message(attacked: Any) -> None:
    found = attacked("--aggregator", "paillier", "--key-bits", 2048, "--adversary", "key-holder")
    assert found["messages"] is None and found["colluders"] is None
    assert found["sum"]["identified"] >= 0.5


def test_all_clients_but_one_rebuild_its_picture(attacked: Any) -> None:
    found = attacked("--aggregator", "secagg", "--adversary", "clients")
    assert found["messages"] is None and found["colluders"] == 3
    assert found["sum"]["psnr"] > 50 and found["sum"]["identified"] == 1
    assert found["released"]["psnr"] < 40


def test_clients_that_work_together_are_stopped_by_the_clients_noise(attacked: Any) -> None:
    options = ("--aggregator", "secagg", "--privacy", "distributed")
    found = attacked(*options, "--adversary", "server-and-clients", "--colluders", 2)
    assert found["messages"]["psnr"] < 15 and found["sum"]["psnr"] < 15 and found["colluders"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--colluders", 2), "--colluders has no effect with --adversary server"),
        (("--aggregator", "secagg", "--adversary", "key-holder"), "needs --aggregator paillier"),
        (("--adversary", "clients", "--colluders", 4), "needed 1 to 3"),
        (("--adversary", "nobody"), "nobody"),
    ],
)
def test_an_adversary_that_does_not_fit_is_refused(
    secfed: Runner, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    ended = secfed("attack", "analytic", "--output", tmp_path, *SHORT, *options)
    assert ended.exit_code and message in " ".join(ended.stderr.split())
    assert not list(tmp_path.iterdir())


def test_settings_refuse_a_key_holder_where_there_is_no_key() -> None:
    with pytest.raises(ConfigError, match="secagg has no key holder"):
        Settings(aggregator="secagg", adversary="key-holder")
