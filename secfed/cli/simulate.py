"""A federated training run, and the same run without protection beside it; knows no terminal."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from secfed import FedAvg, Plain, SecAgg
from secfed.aggregation import Aggregator, ClippingWarning, Pipeline
from secfed.cli import perceptron
from secfed.cli.chance import generator
from secfed.cli.datasets import LOADERS, Federation
from secfed.errors import ConfigError
from secfed.federated import RoundReport
from secfed.secagg import Stage


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        dataset: A name in `datasets.LOADERS`.
        clients: Number of clients.
        rounds: Number of rounds.
        aggregator: `"plain"` or `"secagg"`.
        algorithm: `"fedavg"`.
        dropout: Probability that a client of the cohort falls silent in a round, at a stage drawn among all.
        threshold: See `secfed.SecAgg`.
        neighbors: See `secfed.SecAgg`.
        adversary: See `secfed.SecAgg`.
        sampling_rate: Probability that a client joins a round's cohort.
        alpha: How unequal the clients are; see `datasets`.
        clip: See `secfed.SecAgg`.
        seed: Decides everything but the secrets.
    """

    dataset: str = "digits"
    clients: int = 50
    rounds: int = 30
    aggregator: Literal["plain", "secagg"] = "secagg"
    algorithm: Literal["fedavg"] = "fedavg"
    dropout: float = 0.1
    threshold: float = 2 / 3
    neighbors: int | None = None
    adversary: Literal["semi_honest", "malicious_server"] = "semi_honest"
    sampling_rate: float = 1.0
    alpha: float = 0.5
    clip: float = 4.0
    seed: int = 0

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of a session: where clients may fall silent."""
        stages = (Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT_COLLECTION)
        checked = (Stage.CONSISTENCY_CHECK,) if self.adversary == "malicious_server" else ()
        return (*stages, *checked, Stage.UNMASKING)


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round.

    Attributes:
        number: From 1.
        accuracy: On the test rows, after the round.
        plain_accuracy: That of the run without protection.
        cohort: Clients that were sampled.
        survivors: Clients whose update is in the mean; 0 if the round failed.
        plain_survivors: Those of the run without protection.
        dropouts: Clients that fell silent, by the first stage they did not answer.
        bytes_up_per_client: Mean of what a survivor sent; None if the round failed.
        bytes_down_per_client: Mean of what a survivor was sent, the model among it; None if the round failed.
        seconds: Wall time of the round, local training of all clients included.
        stage_seconds: Wall time of each stage, all parties together.
        failure: Why there is no mean, or nothing ("").
    """

    number: int
    accuracy: float
    plain_accuracy: float
    cohort: int
    survivors: int
    plain_survivors: int
    dropouts: dict[Stage, int]
    bytes_up_per_client: int | None
    bytes_down_per_client: int | None
    seconds: float
    stage_seconds: dict[Stage, float]
    failure: str

    def to_json(self) -> dict[str, Any]:
        """Return the round as the command line prints it."""
        return {
            "number": self.number,
            "accuracy": self.accuracy,
            "cohort": self.cohort,
            "survivors": self.survivors,
            "dropouts": {stage.name: count for stage, count in self.dropouts.items()},
            "bytes_up_per_client": self.bytes_up_per_client,
            "bytes_down_per_client": self.bytes_down_per_client,
            "seconds": self.seconds,
            "stage_seconds": {stage.name: seconds for stage, seconds in self.stage_seconds.items()},
            "plain_accuracy": self.plain_accuracy,
            "failure": self.failure or None,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run.

    Attributes:
        settings: What was run.
        records: Its rounds.
        max_model_difference: Largest absolute difference of any parameter of the two models after the last round.
        threshold: Fewest survivors that can unmask, where that is one number for all rounds.
        clipped_rounds: Rounds in which values were beyond the clip.
    """

    settings: Settings
    records: tuple[RoundRecord, ...] = field(repr=False)
    max_model_difference: float
    threshold: int | None
    clipped_rounds: int

    @property
    def accuracy(self) -> float:
        """After the last round."""
        return self.records[-1].accuracy

    @property
    def plain_accuracy(self) -> float:
        """After the last round without protection."""
        return self.records[-1].plain_accuracy

    @property
    def sums(self) -> int:
        """Rounds that did not fail: in each the server saw one sum."""
        return sum(not record.failure for record in self.records)

    @property
    def same_survivors(self) -> bool:
        """Whether both runs had the same survivors in each round: then only rounding tells the models apart."""
        return all(record.survivors == record.plain_survivors for record in self.records)

    @property
    def dropouts(self) -> dict[Stage, int]:
        """Clients that fell silent, by stage, over all rounds."""
        return {stage: sum(record.dropouts[stage] for record in self.records) for stage in self.settings.stages}

    def to_json(self, files: list[str]) -> dict[str, Any]:
        """Return the run as the command line prints it."""
        return {
            "aggregator": self.settings.aggregator,
            "algorithm": self.settings.algorithm,
            "dataset": self.settings.dataset,
            "clients": self.settings.clients,
            "seed": self.settings.seed,
            "accuracy": self.accuracy,
            "plain_accuracy": self.plain_accuracy,
            "max_model_difference": self.max_model_difference,
            "epsilon": None,
            "delta": None,
            "rounds": [record.to_json() for record in self.records],
            "files": files,
        }


def simulate(settings: Settings, watch: Callable[[RoundRecord], None] = lambda record: None) -> Outcome:
    """Train, and train again in the clear with the same seed, cohorts and silent clients.

    Both runs go forward together, so that each record has both accuracies.

    Args:
        settings: What to run.
        watch: Called with each round's record as soon as it is there.

    Returns:
        The outcome. Rounds that fail for lack of survivors are in it; the run in the clear, which needs no threshold,
        does not fail with them.

    Raises:
        ConfigError: The settings cannot work together.
        MissingExtraError: The data set's package is not installed.
    """
    if settings.rounds < 1:
        raise ConfigError(f"{settings.rounds} rounds: needed at least 1")
    federation = LOADERS[settings.dataset](settings.clients, settings.alpha, settings.seed)
    model = perceptron.init(settings.seed, federation.features, classes=federation.classes)
    secured = None if settings.aggregator == "plain" else _secagg(settings, federation)
    records, clipped = [], 0
    final = plain_final = model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ClippingWarning)
        for report, plain, seconds in _both_runs(settings, federation, model, secured):
            final, plain_final = report.model, plain.model
            records.append(_record(settings, federation, report, plain, seconds))
            watch(records[-1])
    for warning in caught:
        if issubclass(warning.category, ClippingWarning):
            clipped += 1
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    difference = max(float(np.abs(final[name] - plain_final[name]).max()) for name in model)
    return Outcome(settings, tuple(records), difference, _threshold(settings, secured, model), clipped)


def draw_dropouts(settings: Settings, number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
    """Decide who falls silent in a round, and at which stage; the same whenever it is asked."""
    random = generator(settings.seed, "dropouts", number)
    silent = random.random(len(cohort)) < settings.dropout
    stages = random.integers(len(settings.stages), size=len(cohort))
    return {
        client_id: settings.stages[stage]
        for client_id, falls_silent, stage in zip(cohort, silent, stages, strict=True)
        if falls_silent
    }


def _secagg(settings: Settings, federation: Federation) -> SecAgg:
    most = max(len(labels) for _, labels in federation.clients.values())
    return SecAgg(
        threshold=settings.threshold,
        clip=settings.clip,
        max_weight=1 << (most - 1).bit_length(),  # one for all rounds: it must not tell who is in a cohort
        neighbors=settings.neighbors,
        adversary=settings.adversary,
        rounding_seed=settings.seed,
    )


def _threshold(settings: Settings, secured: SecAgg | None, model: perceptron.Model) -> int | None:
    """Return the threshold if it counts clients of the cohort (not neighbors) and all cohorts are alike."""
    if secured is None or settings.sampling_rate < 1:
        return None
    pipeline = Pipeline.of(model, clip=settings.clip, clients=settings.clients)
    config = secured.config(range(1, settings.clients + 1), pipeline)
    return config.threshold if config.complete else None


def _both_runs(
    settings: Settings, federation: Federation, model: perceptron.Model, secured: SecAgg | None
) -> Iterator[tuple[RoundReport, RoundReport, float]]:
    """Yield each round's report, the one without protection, and the wall time of the first."""
    plain_rounds = _rounds(settings, federation, model, Plain())
    if secured is None:
        for plain, seconds in plain_rounds:
            yield plain, plain, seconds
        return
    for report, seconds in _rounds(settings, federation, model, secured):
        yield report, next(plain_rounds)[0], seconds


def _rounds(
    settings: Settings, federation: Federation, model: perceptron.Model, aggregator: Aggregator
) -> Iterator[tuple[RoundReport, float]]:
    """Train under an aggregator; yield each report with the round's wall time."""
    examples = {
        client_id: perceptron.Examples(inputs, labels, generator(settings.seed, "batches", client_id))
        for client_id, (inputs, labels) in federation.clients.items()
    }

    def dropouts(number: int, cohort: tuple[int, ...]) -> Mapping[int, Stage]:
        return draw_dropouts(settings, number, cohort)

    reports = FedAvg(perceptron.local_update, aggregator=aggregator).rounds(
        model, examples, settings.rounds, sampling_rate=settings.sampling_rate, seed=settings.seed, dropouts=dropouts
    )
    started = time.perf_counter()
    for report in reports:
        yield report, time.perf_counter() - started
        started = time.perf_counter()


def _record(
    settings: Settings, federation: Federation, report: RoundReport, plain: RoundReport, seconds: float
) -> RoundRecord:
    silent = Counter(draw_dropouts(settings, report.number, report.cohort).values())
    aggregate = report.aggregate
    up = down = None
    if aggregate:
        up = round(sum(aggregate.bytes_up[client_id] for client_id in report.survivors) / len(report.survivors))
        requests = sum(aggregate.bytes_down[client_id] for client_id in report.survivors)
        down = round(requests / len(report.survivors)) + report.model_bytes
    return RoundRecord(
        number=report.number,
        accuracy=perceptron.accuracy(report.model, *federation.test),
        plain_accuracy=perceptron.accuracy(plain.model, *federation.test),
        cohort=len(report.cohort),
        survivors=len(report.survivors),
        plain_survivors=len(plain.survivors),
        dropouts={stage: silent[stage] for stage in settings.stages},
        bytes_up_per_client=up,
        bytes_down_per_client=down,
        seconds=seconds,
        stage_seconds=dict(aggregate.seconds) if aggregate else {},
        failure=report.failure,
    )
