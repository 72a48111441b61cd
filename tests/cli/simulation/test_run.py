"""The run itself: both trainings see the same, and a report hides nothing."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from secfed import FedAvg, Plain, SecAgg, dp
from secfed.aggregation import RandomK, RandomRotation
from secfed.aggregation.cohort import arrived
from secfed.cli.simulation import perceptron
from secfed.cli.simulation import run as simulation_run
from secfed.cli.simulation.datasets import LOADERS
from secfed.cli.simulation.outcome import Outcome, RoundRecord
from secfed.cli.simulation.run import draw_dropouts, simulate
from secfed.cli.simulation.settings import Settings, maps_of
from secfed.errors import ConfigError
from secfed.secagg import Config, Stage, parameters, run_session
from secfed.secagg.session import Result

pytestmark = pytest.mark.usefixtures("brief_training")
WHOLE_TRAINING = pytest.mark.usefixtures("whole_training")

SMALL = Settings(clients=8, rounds=3, dropout=0.15, seed=1)


@functools.cache
def kept(settings: Settings) -> Outcome:
    """A run that several tests look at."""
    return simulate(settings)


def without_times(outcome: Outcome) -> list[RoundRecord]:
    return [dataclasses.replace(record, seconds=0.0, stage_seconds={}) for record in outcome.records]


@pytest.mark.slow  # the command line's tests run a seed twice by default
@pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])
def test_the_same_seed_gives_the_same_run(adversary: str) -> None:
    settings = dataclasses.replace(SMALL, adversary=adversary)
    first, second = kept(settings), simulate(settings)
    assert without_times(first) == without_times(second)
    assert first.max_model_difference == second.max_model_difference > 0


@pytest.mark.slow
def test_another_seed_gives_another_run() -> None:
    other = simulate(dataclasses.replace(SMALL, seed=2))
    assert without_times(kept(SMALL)) != without_times(other)


def test_without_failed_rounds_the_models_differ_by_rounding_alone() -> None:
    outcome = simulate(dataclasses.replace(SMALL, dropout=0.0))
    assert outcome.same_survivors
    assert 0 < outcome.max_model_difference < 0.01
    coarse = simulate(dataclasses.replace(SMALL, dropout=0.0, clip=400.0))
    assert coarse.max_model_difference > outcome.max_model_difference


def test_under_plain_both_runs_are_one() -> None:
    outcome = kept(dataclasses.replace(SMALL, aggregator="plain"))
    assert outcome.max_model_difference == 0.0
    assert outcome.accuracy == outcome.plain_accuracy
    assert all(record.stage_seconds == {} for record in outcome.records)


@WHOLE_TRAINING
def test_accuracy_under_secure_aggregation_is_within_one_point_of_plain() -> None:
    outcome = simulate(Settings(clients=13, rounds=5, dropout=0.1))
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
    assert failed and "8 are needed" in failed[0].failure
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
    assert kept(SMALL).threshold == 6  # two thirds of 8, rounded up
    assert kept(dataclasses.replace(SMALL, aggregator="plain")).threshold is None


def test_rounds_with_clipped_values_are_counted_and_no_warning_escapes() -> None:
    outcome = simulate(dataclasses.replace(SMALL, clip=0.05))  # pytest would raise the warning
    assert outcome.clipped_rounds == outcome.sums == 2  # in the third round too few were left for a mean


@WHOLE_TRAINING
@pytest.mark.slow
def test_nothing_is_clipped_in_the_default_run_of_few_rounds() -> None:
    assert simulate(Settings(rounds=2)).clipped_rounds == 0


def test_compressed_updates_are_shorter_and_the_run_says_so() -> None:
    short = dataclasses.replace(
        SMALL, rounds=2, dropout=0.0, clip=0.15, bits=6, scale_weights=True, compression="random-k:0.5+rotation"
    )
    assert short.maps == (RandomK(0.5), RandomRotation())
    assert short.protection == "secagg, random-k:0.5+rotation"
    outcome, usual = simulate(short), simulate(dataclasses.replace(SMALL, rounds=2, dropout=0.0))
    sent, whole = (each.records[0].bytes_up_per_client for each in (outcome, usual))
    assert sent is not None and whole is not None
    # 1205 entries of 10 bits in place of 2411 of 27 bits.
    assert whole - sent == pytest.approx((2411 * 27 - 1205 * 10) / 8, rel=0.05)
    assert outcome.to_json([])["compression"] == "random-k:0.5+rotation"
    assert outcome.accuracy > 0.3


@pytest.mark.parametrize("text", ["random", "random-k:", "random-k:2", "low-rank:1.5", "low-rank:0", "rotation:1", "+"])
def test_a_compression_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="needed random-k:FRACTION, low-rank:RANK or rotation"):
        maps_of(text)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 rounds"):
        simulate(dataclasses.replace(SMALL, rounds=0))


@pytest.mark.slow  # the command line's tests look at every epsilon by default
@pytest.mark.parametrize("privacy", ["central", "distributed"])
def test_epsilon_grows_from_round_to_round_and_stays_within_the_budget(privacy: str) -> None:
    settings = dataclasses.replace(SMALL, clients=9, privacy=privacy, epsilon=1.5, delta=1e-6)
    outcome = simulate(settings)
    spent = [record.epsilon or 0.0 for record in outcome.records]
    assert spent == sorted(spent) and 0 < spent[0] < spent[-1] == outcome.epsilon <= 1.5
    assert outcome.noise_multiplier == pytest.approx(
        dp.noise_multiplier(epsilon=1.5, delta=1e-6, rounds=3, sampling_rate=1.0)
    )


def test_budget_is_kept_even_if_as_few_as_allowed_survive() -> None:
    """7 of 10 is the threshold; those who fall silent take their noise with them in every round."""
    settings = Settings(clients=10, rounds=3, privacy="distributed", dropout=0.0, epsilon=1.0)
    privacy = simulation_run._privacy(settings)
    assert privacy is not None
    aggregator = SecAgg(threshold=2 / 3)
    silent = dict.fromkeys((1, 5, 9), Stage.MASKED_INPUT_COLLECTION)
    training = FedAvg(
        lambda model, data: (data, 1), aggregator=aggregator, privacy=privacy, budget=(settings.epsilon, settings.delta)
    )
    reports = list(training.rounds(np.zeros(50), [np.ones(50)] * 10, 3, dropouts=lambda number, cohort: silent))
    assert [len(report.survivors) for report in reports] == [7, 7, 7]
    assert reports[-1].accountant is not None
    assert 0.999 < reports[-1].accountant.epsilon(settings.delta) <= 1.0


@pytest.mark.slow
def test_sampling_hides_clients_from_those_who_see_the_models_but_not_from_the_server() -> None:
    settings = dataclasses.replace(SMALL, clients=40, rounds=2, sampling_rate=0.4, dropout=0.0)
    central = simulate(dataclasses.replace(settings, privacy="central"))
    distributed = simulate(dataclasses.replace(settings, privacy="distributed"))
    assert central.noise_multiplier is not None and distributed.noise_multiplier is not None
    assert (
        central.noise_multiplier
        < distributed.noise_multiplier
        == pytest.approx(dp.noise_multiplier(epsilon=3.0, delta=1e-5, rounds=2))
    )
    assert all(outcome.epsilon is not None and outcome.epsilon <= 3 for outcome in (central, distributed))


@pytest.mark.slow
def test_runs_beside_a_distributed_one_do_not_depend_on_it() -> None:
    settings = dataclasses.replace(SMALL, dropout=0.0)
    plain, private = simulate(settings), simulate(dataclasses.replace(settings, privacy="distributed"))
    assert [record.plain_accuracy for record in plain.records] == [record.plain_accuracy for record in private.records]
    assert plain.central_accuracy is None and private.central_accuracy is not None


def test_noise_does_not_follow_from_the_seed() -> None:
    settings = dataclasses.replace(SMALL, rounds=1, dropout=0.0, privacy="distributed")
    assert simulate(settings).max_model_difference != simulate(settings).max_model_difference


def test_distributed_noise_without_secure_aggregation_is_refused() -> None:
    with pytest.raises(ConfigError, match="--privacy distributed needs --aggregator secagg"):
        simulate(dataclasses.replace(SMALL, aggregator="plain", privacy="distributed"))


def test_defaults_with_privacy_are_for_many_clients_and_without_it_as_ever() -> None:
    assert Settings.of(clients=None, rounds=None, threshold=None, neighbors=None) == Settings()
    private = Settings.of(clients=None, rounds=None, threshold=None, neighbors=None, privacy="distributed")
    assert (private.clients, private.rounds, private.neighbors, private.threshold) == (300, 30, 28, 15)
    few = Settings.of(clients=60, threshold=None, neighbors=None, privacy="central")
    assert (few.clients, few.neighbors, few.threshold) == (60, None, 2 / 3)
    own = Settings.of(clients=500, threshold=12, neighbors=20, privacy="central")
    assert (own.neighbors, own.threshold) == (20, 12)


def test_neighbors_with_privacy_are_those_of_the_parameters_for_as_many_clients() -> None:
    settings = Settings.of(privacy="distributed")
    chosen = parameters(clients=settings.clients, corrupt_fraction=0.05, dropout_fraction=0.1)
    assert (settings.neighbors, settings.threshold) == (chosen.neighbors, chosen.threshold + 1)
    assert 2 * settings.threshold > settings.neighbors  # indivisible, as long as nobody colludes


def test_noise_of_the_clients_is_hardly_more_than_the_servers() -> None:
    """Rounding and wrapping cost next to nothing; what is over is noise brought for clients who might be missing."""
    settings = Settings.of(privacy="distributed")
    privacy = simulation_run._privacy(settings)
    federation = LOADERS[settings.dataset](settings.clients, settings.alpha, settings.seed)
    model = perceptron.init(settings.seed, federation.features, classes=federation.classes)
    assert privacy is not None
    secured = simulation_run._secured(settings, federation)
    transform: Any = secured.prepare(model, range(1, settings.clients + 1), privacy=privacy).transform
    plan = transform.plan
    assert plan is not None and plan.threshold == 200
    central = (plan.noise_multiplier * plan.clip_norm) ** 2
    for survivors in plan.noise.honest:  # where no noise is left over
        assert 1 <= plan.error(survivors) / central < 1.01
    expected = round(settings.clients * (1 - 0.75 * settings.dropout))  # who falls silent while unmasking counts
    assert plan.error(expected) / central < 1.07
    assert max(plan.error(survivors) for survivors in range(200, 301)) / central < 1.16


def sum_of_survivors(
    config: Config, vectors: Callable[[int], Any], *, dropouts: Mapping[int, Stage], **_: Any
) -> Result:
    """What a session gives, without its keys and masks."""
    survivors = arrived(config.client_ids, dropouts)
    total = np.zeros(config.length, np.uint64)
    for client_id in survivors:
        total += vectors(client_id)
    total = (total & np.uint64((1 << config.modulus_bits) - 1)).astype(config.dtype)
    missing = tuple(client_id for client_id in config.client_ids if client_id not in set(survivors))
    sent = dict.fromkeys(config.client_ids, 0)
    return Result(total, tuple(survivors), missing, (), sent, dict(sent), {})


@pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])
def test_sum_of_survivors_is_what_a_session_gives(adversary: str) -> None:
    config = Config(range(1, 8), 5, length=9, modulus_bits=12, adversary=adversary)
    vectors = {i: np.arange(9, dtype=np.uint16) * (400 + i) % 4096 for i in config.client_ids}
    silent = {2: Stage.UNMASKING, 5: Stage.MASKED_INPUT_COLLECTION}
    found = run_session(config, vectors, dropouts=silent)
    without = sum_of_survivors(config, vectors.__getitem__, dropouts=silent)
    assert np.array_equal(found.sum, without.sum)
    assert (found.survivors, found.dropouts) == (without.survivors, without.dropouts)


@WHOLE_TRAINING
@pytest.mark.slow
def test_accuracy_under_distributed_noise_is_on_average_within_two_points_of_central_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Noise moves the difference of one seed by more than a point, so several count; sums come without sessions."""
    monkeypatch.setattr("secfed.aggregation.channels.run_session", sum_of_survivors)
    differences = []
    for seed in range(5):
        settings = Settings.of(privacy="distributed", epsilon=3.0, delta=1e-5, seed=seed)
        federation = LOADERS[settings.dataset](settings.clients, settings.alpha, seed)
        model = perceptron.init(seed, federation.features, classes=federation.classes)
        distributed = (simulation_run._secured(settings, federation), simulation_run._privacy(settings))
        accuracies = []
        for aggregator, privacy in (distributed, (Plain(), simulation_run._central(settings))):
            rounds = simulation_run._rounds(settings, federation, model, aggregator, privacy, None)
            last = [report.model for report, _ in rounds][-5:]
            accuracies.append(np.mean([perceptron.accuracy(model, *federation.test) for model in last]))
        assert min(accuracies) > 0.8
        differences.append(100 * (accuracies[0] - accuracies[1]))
    assert abs(np.mean(differences)) < 2.0, differences


@WHOLE_TRAINING
@pytest.mark.slow
def test_whole_run_with_distributed_noise_loses_little() -> None:
    """One run, with its sessions: noise moves its accuracies by one or two points, so it guards against gross loss."""
    outcome = simulate(Settings.of(privacy="distributed", epsilon=3.0, delta=1e-5))
    last = outcome.records[-5:]
    distributed = sum(record.accuracy for record in last) / 5
    central = sum(record.central_accuracy or 0.0 for record in last) / 5
    assert distributed > central - 0.1
    assert distributed > 0.75
    assert outcome.epsilon is not None and 2.5 < outcome.epsilon <= 3
