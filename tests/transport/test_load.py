"""The load test, small: a real server, clients that vanish, dawdle and repeat themselves, strangers, and a kill."""

from pathlib import Path

import pytest

from benchmarks.transport_load import GONE, Load, run


@pytest.mark.slow
def test_thirty_clients_of_which_some_misbehave_and_a_server_killed_once(tmp_path: Path) -> None:
    load = Load(clients=30, entries=100, processes=1, seconds=4.0, linger=1.0, kill=True, seed=2)
    outcome = run(load, tmp_path)
    assert outcome.problems == []
    gone = sum(outcome.behavior.get(how, 0) for how in GONE)
    assert gone == 6 and 24 <= outcome.acknowledged <= outcome.survivors <= 30
    assert len(outcome.stages) >= 4 and outcome.killed


@pytest.mark.slow
@pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])
@pytest.mark.parametrize("kill", [False, True])
def test_two_hundred_clients_of_which_some_misbehave(adversary: str, kill: bool, tmp_path: Path) -> None:
    load = Load(clients=200, entries=2000, processes=2, adversary=adversary, seconds=20.0, kill=kill, seed=3 + kill)
    outcome = run(load, tmp_path)
    assert outcome.problems == []
    assert 160 <= outcome.acknowledged <= outcome.survivors <= 200
    assert outcome.peak < outcome.start + 60
