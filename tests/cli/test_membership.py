"""Membership inference against a published model: found in the clear and under secure aggregation, not under noise."""

import json
from typing import Any

import numpy as np
import pytest

from secfed.attacks.membership import MembershipResult
from secfed.cli.leakage.membership import QUICK, MembershipLeakage, Settings, attack
from secfed.errors import ConfigError

# What has no leak is beyond the limits this often, for each figure.
FAILURE = 1e-6


def quick(**options: Any) -> MembershipLeakage:
    return attack(Settings(**QUICK | {"clients": 5} | options))


def at_chance(found: MembershipResult) -> bool:
    low, high = found.chance_auc(1 - FAILURE)
    return low < found.auc < high and found.tpr_at(0.01) <= found.chance_tpr(0.01, 1 - FAILURE)[1]


@pytest.fixture(scope="module")
def plain() -> MembershipLeakage:
    return quick()


def test_a_published_model_tells_its_members_and_one_that_saw_none_does_not(plain: MembershipLeakage) -> None:
    assert plain.leaks and plain.lira.auc > 0.65
    assert plain.lira.auc > plain.loss.auc
    assert plain.accuracy_in > plain.accuracy_out + 0.1 and plain.accuracy_out > 0.6
    assert at_chance(plain.null)
    assert plain.epsilon is None


def test_secure_aggregation_does_not_change_what_the_model_tells(plain: MembershipLeakage) -> None:
    found = quick(aggregator="secagg")
    assert found.lira.auc == pytest.approx(plain.lira.auc, abs=0.01)  # fixed-point rounding
    assert found.loss.auc == pytest.approx(plain.loss.auc, abs=0.01)
    assert found.leaks


@pytest.mark.parametrize(
    ("aggregator", "privacy"),
    [("plain", "central"), pytest.param("secagg", "distributed", marks=pytest.mark.slow)],
)
def test_noise_leaves_the_attack_at_chance(aggregator: Any, privacy: Any) -> None:
    found = quick(aggregator=aggregator, privacy=privacy, epsilon=1.0)
    assert at_chance(found.lira) and at_chance(found.loss) and at_chance(found.null)
    assert found.epsilon == pytest.approx(1.0, abs=1e-3)


def test_the_result_is_one_object_and_a_few_lines(plain: MembershipLeakage) -> None:
    found = json.loads(json.dumps(plain.to_json()))
    assert found["attack"] == "membership" and found["leaks"] is True
    assert found["epsilon"] is found["delta"] is None
    for name in ("loss", "lira", "null"):
        assert 0 <= found[name]["auc"] <= 1 and set(found[name]["tpr"]) == {"0.01", "0.001"}
    assert set(found["chance"]) == {"confidence", "auc", "tpr"}
    lines = plain.summary()
    assert len(lines) == 6 and f"AUC {plain.lira.auc:.3f}" in lines[3]


def test_the_same_seed_gives_the_same_figures_and_another_one_others() -> None:
    small = {"records": 40, "rounds": 2, "shadows": 4, "clients": 2}
    first, again, other = (quick(**small, seed=seed).to_json() for seed in (1, 1, 2))
    assert first == again and first["lira"] != other["lira"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"records": 3}, "3 records"),
        ({"records": 951}, "951 records"),
        ({"clients": 0}, "0 clients: needed 1 to 200"),
        ({"clients": 1, "aggregator": "secagg"}, "1 clients: needed 2 to 200"),
        ({"clients": 201}, "201 clients"),
        ({"rounds": 0}, "0 rounds"),
        ({"shadows": 3}, "3 shadows"),
        ({"privacy": "distributed"}, "needs --aggregator secagg"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Settings(**options)


def test_the_largest_run_has_enough_records() -> None:
    result = attack(Settings(records=950, rounds=1, shadows=4, clients=2))
    assert (result.lira.members, result.lira.others) == (475, 475)


@pytest.mark.slow
def test_the_whole_run_finds_members_well_above_chance_at_low_false_alarms() -> None:
    found = [attack(Settings(seed=seed)) for seed in range(3)]
    assert all(one.leaks and one.lira.auc > one.loss.auc + 0.05 and at_chance(one.null) for one in found)
    assert np.mean([one.lira.tpr_at(0.01) for one in found]) > found[0].lira.chance_tpr(0.01)[1]
