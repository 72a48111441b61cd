"""A federated training run, and the same run with less protection to compare it with; prints nothing."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat

import numpy as np

from secfed import CentralGaussian, DistributedGaussian, Paillier, Plain, SecAgg, dp
from secfed.aggregation import Aggregator, ClippingWarning, Privacy
from secfed.aggregation.cohort_sizes import MOST_OF_DELTA
from secfed.cli.simulation import algorithms, own_data, perceptron
from secfed.cli.simulation.datasets import LOADERS, Federation
from secfed.cli.simulation.outcome import Outcome, RoundRecord
from secfed.cli.simulation.random import generator
from secfed.cli.simulation.settings import Settings
from secfed.dp.events import Adjacency
from secfed.errors import ConfigError, TooFewSurvivorsError
from secfed.federated import RoundReport
from secfed.secagg import Stage

# What is being done, how many clients are done with it, and how many there are.
Step = Callable[[str, int, int], None]
# The fewest survivors, as a fraction of the expected cohort, if the threshold does not give them.
_FEWEST = 2 / 3
# Each further layer of noise costs every client a draw, and hardly brings the sum's noise closer to what is needed.
_LAYERS = 4


def simulate(
    settings: Settings,
    watch: Callable[[RoundRecord], None] = lambda record: None,
    step: Step = lambda what, done, clients: None,
    federation: Federation | None = None,
) -> Outcome:
    """Train, and train again in the clear with the same seed, cohorts and silent clients.

    If the clients add noise, there is a third run in which the server adds it, for the same budget. All runs advance
    together, so that each record has all accuracies.

    Args:
        settings: What to run.
        watch: Called with each round's record as soon as it is there.
        step: `step(what, done, clients)`, called after each client. `what` is the stage of the session, or the run in
            which clients train; `done` of `clients` are done with it.
        federation: What `federation_of` returns for these settings; None: it is called.

    Returns:
        The outcome. Rounds that fail for lack of survivors are in it; the run in the clear, which needs no threshold,
        does not fail with them.

    Raises:
        ConfigError: The settings cannot work together.
        MissingExtraError: The data set's package is not installed.
    """
    if settings.rounds < 1:
        raise ConfigError(f"{settings.rounds} rounds: needed at least 1")
    federation = federation or federation_of(settings)
    model = perceptron.init(settings.seed, federation.features, settings.units, federation.classes)
    secured = _secured(settings, federation)
    if isinstance(secured, SecAgg):
        secured = replace(secured, progress=lambda stage, done, asked: step(stage.name, done, asked))
    privacy = _privacy(settings)
    records, clipped = [], 0
    final = plain_final = model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ClippingWarning)
        for reports, seconds in _all_runs(settings, federation, model, secured, privacy, step):
            final, plain_final = reports.secured.model, reports.plain.model
            records.append(_record(settings, federation, reports, seconds))
            watch(records[-1])
    for warning in caught:
        if issubclass(warning.category, ClippingWarning):
            clipped += 1
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    difference = max(float(np.abs(final[name] - plain_final[name]).max()) for name in model)
    return Outcome(
        settings,
        federation,
        tuple(records),
        difference,
        _threshold(settings, secured, privacy, model),
        clipped,
        privacy.noise_multiplier if privacy else None,
    )


def federation_of(settings: Settings) -> Federation:
    """Load the data and deal them out to the clients.

    Raises:
        ConfigError: The data do not suit the settings, or cannot be read.
        MissingExtraError: The data set's package is not installed.
    """
    if settings.data is None:
        return LOADERS[settings.dataset](settings.clients, settings.alpha, settings.seed)
    table = own_data.read(settings.data, settings.label_column)
    return own_data.federation(table, settings.clients, settings.alpha, settings.seed)


def draw_dropouts(settings: Settings, number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
    """Decide who drops out in a round, and at which stage; the same whenever it is asked."""
    random = generator(settings.seed, "dropouts", number)
    silent = random.random(len(cohort)) < settings.dropout
    stages = random.integers(len(settings.stages), size=len(cohort))
    return {
        client_id: settings.stages[stage]
        for client_id, falls_silent, stage in zip(cohort, silent, stages, strict=True)
        if falls_silent
    }


def _secured(settings: Settings, federation: Federation) -> SecAgg | Paillier | None:
    """Return the aggregator that hides updates; None if they are in the clear."""
    if settings.aggregator == "plain":
        return None
    most = max(len(labels) for _, labels in federation.clients.values())
    largest = 1 << (most - 1).bit_length()  # one for all rounds: it must not tell who is in a cohort
    if settings.aggregator == "paillier":
        return Paillier(
            settings.key_bits,
            settings.clip,
            settings.bits,
            largest,
            rounding_seed=settings.seed,
            compression=settings.maps,
            scale_weights=settings.scale_weights,
        )
    return SecAgg(
        threshold=settings.threshold,
        clip=settings.clip,
        bits=settings.bits,
        max_weight=largest,
        neighbors=settings.neighbors,
        adversary=settings.adversary,
        rounding_seed=settings.seed,
        compression=settings.maps,
        scale_weights=settings.scale_weights,
    )


def _privacy(settings: Settings) -> Privacy | None:
    """Calibrate the noise to the budget for the worst case: as few survivors as allowed in every round."""
    if not settings.private:
        return None
    if settings.privacy == "central":
        return _central(settings)
    if settings.aggregator == "plain":
        raise ConfigError(
            "--privacy distributed needs --aggregator secagg or paillier: with plain the server sees every update"
        )
    # The server sees who is in a cohort, so against it sampling hides nothing.
    noise = dp.noise_multiplier(
        epsilon=settings.epsilon, delta=settings.delta, rounds=settings.rounds, adjacency=_adjacency(settings)
    )
    return DistributedGaussian(
        settings.clip_norm, noise, layers=_LAYERS, minimum_survivors=_minimum_survivors(settings)
    )


def _central(settings: Settings) -> CentralGaussian:
    # Poisson cohorts that are too small for secure aggregation may use part of delta.
    chance = settings.privacy == "central" and settings.aggregator != "plain" and settings.sampling_rate < 1
    noise = dp.noise_multiplier(
        epsilon=settings.epsilon,
        delta=settings.delta * (1 - MOST_OF_DELTA) if chance else settings.delta,
        rounds=settings.rounds,
        sampling_rate=settings.sampling_rate,
        adjacency=_adjacency(settings),
    )
    return CentralGaussian(settings.clip_norm, noise)


def _adjacency(settings: Settings) -> Adjacency:
    """Return the adjacency: without one client, an asynchronous round would take another client instead."""
    return "replace" if settings.asynchronous else "add_remove"


def _minimum_survivors(settings: Settings) -> int | None:
    """Return the fewest survivors if no threshold gives them, or if it counts only neighbors."""
    complete = settings.neighbors is None or settings.neighbors >= settings.clients - 1
    if settings.aggregator != "paillier" and complete:
        return None
    return max(2, math.ceil(_FEWEST * settings.expected_cohort - 1e-9))


def _threshold(
    settings: Settings,
    secured: SecAgg | Paillier | None,
    privacy: Privacy | None,
    model: perceptron.Model,
) -> int | None:
    """Return the fewest survivors if they are counted over the cohort (not neighbors) and all cohorts are alike."""
    if secured is None or settings.sampling_rate < 1:
        return None
    if isinstance(privacy, DistributedGaussian) and privacy.minimum_survivors is not None:
        return privacy.minimum_survivors
    if isinstance(secured, Paillier):
        return secured.minimum_cohort
    prepared = secured.prepare(model, range(1, int(settings.expected_cohort) + 1))
    config = secured.config(prepared.clients, prepared.transform)
    return config.threshold if config.complete else None


@dataclass(frozen=True, slots=True)
class _Reports:
    """One round of all runs: the one that was asked for, without protection, with central noise, plain FedAvg."""

    secured: RoundReport
    plain: RoundReport
    central: RoundReport | None
    fedavg: RoundReport | None


def _all_runs(
    settings: Settings,
    federation: Federation,
    model: perceptron.Model,
    secured: SecAgg | Paillier | None,
    privacy: Privacy | None,
    step: Step,
) -> Iterator[tuple[_Reports, float]]:
    """Yield each round's reports, and the wall time of the first."""
    nothing: Iterator[tuple[RoundReport | None, float]] = repeat((None, 0.0))
    central_rounds = fedavg_rounds = nothing
    if settings.algorithm != "fedavg":
        fedavg_rounds = _rounds(_fedavg(settings), federation, model, Plain(), None, partial(step, "plain fedavg"))
    if isinstance(privacy, DistributedGaussian):
        step_of_central = partial(step, "noise from the server")
        central_rounds = _rounds(settings, federation, model, Plain(), _central(settings), step_of_central)
    plain_rounds = _rounds(settings, federation, model, Plain(), None, partial(step, "plain"))
    told = None if isinstance(secured, SecAgg) else partial(step, "training")  # a session tells its own stages
    for report, seconds in _rounds(settings, federation, model, secured or Plain(), privacy, told):
        plain = next(plain_rounds)[0] if settings.protected else report
        yield _Reports(report, plain, next(central_rounds)[0], next(fedavg_rounds)[0]), seconds


def _fedavg(settings: Settings) -> Settings:
    """Return the same run with FedAvg; next to an asynchronous algorithm, its cohorts have `concurrency` clients."""
    if not settings.asynchronous:
        return replace(settings, algorithm="fedavg", server_learning_rate=None)
    return replace(
        settings, algorithm="fedavg", server_learning_rate=None, cohort_size=int(settings.parameters["concurrency"])
    )


def _rounds(
    settings: Settings,
    federation: Federation,
    model: perceptron.Model,
    aggregator: Aggregator,
    privacy: Privacy | None,
    trained: Callable[[int, int], None] | None,
) -> Iterator[tuple[RoundReport, float]]:
    """Train under an aggregator; yield each report with the round's wall time."""
    examples = {
        client_id: perceptron.Examples(inputs, labels, generator(settings.seed, "batches", client_id))
        for client_id, (inputs, labels) in federation.clients.items()
    }

    def dropouts(number: int, cohort: tuple[int, ...]) -> Mapping[int, Stage]:
        return draw_dropouts(settings, number, cohort)

    factor = {
        client_id: math.exp(settings.speed_spread * generator(settings.seed, "speed", client_id).normal())
        for client_id in examples
    }
    budget = (settings.epsilon, settings.delta) if privacy else None
    training = algorithms.training(
        settings.algorithm,
        settings.parameters,
        aggregator=aggregator,
        privacy=privacy,
        budget=budget,
        adjacency=_adjacency(settings) if privacy else None,
    )
    by_chance = not settings.asynchronous and settings.cohort_size is None
    reports = training.rounds(
        model,
        examples,
        settings.rounds,
        sampling_rate=settings.sampling_rate if by_chance else None,
        cohort_size=settings.cohort_size,
        seed=settings.seed,
        dropouts=dropouts,
        durations=lambda client_id, number: factor[client_id],
        deadline=settings.deadline,
        progress=trained and (lambda number, done, cohort: trained(done, cohort)),
    )
    # After the last round of a run in which all failed there is an error; the command says so after its table.
    with suppress(TooFewSurvivorsError):
        started = time.perf_counter()
        for report in reports:
            yield report, time.perf_counter() - started
            started = time.perf_counter()


def _record(settings: Settings, federation: Federation, reports: _Reports, seconds: float) -> RoundRecord:
    report, plain, central, fedavg = reports.secured, reports.plain, reports.central, reports.fedavg
    silent = Counter(draw_dropouts(settings, report.number, report.cohort).values())
    aggregate = report.aggregate
    up = down = None
    if aggregate:
        up = round(sum(aggregate.bytes_up[client_id] for client_id in report.survivors) / len(report.survivors))
        requests = sum(aggregate.bytes_down[client_id] for client_id in report.survivors)
        down = round(requests / len(report.survivors)) + report.model_bytes
    staleness = report.staleness.values()
    return RoundRecord(
        number=report.number,
        accuracy=perceptron.accuracy(report.model, *federation.test),
        plain_accuracy=perceptron.accuracy(plain.model, *federation.test),
        central_accuracy=perceptron.accuracy(central.model, *federation.test) if central else None,
        epsilon=report.accountant.epsilon(settings.delta) if report.accountant else None,
        delta=settings.delta if report.accountant else None,
        cohort=len(report.cohort),
        survivors=len(report.survivors),
        plain_survivors=len(plain.survivors),
        dropouts={stage: silent[stage] for stage in settings.stages},
        bytes_up_per_client=up,
        bytes_down_per_client=down,
        seconds=seconds,
        stage_seconds=dict(aggregate.seconds) if aggregate else {},
        failure=report.failure,
        time=report.time or 0.0,
        late=len(report.late),
        staleness=sum(staleness) / len(staleness) if staleness else 0.0,
        fedavg_accuracy=perceptron.accuracy(fedavg.model, *federation.test) if fedavg else None,
        fedavg_time=fedavg.time if fedavg else None,
    )
