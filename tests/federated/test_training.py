"""The training round: who takes part, what is reported, and what one client can do to the others."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

import secfed
from secfed.aggregation import Prepared
from secfed.encoding.flatten import model_hash
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.secagg import Stage


def move(model: np.ndarray, data: Any) -> tuple[np.ndarray, int]:
    """Go halfway to the client's value."""
    return (data - model) / 2, 1


def values(count: int) -> list[np.ndarray]:
    return [np.full(3, float(i)) for i in range(count)]


def fedavg(aggregator: Any = None, update: Any = move) -> secfed.FedAvg:
    return secfed.FedAvg(update, aggregator=secfed.Plain() if aggregator is None else aggregator)


class Watched(secfed.Plain):
    """An aggregator that notes what it is asked."""

    def __init__(self) -> None:
        object.__setattr__(self, "calls", [])

    def prepare(self, example: Any, clients: Iterable[int], **options: Any) -> Prepared:
        self.calls.append({"clients": tuple(clients), **options})  # type: ignore[attr-defined]
        return super().prepare(example, clients, **options)


def test_ids_of_a_list_of_clients_start_at_one() -> None:
    [report] = fedavg().rounds(np.zeros(3), values(4), count=1)
    assert report.cohort == report.survivors == (1, 2, 3, 4)


def test_clients_by_id_keep_their_ids() -> None:
    [report] = fedavg().rounds(np.zeros(3), {30: np.ones(3), 4: np.ones(3)}, count=1)
    assert report.cohort == report.survivors == (4, 30)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "aggregator", [secfed.Plain(), secfed.SecAgg(clip=16.0, rounding_seed=3)], ids=["plain", "secagg"]
)
def test_training_is_repeatable_with_a_seed(aggregator: Any) -> None:
    runs = []
    for seed in (5, 5, 6):
        training = fedavg(aggregator)
        reports = list(training.rounds(np.zeros(3), values(12), count=5, sampling_rate=0.7, seed=seed))
        runs.append([(report.cohort, report.survivors, report.model.tolist()) for report in reports])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_cohorts_differ_from_run_to_run_without_a_seed() -> None:
    runs = [
        [report.cohort for report in fedavg().rounds(np.zeros(3), values(30), count=5, sampling_rate=0.5)]
        for _ in range(2)
    ]
    assert runs[0] != runs[1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_every_client_joins_independently_with_the_sampling_rate(rate: float) -> None:
    """Counts of 120 rounds of 30 clients within six deviations of the binomial distribution; the seed is fixed."""
    rounds, clients = 120, 30
    reports = fedavg().rounds(np.zeros(3), values(clients), count=rounds, sampling_rate=rate, seed=1)
    cohorts = [report.cohort for report in reports]
    joined = np.zeros((rounds, clients))
    for row, cohort in zip(joined, cohorts, strict=True):
        row[[client_id - 1 for client_id in cohort]] = 1
    spread = math.sqrt(rate * (1 - rate))
    assert abs(joined.mean() - rate) < 6 * spread / math.sqrt(rounds * clients)
    assert np.abs(joined.mean(axis=0) - rate).max() < 6 * spread / math.sqrt(rounds)
    sizes = joined.sum(axis=1)
    assert 0.5 < sizes.var() / (clients * rate * (1 - rate)) < 2  # a cohort of fixed size would have no variance
    pairs = np.corrcoef(joined.T)[np.triu_indices(clients, 1)]
    assert abs(pairs.mean()) < 6 / math.sqrt(rounds * len(pairs))


def test_everyone_takes_part_at_sampling_rate_one() -> None:
    for report in fedavg().rounds(np.zeros(3), values(7), count=20):
        assert report.cohort == tuple(range(1, 8))


def test_empty_cohort_is_a_failed_round_and_training_goes_on() -> None:
    reports = list(fedavg().rounds(np.ones(3), values(2), count=60, sampling_rate=0.3, seed=2))
    failed = [report for report in reports if not report.cohort]
    assert failed
    assert all(report.failure == "the cohort is empty" for report in failed)
    assert all(report.aggregate is None and report.survivors == () for report in failed)
    assert any(report.survivors for report in reports)


def test_round_with_too_few_survivors_leaves_the_model_and_says_so() -> None:
    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return dict.fromkeys(cohort[:3], Stage.MASKED_INPUT_COLLECTION) if number == 2 else {}

    training = fedavg(secfed.SecAgg(threshold=4, clip=8.0))
    first, second, third = training.rounds(np.zeros(3), values(5), count=3, dropouts=dropouts)
    assert first.failure == third.failure == ""
    assert "2 clients are left after MASKED_INPUT_COLLECTION, 4 are needed" in second.failure
    assert second.aggregate is None
    assert second.survivors == ()
    assert second.cohort == (1, 2, 3, 4, 5)
    assert np.array_equal(second.model, first.model)
    assert not np.array_equal(third.model, second.model)
    assert third.survivors == (1, 2, 3, 4, 5)


def test_first_round_that_fails_leaves_the_model_that_came_in() -> None:
    training = fedavg(secfed.SecAgg(threshold=4, clip=8.0))
    silent = dict.fromkeys((1, 2, 3), Stage.ADVERTISE_KEYS)
    rounds = training.rounds(np.full(3, 7.0), values(5), count=1, dropouts=lambda number, cohort: silent)
    report = next(rounds)
    assert report.model.tolist() == [7.0, 7.0, 7.0]
    assert report.failure


def test_run_in_which_every_round_fails_ends_with_an_error_after_its_reports() -> None:
    """It says how many failed and why the last one did."""

    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return dict.fromkeys(cohort[: number + 1], Stage.MASKED_INPUT_COLLECTION)

    rounds = fedavg(secfed.SecAgg(threshold=4, clip=8.0)).rounds(np.ones(3), values(5), 3, dropouts=dropouts)
    reports = [next(rounds) for _ in range(3)]
    assert all(report.failure and report.model.tolist() == [1.0, 1.0, 1.0] for report in reports)
    with pytest.raises(TooFewSurvivorsError, match="all 3 rounds failed, the last one: 1 clients are left") as found:
        next(rounds)
    assert (found.value.survivors, found.value.threshold) == (1, 4)
    assert reports[-1].failure in str(found.value)


def test_one_round_alone_that_fails_is_an_error_too() -> None:
    silent = dict.fromkeys((1, 2, 3), Stage.ADVERTISE_KEYS)
    training = fedavg(secfed.SecAgg(threshold=4, clip=8.0))
    with pytest.raises(TooFewSurvivorsError, match="the only round failed: 2 clients are left after ADVERTISE_KEYS"):
        list(training.rounds(np.ones(3), values(5), 1, dropouts=lambda number, cohort: silent))


def test_cohorts_that_are_all_too_small_by_chance_are_an_error_at_the_end() -> None:
    training = fedavg(secfed.SecAgg())
    with pytest.raises(TooFewSurvivorsError, match="all 4 rounds failed, the last one: the cohort is empty") as run:
        list(training.rounds(np.ones(3), values(5), 4, sampling_rate=1e-9, seed=0))
    assert (run.value.survivors, run.value.threshold) == (0, 1)


def test_run_with_a_single_good_round_or_no_round_at_all_ends_without_an_error() -> None:
    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return {} if number == 2 else dict.fromkeys(cohort[:3], Stage.ADVERTISE_KEYS)

    training = fedavg(secfed.SecAgg(threshold=4, clip=8.0))
    reports = list(training.rounds(np.ones(3), values(5), 3, dropouts=dropouts))
    assert [bool(report.failure) for report in reports] == [True, False, True]
    assert list(training.rounds(np.ones(3), values(5), 0)) == []


def test_settings_that_are_impossible_for_all_clients_are_an_error() -> None:
    training = fedavg(secfed.SecAgg(threshold=9))
    with pytest.raises(ConfigError, match="threshold 9"):
        list(training.rounds(np.zeros(3), values(5), count=1))
    with pytest.raises(ConfigError, match="a sum of one"):
        list(fedavg(secfed.SecAgg()).rounds(np.zeros(3), values(1), count=1))


def test_sampled_cohort_that_is_too_small_is_a_failed_round() -> None:
    training = fedavg(secfed.SecAgg(threshold=5, clip=16.0))
    reports = list(training.rounds(np.zeros(3), values(9), count=30, sampling_rate=0.5, seed=0))
    for report in reports:
        assert bool(report.failure) == (not 5 <= len(report.cohort) < 10)
    assert {bool(report.failure) for report in reports} == {True, False}


def test_dropouts_are_asked_for_each_round_with_its_cohort() -> None:
    asked = []

    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        asked.append((number, cohort))
        return {cohort[0]: Stage.SHARE_KEYS}

    reports = list(fedavg().rounds(np.zeros(3), values(4), count=3, dropouts=dropouts))
    assert asked == [(report.number, report.cohort) for report in reports]
    assert all(report.survivors == (2, 3, 4) for report in reports)


def test_client_cannot_change_the_model_of_the_others_or_of_the_caller() -> None:
    seen = []

    def vandal(model: dict[str, Any], data: int) -> tuple[dict[str, Any], int]:
        seen.append({name: array.tolist() for name, array in model.items()})
        for array in model.values():
            array[...] = -99.0
        model["extra"] = np.zeros(1)
        return {"a": np.ones(2), "b": np.ones(())}, 1

    model = {"a": np.arange(2.0), "b": np.array(5.0)}
    first, second = fedavg(update=vandal).rounds(model, [0, 1, 2], count=2)
    assert seen[:3] == [{"a": [0.0, 1.0], "b": 5.0}] * 3
    assert seen[3:] == [{"a": [1.0, 2.0], "b": 6.0}] * 3
    assert (model["a"].tolist(), model["b"].tolist()) == ([0.0, 1.0], 5.0)
    assert (first.model["a"].tolist(), second.model["a"].tolist()) == ([1.0, 2.0], [2.0, 3.0])


def test_aggregator_is_told_the_round_and_the_hash_of_the_model() -> None:
    watched = Watched()
    reports = list(fedavg(watched).rounds(np.zeros(3), values(3), count=3))
    models = [np.zeros(3), *(report.model for report in reports)]
    assert [call["round"] for call in watched.calls] == [1, 2, 3]
    assert [call["model_hash"] for call in watched.calls] == [model_hash(model) for model in models[:3]]
    assert watched.calls[0]["clients"] == (1, 2, 3)


def test_report_says_how_large_the_model_is() -> None:
    model = {"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}
    [report] = fedavg(update=lambda model, data: (model, 1)).rounds(model, [0, 0], count=1)
    assert report.model_bytes == 4 * 17
    assert report.aggregate is not None
    assert report.aggregate.survivors == (1, 2)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"clients": []}, "found no client"),
        ({"clients": {}}, "found no client"),
        ({"sampling_rate": 0.0}, "sampling_rate"),
        ({"sampling_rate": -0.1}, "sampling_rate"),
        ({"sampling_rate": 1.1}, "sampling_rate"),
        ({"sampling_rate": math.nan}, "sampling_rate"),
        ({"count": -1}, "count -1"),
        ({"dropouts": {1: Stage.UNMASKING}}, "needed a function of round and cohort"),
        ({"dropouts": [1, 3]}, "needed a function of round and cohort"),
    ],
)
def test_settings_out_of_range_are_refused_before_the_first_round(settings: dict[str, Any], text: str) -> None:
    options = {"clients": values(3), "count": 1} | settings
    with pytest.raises(ConfigError, match=text):
        fedavg().rounds(np.zeros(3), **options)


def test_model_of_whole_numbers_is_refused_before_the_first_round() -> None:
    with pytest.raises(EncodingError, match="needed floating-point"):
        fedavg().rounds(np.zeros(3, int), values(3), count=1)


def test_no_rounds_give_no_reports() -> None:
    assert list(fedavg().rounds(np.zeros(3), values(3), count=0)) == []


@pytest.mark.parametrize(
    "update",
    [np.ones(1), np.ones(()), np.ones((1, 3)), [np.ones(3)], {"a": np.ones(3)}, np.ones(4)],
    ids=["one_value", "scalar", "other_shape", "list", "dictionary", "longer"],
)
@pytest.mark.parametrize("aggregator", [secfed.Plain(), secfed.SecAgg()], ids=["plain", "secagg"])
def test_update_that_has_not_the_structure_of_the_model_is_refused(aggregator: Any, update: Any) -> None:
    """All clients alike: what they return must not be broadcast to, or read as, the model."""
    with pytest.raises(EncodingError):
        list(fedavg(aggregator, lambda model, data: (update, 1)).rounds(np.zeros(3), values(3), count=1))


def test_update_of_one_client_that_does_not_fit_is_rejected_by_name() -> None:
    def odd(model: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, int]:
        return (np.zeros(4) if data[0] == 1 else np.zeros(3)), 1

    [report] = fedavg(update=odd).rounds(np.zeros(3), values(3), count=1)
    assert report.rejected == {2: "the update is not shaped like the model: the array has shape (4,), needed (3,)"}
    assert report.survivors == (1, 3)


def test_aggregator_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="aggregator 'secagg' must be an aggregator"):
        secfed.FedAvg(lambda model, data: (model, 1), aggregator="secagg")  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregator", [secfed.Plain(), secfed.SecAgg()], ids=["plain", "secagg"])
def test_reports_name_clients_by_their_large_ids(aggregator: Any) -> None:
    ids = [3, 2**31 - 1, 2**62, 2**63]
    clients = dict(zip(ids, values(4), strict=True)) | {2**63: np.zeros(7)}
    training = fedavg(aggregator, lambda model, data: (data - model[0], 1))
    [report] = training.rounds(np.zeros(3), clients, 1, dropouts=lambda round, cohort: {})
    assert report.cohort == tuple(ids)
    assert report.survivors == tuple(ids[:3])
    assert list(report.rejected) == [2**63]


def test_class_of_an_aggregator_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"aggregator is the class SecAgg, needed one of its objects: write SecAgg\("):
        secfed.FedAvg(move, aggregator=secfed.SecAgg)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregator", [secfed.Plain(), secfed.SecAgg()], ids=["plain", "secagg"])
def test_dropouts_of_a_round_that_are_no_dictionary_are_refused(aggregator: Any) -> None:
    rounds = fedavg(aggregator).rounds(np.zeros(3), values(3), 1, dropouts=lambda round, cohort: [1, 3])  # type: ignore
    with pytest.raises(ConfigError, match=r"found dropouts \[1, 3\], needed a dictionary"):
        next(rounds)


@pytest.mark.parametrize(("returned", "found"), [(None, "NoneType"), (np.zeros(2), "ndarray")])
def test_local_update_that_returns_no_weight_is_named(returned: Any, found: str) -> None:
    training = secfed.FedAvg(lambda model, data: returned, aggregator=secfed.Plain())
    with pytest.raises(EncodingError, match=rf"client 1: local_update returned {found}, needed \(update, weight\)"):
        next(training.rounds(np.zeros(2), [0, 0], count=1))
