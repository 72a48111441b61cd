"""The run itself: both trainings see the same, and a report hides nothing."""

import dataclasses
import itertools

import pytest

from secfed.cli.simulate import Outcome, RoundRecord, Settings, draw_dropouts, simulate
from secfed.errors import ConfigError
from secfed.secagg import Stage

SMALL = Settings(clients=8, rounds=3, dropout=0.15, seed=1)


def without_times(outcome: Outcome) -> list[RoundRecord]:
    return [dataclasses.replace(record, seconds=0.0, stage_seconds={}) for record in outcome.records]


@pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])
def test_the_same_seed_gives_the_same_run(adversary: str) -> None:
    settings = dataclasses.replace(SMALL, adversary=adversary)
    first, second = simulate(settings), simulate(settings)
    assert without_times(first) == without_times(second)
    assert first.max_model_difference == second.max_model_difference > 0


def test_another_seed_gives_another_run() -> None:
    other = simulate(dataclasses.replace(SMALL, seed=2))
    assert without_times(simulate(SMALL)) != without_times(other)


def test_without_failed_rounds_the_models_differ_by_rounding_alone() -> None:
    outcome = simulate(dataclasses.replace(SMALL, dropout=0.0))
    assert outcome.same_survivors
    assert 0 < outcome.max_model_difference < 0.01
    coarse = simulate(dataclasses.replace(SMALL, dropout=0.0, clip=400.0))
    assert coarse.max_model_difference > outcome.max_model_difference


def test_under_plain_both_runs_are_one() -> None:
    outcome = simulate(dataclasses.replace(SMALL, aggregator="plain"))
    assert outcome.max_model_difference == 0.0
    assert outcome.accuracy == outcome.plain_accuracy
    assert all(record.stage_seconds == {} for record in outcome.records)


def test_accuracy_under_secure_aggregation_is_within_one_point_of_plain() -> None:
    outcome = simulate(Settings(clients=13, rounds=8, dropout=0.1))
    assert outcome.accuracy > 0.93
    assert abs(outcome.accuracy - outcome.plain_accuracy) <= 0.01


def test_each_record_is_told_as_soon_as_it_is_there() -> None:
    told: list[RoundRecord] = []
    outcome = simulate(SMALL, told.append)
    assert tuple(told) == outcome.records
    assert [record.number for record in told] == [1, 2, 3]


def test_a_failed_round_is_reported_and_leaves_the_model_as_it_was() -> None:
    outcome = simulate(dataclasses.replace(SMALL, threshold=8, dropout=0.3))
    failed = [record for record in outcome.records if record.failure]
    assert failed and "threshold is 8" in failed[0].failure
    assert all(record.survivors == 0 and record.bytes_up_per_client is None for record in failed)
    assert outcome.sums == len(outcome.records) - len(failed)
    assert not outcome.same_survivors
    for before, record in itertools.pairwise(outcome.records):
        assert not record.failure or record.accuracy == before.accuracy


def test_survivors_are_the_cohort_without_those_silent_before_their_input_was_in() -> None:
    records = simulate(dataclasses.replace(SMALL, threshold=5)).records
    assert sum(sum(record.dropouts.values()) for record in records) > 0
    for record in records:
        late = record.dropouts[Stage.UNMASKING]
        assert record.survivors == record.cohort - sum(record.dropouts.values()) + late


@pytest.mark.parametrize(("adversary", "stages"), [("semi_honest", 4), ("malicious_server", 5)])
def test_clients_fall_silent_at_every_stage_and_as_often_as_asked(adversary: str, stages: int) -> None:
    settings = Settings(dropout=0.25, adversary=adversary)
    cohort = tuple(range(1, 4001))
    silent = draw_dropouts(settings, 1, cohort)
    assert 0.22 < len(silent) / len(cohort) < 0.28
    counts = {stage: sum(found is stage for found in silent.values()) for stage in settings.stages}
    assert len(counts) == stages and min(counts.values()) > 0.8 * len(silent) / stages
    assert silent == draw_dropouts(settings, 1, cohort) != draw_dropouts(settings, 2, cohort)


def test_sampling_makes_smaller_cohorts() -> None:
    outcome = simulate(dataclasses.replace(SMALL, clients=40, sampling_rate=0.3, rounds=2, dropout=0.0))
    assert all(2 <= record.cohort < 30 for record in outcome.records)
    assert outcome.threshold is None  # it differs from cohort to cohort


def test_the_threshold_is_the_sessions_own() -> None:
    assert simulate(SMALL).threshold == 6  # two thirds of 8, rounded up
    assert simulate(dataclasses.replace(SMALL, aggregator="plain")).threshold is None


def test_rounds_with_clipped_values_are_counted_and_no_warning_escapes() -> None:
    outcome = simulate(dataclasses.replace(SMALL, clip=0.05))  # pytest would raise the warning
    assert outcome.clipped_rounds == outcome.sums + sum(bool(record.failure) for record in outcome.records) == 3


def test_nothing_is_clipped_in_the_default_run_of_few_rounds() -> None:
    assert simulate(Settings(rounds=2)).clipped_rounds == 0


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 rounds"):
        simulate(dataclasses.replace(SMALL, rounds=0))
