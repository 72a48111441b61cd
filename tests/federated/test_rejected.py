"""Clients whose result is invalid: they are named and count as dropouts, and the round continues."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secfed
from secfed import dp
from secfed.aggregation import CentralGaussian, DistributedGaussian
from secfed.errors import ConfigError, EncodingError
from secfed.secagg import Stage
from secfed.secagg.client import STEPS, Client

GOOD = np.array([0.25, 0.5, -0.25])
MODES: list[tuple[Any, Any]] = [
    (secfed.Plain(), None),
    (secfed.SecAgg(), None),
    (secfed.Plain(), CentralGaussian(1.0, 1.0)),
    (secfed.SecAgg(), CentralGaussian(1.0, 1.0)),
    (secfed.SecAgg(), DistributedGaussian(1.0, 1.0)),
]
BAD: dict[str, tuple[Any, str]] = {
    "nan": ((np.array([0.1, math.nan, 7.25]), 1), "not finite"),
    "infinite": ((np.array([0.1, math.inf, 7.25]), 1), "not finite"),
    "longer": ((np.full(4, 7.25), 1), "not shaped like the model"),
    "dictionary": (({"a": np.full(3, 7.25)}, 1), "not shaped like the model"),
    "text": (("7.25", 1), "does not consist of arrays"),
    "ragged": (([[7.25], [7.25, 7.25]], 1), "does not consist of arrays"),
    "no_examples": ((np.full(3, 7.25), 0), "has no examples"),
    "negative": ((np.full(3, 7.25), -7.25), "has no examples"),
    "no_weight": ((np.full(3, 7.25), None), "weight is not a finite number"),
    "infinite_weight": ((np.full(3, 7.25), math.inf), "weight is not a finite number"),
    "nothing": (None, "local_update returned NoneType"),
}


def training(aggregator: Any, privacy: Any, bad: Any, **options: Any) -> secfed.FedAvg:
    def local_update(model: np.ndarray, data: int) -> Any:
        return bad if data in (1, 4) else (GOOD, 3)

    return secfed.FedAvg(local_update, aggregator=aggregator, privacy=privacy, **options)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("aggregator", "privacy"), MODES)
@pytest.mark.parametrize("name", BAD)
def test_bad_clients_are_named_and_count_as_dropouts(aggregator: Any, privacy: Any, name: str) -> None:
    bad, reason = BAD[name]
    reports = list(training(aggregator, privacy, bad).rounds(np.zeros(3), list(range(1, 10)), count=2))
    for report in reports:
        assert report.failure == ""
        assert list(report.rejected) == [1, 4]
        assert all(reason in text and "7.25" not in text for text in report.rejected.values())
        assert report.cohort == tuple(range(1, 10)) and report.survivors == (2, 3, 5, 6, 7, 8, 9)
        assert report.aggregate is not None and report.aggregate.dropouts == (1, 4)
    if privacy is None:
        assert reports[0].model == pytest.approx(GOOD, abs=1e-3)
    if isinstance(privacy, DistributedGaussian):
        assert isinstance(reports[0].event, dp.DiscreteGaussianSum) and reports[0].event.clients == 7


def test_good_clients_are_not_named() -> None:
    [report] = training(secfed.Plain(), None, (GOOD, 1)).rounds(np.zeros(3), list(range(1, 5)), count=1)
    assert report.rejected == {}


def test_client_that_only_the_aggregator_refuses_is_rejected_too() -> None:
    aggregator = secfed.SecAgg(max_weight=5)
    [report] = training(aggregator, None, (GOOD, 725)).rounds(np.zeros(3), list(range(1, 10)), count=1)
    assert report.survivors == (2, 3, 5, 6, 7, 8, 9)
    assert report.rejected == dict.fromkeys((1, 4), "the weight must be from 1 to max_weight 5")


@pytest.mark.parametrize(("aggregator", "privacy"), MODES)
def test_update_of_another_float_dtype_than_the_model_counts(aggregator: Any, privacy: Any) -> None:
    narrow = GOOD.astype(np.float16), 3
    [report] = training(aggregator, privacy, narrow).rounds(np.zeros(3), list(range(1, 10)), count=1)
    assert report.rejected == {} and report.survivors == tuple(range(1, 10))
    assert report.aggregate is not None and report.aggregate.mean.dtype == np.float64
    if privacy is None:
        assert report.model == pytest.approx(GOOD, abs=1e-3)


@pytest.mark.parametrize(("aggregator", "privacy"), MODES)
def test_too_many_bad_clients_are_a_failed_round(aggregator: Any, privacy: Any) -> None:
    federation = {1: 1, 2: 4, 3: 4, 4: 4, 5: 5}
    report = next(training(aggregator, privacy, (GOOD, 0)).rounds(np.zeros(3), federation, count=1))
    assert list(report.rejected) == [1, 2, 3, 4]
    if isinstance(aggregator, secfed.Plain):
        assert report.survivors == (5,)
    else:
        assert report.failure and report.aggregate is None and np.array_equal(report.model, np.zeros(3))


def test_one_bad_client_does_not_use_up_the_budget(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=3.0, delta=1e-5)
    run = training(secfed.SecAgg(), CentralGaussian(1.0, 10.0), (np.full(3, math.nan), 1), ledger=ledger)
    for _ in range(3):
        [report] = run.rounds(np.zeros(3), list(range(1, 10)), count=1)
        assert report.failure == "" and len(report.rejected) == 2
    assert [entry.state for entry in ledger.entries()] == ["committed"] * 3


def test_round_that_ends_before_anything_was_sent_releases_its_reservation(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=3.0, delta=1e-5)
    run = training(secfed.SecAgg(), CentralGaussian(1.0, 10.0), (GOOD, 0), ledger=ledger)
    for _ in range(8):
        with pytest.raises(EncodingError, match="client 1: the weight is not positive"):
            list(run.rounds(np.zeros(3), [1, 4], count=1))
    run = training(secfed.SecAgg(threshold=4), CentralGaussian(1.0, 10.0), (GOOD, 1), ledger=ledger)
    with pytest.raises(ConfigError, match="threshold 4 must be more than half of 9"):
        list(run.rounds(np.zeros(3), list(range(1, 10)), count=1))
    assert {entry.state for entry in ledger.entries()} == {"cancelled"}
    assert ledger.spent() == 0.0


def test_fixed_cohort_that_can_never_be_aggregated_is_an_error() -> None:
    run = training(secfed.SecAgg(threshold=4), None, (GOOD, 1))
    with pytest.raises(ConfigError, match="threshold 4"):
        list(run.rounds(np.zeros(3), list(range(1, 10)), count=1, cohort_size=8))


@pytest.fixture
def sealing_garbage(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Clients, by number in the session, whose sealed shares nobody can open; a test fills the list."""
    faulty: list[int] = []
    step = STEPS[Stage.SHARE_KEYS]

    def spoiled(self: Client, *arguments: Any) -> Any:
        response, after = step.answer(self, *arguments)
        return (replace(response, sealed=bytes(len(response.sealed))) if self.client_id in faulty else response), after

    monkeypatch.setitem(STEPS, Stage.SHARE_KEYS, replace(step, answer=spoiled))
    return faulty


@pytest.mark.parametrize("privacy", [None, CentralGaussian(1.0, 1.0)], ids=["none", "central"])
def test_round_is_repeated_once_without_a_client_that_seals_garbage(privacy: Any, sealing_garbage: list[int]) -> None:
    sealing_garbage.append(2)
    clients = {10 * i: np.full(3, float(i)) for i in range(1, 7)}
    training = secfed.FedAvg(
        lambda model, data: (data, 1), aggregator=secfed.SecAgg(threshold=4, clip=8.0), privacy=privacy
    )
    [report] = training.rounds(np.zeros(3), clients, 1)
    assert report.failure == ""
    assert report.survivors == (10, 30, 40, 50, 60)
    assert report.rejected == {20: "its shares ended the session (S16)"}
    if not privacy:
        np.testing.assert_allclose(report.model, 3.8, atol=1e-2)


def test_a_second_client_that_ends_the_session_fails_the_round(sealing_garbage: list[int]) -> None:
    sealing_garbage += [2, 3]
    clients = {i: np.full(3, float(i)) for i in range(1, 9)}
    aggregator = secfed.SecAgg(threshold=6, clip=8.0)
    privacy = CentralGaussian(1.0, 1.0)
    training = secfed.FedAvg(lambda model, data: (data, 1), aggregator=aggregator, privacy=privacy)
    report = next(training.rounds(np.zeros(3), clients, 1))
    assert report.failure.startswith("S16: client 3, number 3 of the session, ended it: client 3 has")
    assert report.aggregate is None
    assert report.accountant.epsilon(1e-5) == 0  # nothing was opened


@pytest.mark.parametrize(("aggregator", "privacy"), MODES)
def test_client_whose_training_refuses_its_data_is_rejected(aggregator: Any, privacy: Any) -> None:
    def local_update(model: np.ndarray, data: int) -> Any:
        if data in (1, 4):
            raise EncodingError("the loader gave no batch")
        return GOOD, 3

    training = secfed.FedAvg(local_update, aggregator=aggregator, privacy=privacy)
    [report] = training.rounds(np.zeros(3), list(range(1, 10)), count=1)
    assert report.rejected == dict.fromkeys((1, 4), "the loader gave no batch")
    assert report.failure == "" and report.survivors == (2, 3, 5, 6, 7, 8, 9)


def test_data_that_all_clients_refuse_are_an_error() -> None:
    def local_update(model: np.ndarray, data: int) -> Any:
        raise EncodingError("the loss is not finite")

    with pytest.raises(EncodingError, match="client 1: the loss is not finite"):
        list(secfed.FedAvg(local_update, aggregator=secfed.Plain()).rounds(np.zeros(3), [1, 2, 3], count=1))
