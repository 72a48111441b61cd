"""Preflight: a plan that passes runs, one that is refused would fail, and the bytes are those of a real session."""

from typing import Any

import numpy as np
import pytest

import secfed
from secfed.aggregation import preflight

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
