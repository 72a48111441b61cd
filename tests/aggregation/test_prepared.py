"""Prepared once, run once: what was reserved is what runs, and no more than one update is held."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secfed
from secfed import dp
from secfed.aggregation import CentralGaussian, DistributedGaussian, FloatMean, PrivateSum, WeightedMean
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.secagg import Stage

CLIENTS = 9
IDS = range(1, CLIENTS + 1)
MODES: dict[str, tuple[Any, Any]] = {
    "plain": (secfed.Plain(), None),
    "plain_central": (secfed.Plain(), CentralGaussian(1.0, 1.0)),
    "secagg": (secfed.SecAgg(max_weight=8), None),
    "secagg_central": (secfed.SecAgg(), CentralGaussian(1.0, 1.0)),
    "secagg_distributed": (secfed.SecAgg(), DistributedGaussian(1.0, 1.0, layers=3)),
}
EVERY_MODE = pytest.mark.parametrize(("aggregator", "privacy"), MODES.values(), ids=MODES)


class Watch:
    """Makes updates and counts those that are still held."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[np.ndarray]] = []
        self.most_held = 0

    def update(self) -> np.ndarray:
        update = np.full(50, 0.1)
        self.made.append(weakref.ref(update))
        self.most_held = max(self.most_held, sum(ref() is not None for ref in self.made))
        return update


@pytest.mark.sampled(2)
@EVERY_MODE
def test_training_holds_no_more_than_three_updates(aggregator: Any, privacy: Any) -> None:
    """That of the client that is asked, and those of the ones before until they are replaced."""
    watch = Watch()
    training = secfed.FedAvg(lambda model, data: (watch.update(), 1), aggregator=aggregator, privacy=privacy)
    [report] = training.rounds(np.zeros(50), list(IDS), 1, dropouts=lambda *_: {4: Stage.SHARE_KEYS})
    assert len(watch.made) == CLIENTS  # also the one who fell silent trained
    assert len(report.survivors) == CLIENTS - 1
    assert watch.most_held <= 3


def test_training_whose_largest_weight_follows_from_all_weights_keeps_all_updates() -> None:
    watch = Watch()
    training = secfed.FedAvg(lambda model, data: (watch.update(), data), aggregator=secfed.SecAgg())
    [report] = training.rounds(np.zeros(50), list(IDS), 1)
    assert watch.most_held == CLIENTS
    assert report.aggregate is not None and report.aggregate.weight == sum(IDS)


@EVERY_MODE
def test_results_are_asked_one_at_a_time_of_those_who_answer(aggregator: Any, privacy: Any) -> None:
    asked: list[int] = []

    def result_of(client_id: int) -> tuple[np.ndarray, float]:
        asked.append(client_id)
        return np.full(50, 0.1), 1

    prepared = aggregator.prepare(np.zeros(50), IDS, privacy=privacy)
    dropouts = {2: Stage.ADVERTISE_KEYS, 5: Stage.MASKED_INPUT_COLLECTION, 7: Stage.UNMASKING}
    result = prepared.run_each(result_of, dropouts=dropouts)
    assert asked == [1, 3, 4, 6, 7, 8, 9] == list(result.survivors)
    assert result.dropouts == (2, 5)


@pytest.mark.sampled(2)
@EVERY_MODE
def test_clients_whose_result_does_not_fit_drop_out_or_end_the_aggregation(aggregator: Any, privacy: Any) -> None:
    def result_of(client_id: int) -> tuple[np.ndarray, float]:
        return np.full(50, 0.1 if client_id != 3 else np.nan), 1

    prepared = aggregator.prepare(np.zeros(50), IDS, privacy=privacy)
    rejected: dict[int, str] = {}
    result = prepared.run_each(result_of, reject=rejected.__setitem__)
    assert rejected == {3: "the array holds a value that is not finite, at index [0]"}
    assert result.dropouts == (3,)
    with pytest.raises(EncodingError, match="client 3: the array holds a value that is not finite"):
        prepared.run_each(result_of)


@pytest.mark.sampled(2)
@EVERY_MODE
def test_aggregate_is_prepare_and_run(aggregator: Any, privacy: Any) -> None:
    updates = [np.full(50, 0.1)] * CLIENTS
    prepared = aggregator.prepare(updates[0], IDS, privacy=privacy)
    once, again = prepared.run(updates), prepared.run(updates)
    whole = aggregator.aggregate(updates, privacy=privacy)
    for other in (again, whole):
        assert (once.survivors, once.weight, once.event) == (other.survivors, other.weight, other.event)
        assert once.bytes_up == other.bytes_up
    if privacy is None:
        assert once.mean == pytest.approx(whole.mean, abs=1e-3)
    else:
        assert not np.array_equal(once.mean, again.mean)  # noise is fresh in every run


@pytest.mark.sampled(1)
@pytest.mark.parametrize("privacy", [CentralGaussian(1.0, 4.0), DistributedGaussian(1.0, 4.0)])
def test_training_runs_what_it_reserved(privacy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PrivateSum] = []
    make = PrivateSum.of.__func__  # type: ignore[attr-defined]

    def of(cls: Any, *arguments: Any, **options: Any) -> PrivateSum:
        made.append(make(cls, *arguments, **options))
        return made[-1]

    decoded: list[Any] = []
    decode = PrivateSum.decode
    monkeypatch.setattr(PrivateSum, "of", classmethod(of))
    monkeypatch.setattr(PrivateSum, "decode", lambda self, *rest: decoded.append(self) or decode(self, *rest))
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=50.0, delta=1e-5)
    reserved: list[Any] = []
    reserve = dp.Ledger.reserve
    monkeypatch.setattr(
        dp.Ledger, "reserve", lambda self, event, **rest: reserved.append(event) or reserve(self, event, **rest)
    )
    training = secfed.FedAvg(lambda model, data: (model, 1), aggregator=secfed.SecAgg(), privacy=privacy, ledger=ledger)
    assert all(not report.failure for report in training.rounds(np.zeros(5), list(IDS), 3))
    assert len(made) == 3
    assert all(one is other for one, other in zip(made, decoded, strict=True))
    assert reserved == [transform.worst_event for transform in made]


def test_plain_mean_shows_no_encoding_that_was_not_used() -> None:
    updates = [np.full(3, 9.0), np.full(3, 7.0)]
    transcript = secfed.Plain().aggregate(updates, [1, 3], record=True).transcript
    assert transcript is not None
    assert isinstance(transcript.transform, FloatMean)
    assert transcript.total is not None and transcript.total.tolist() == [30.0, 30.0, 30.0, 4.0]
    secure = secfed.SecAgg().prepare(updates[0], [1, 2], weights=[1, 3])
    assert isinstance(secure.transform, WeightedMean) and secure.worst_event is None


def test_what_was_not_prepared_for_is_refused() -> None:
    prepared = secfed.SecAgg(max_weight=1).prepare(np.zeros(3), [2, 5, 9])
    assert prepared.clients == (2, 5, 9)
    assert prepared.run({2: np.ones(3), 5: np.ones(3), 9: np.ones(3)}).survivors == (2, 5, 9)
    with pytest.raises(EncodingError, match=r"clients \[5, 7\] have an update or were prepared for, but not both"):
        prepared.run({2: np.ones(3), 7: np.ones(3), 9: np.ones(3)})
    with pytest.raises(ConfigError, match=r"dropouts \[1\] are not among the 3 clients"):
        prepared.run_each(lambda client_id: (np.ones(3), 1), dropouts={1: Stage.UNMASKING})
    with pytest.raises(ConfigError, match="max_weight is None, so it follows from the weights"):
        secfed.SecAgg().prepare(np.zeros(3), [1, 2, 3])
    with pytest.raises(ConfigError, match="needed client ids from 1"):
        secfed.Plain().prepare(np.zeros(3), [0, 1])
    with pytest.raises(TooFewSurvivorsError, match="no client is left"):
        secfed.Plain().prepare(np.zeros(3), []).run([])


@pytest.mark.parametrize("aggregator", [secfed.Plain(), secfed.SecAgg(max_weight=1)])
def test_clients_may_come_from_a_generator_and_each_only_once(aggregator: Any) -> None:
    prepared = aggregator.prepare(np.zeros(3), (client_id for client_id in (9, 2, 5)))
    assert prepared.clients == (2, 5, 9)
    assert prepared.run(dict.fromkeys((2, 5, 9), np.ones(3))).survivors == (2, 5, 9)
    with pytest.raises(ConfigError, match="found 4 client ids, 3 of them different"):
        aggregator.prepare(np.zeros(3), [2, 5, 5, 9])


def test_sum_whose_weights_the_survivors_cannot_have_is_refused() -> None:
    transform = WeightedMean.of(np.zeros(3), clip=1.0, clients=5, max_weight=4)
    total = np.array([0, 0, 0, 13], np.uint32)
    assert transform.decode(total, range(1, 5)).weight == 13
    for survivors in (range(3), range(14)):
        with pytest.raises(EncodingError, match="the weights sum to 13, needed"):
            transform.decode(total, survivors)
