"""Preflight: a plan that passes runs, one that is refused would fail, and the bytes are those of a real session."""

from typing import Any

import numpy as np
import pytest

import secfed
from secfed.aggregation import Plan, preflight

GRAPH = ("threshold", "neighbors", "adversary", "colluders", "session_colluders", "bits", "max_weight")


def session(options: dict[str, Any]) -> secfed.aggregation.Aggregate:
    """Really run one round of a plan of secure aggregation without privacy."""
    given = {name: options[name] for name in GRAPH if name in options}
    updates = [np.zeros(options["update"], np.float32)] * options["clients"]
    return secfed.SecAgg(**given).aggregate(updates)


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 2},
        {"clients": 9, "bits": 20, "max_weight": 300},
        {"clients": 9, "adversary": "malicious_server"},
        {"clients": 21, "neighbors": 6, "threshold": 4},
        {"clients": 21, "neighbors": 8, "threshold": 7, "colluders": 2, "adversary": "malicious_server"},
        {
            "clients": 21, "neighbors": 8, "threshold": 7, "colluders": 1, "adversary": "malicious_server",
            "session_colluders": 2,
        },
    ],
    ids=["two", "weighted", "malicious", "regular", "regular malicious", "indivisible"],
)  # fmt: skip
def test_bytes_are_those_of_a_real_session(options: dict[str, Any]) -> None:
    report = preflight(update=33, measure=False, **options)
    assert report.problems == () and report.costs is not None
    result = session({"update": 33, **options})
    assert set(result.bytes_up.values()) == {report.costs.bytes_up}
    assert set(result.bytes_down.values()) == {report.costs.bytes_down}


@pytest.mark.parametrize("aggregator", ["secagg", "paillier", "plain"])
@pytest.mark.parametrize("privacy", ["none", "central", "distributed"])
@pytest.mark.usefixtures("known_primes")
def test_bytes_of_every_aggregator_and_privacy_are_those_of_a_real_round(aggregator: str, privacy: str) -> None:
    if (aggregator, privacy) == ("plain", "distributed"):
        return  # there is no such round: see the test of what is refused
    options: dict[str, Any] = {"update": 40, "clients": 6, "aggregator": aggregator, "privacy": privacy}
    if privacy != "none":
        options |= {"noise_multiplier": 1.5, "clip_norm": 2.0}
    if privacy == "distributed":
        options |= {"minimum_survivors": 4, "layers": 3}
    plan = Plan(**options)
    report = preflight(plan, measure=False)
    assert report.problems == () and report.costs is not None
    made = plan.make_aggregator()
    if aggregator == "paillier":  # a key that is found at once, of the size that the plan has by default
        made = secfed.Paillier(private_key=secfed.paillier.generate_keypair(3072)[1], noise="short")
    updates = [np.zeros(40, np.float32)] * 6
    result = made.aggregate(updates, privacy=plan.make_privacy(1.5), record=True)
    assert set(result.bytes_up.values()) == {report.costs.bytes_up}
    assert set(result.bytes_down.values()) == {report.costs.bytes_down}
    assert result.transcript is not None
    recorded = sum(len(message.data) for message in result.transcript.entries)
    if aggregator != "plain":
        assert report.costs.server_bytes == recorded
