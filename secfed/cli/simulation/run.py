"""A federated training run, and the same run with less protection beside it; knows no terminal."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal

import numpy as np

from secfed import CentralGaussian, DistributedGaussian, FedAvg, Plain, SecAgg, dp
from secfed.aggregation import Aggregator, ClippingWarning, Privacy
from secfed.cli.simulation import perceptron
from secfed.cli.simulation.datasets import LOADERS, Federation
from secfed.cli.simulation.random import generator
from secfed.errors import ConfigError
from secfed.federated.training import MOST_OF_DELTA, RoundReport
from secfed.secagg import Stage

# Up to this many clients all share masks with each other.
_COMPLETE = 100
# The fewest survivors where the threshold does not say it, as a fraction of the expected cohort.
_FEWEST = 2 / 3
# More layers of noise would each cost every client a draw, and bring the sum's noise hardly nearer to what is needed.
_LAYERS = 4


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
        clip: See `secfed.SecAgg`; of no matter with privacy.
        privacy: Who adds noise: `"none"`, `"central"` (the server) or `"distributed"` (the clients).
        epsilon: Budget of all rounds together.
        delta: Budget of all rounds together.
        clip_norm: See `secfed.CentralGaussian`.
        seed: Decides everything but the secrets, noise among them.
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
    privacy: Literal["none", "central", "distributed"] = "none"
    epsilon: float = 3.0
    delta: float = 1e-5
    clip_norm: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, **given: Any) -> "Settings":
        """Fill in what is None; with privacy the clients are more, as noise hides one among few only at a cost."""
        chosen: dict[str, Any] = {"clients": 50, "threshold": 2 / 3}
        if given.get("privacy", "none") != "none":
            chosen |= {"clients": 300}
            many = (given.get("clients") or chosen["clients"]) > _COMPLETE
            if many and given.get("aggregator") != "plain" and given.get("neighbors") is None:
                # The neighbors are those of secagg.parameters for 300 clients, a twentieth corrupt and a tenth silent.
                # With a threshold of more than half of them, no server can split the sum unless clients collude.
                chosen |= {"neighbors": 28, "threshold": 15}
        return cls(**chosen | {name: value for name, value in given.items() if value is not None})

    @property
    def private(self) -> bool:
        """Whether noise is added."""
        return self.privacy != "none"

    @property
    def protected(self) -> bool:
        """Whether anything is between the server and the updates, or between the model and who sees it."""
        return self.private or self.aggregator != "plain"

    @property
    def protection(self) -> str:
        """What that is, in words."""
        return f"{self.aggregator} with {self.privacy} noise" if self.private else self.aggregator

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
        central_accuracy: That of the run in which the server adds the noise, beside one in which the clients do.
        epsilon: Spent up to this round, at the budget's delta; None without privacy.
        delta: The budget's; None without privacy.
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
    central_accuracy: float | None
    epsilon: float | None
    delta: float | None
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
            "epsilon": self.epsilon,
            "delta": self.delta,
            "failure": self.failure or None,
        } | ({} if self.central_accuracy is None else {"central_accuracy": self.central_accuracy})


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run.

    Attributes:
        settings: What was run.
        records: Its rounds.
        max_model_difference: Largest absolute difference of any parameter of the two models after the last round.
        threshold: Fewest survivors that can unmask, where that is one number for all rounds.
        clipped_rounds: Rounds in which values were beyond the clip.
        noise_multiplier: What the budget took; None without privacy.
    """

    settings: Settings
    records: tuple[RoundRecord, ...] = field(repr=False)
    max_model_difference: float
    threshold: int | None
    clipped_rounds: int
    noise_multiplier: float | None

    @property
    def accuracy(self) -> float:
        """After the last round."""
        return self.records[-1].accuracy

    @property
    def plain_accuracy(self) -> float:
        """After the last round without protection."""
        return self.records[-1].plain_accuracy

    @property
    def central_accuracy(self) -> float | None:
        """After the last round of the run in which the server adds the noise, if there is one."""
        return self.records[-1].central_accuracy

    @property
    def epsilon(self) -> float | None:
        """Spent by all rounds; None without privacy."""
        return self.records[-1].epsilon

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
            "epsilon": self.epsilon,
            "delta": self.records[-1].delta,
            "rounds": [record.to_json() for record in self.records],
            "files": files,
        } | self._privacy_to_json()

    def _privacy_to_json(self) -> dict[str, Any]:
        settings = self.settings
        if not settings.private:
            return {}
        found: dict[str, Any] = {
            "privacy": settings.privacy,
            "epsilon_budget": settings.epsilon,
            "clip_norm": settings.clip_norm,
            "noise_multiplier": self.noise_multiplier,
        }
        return found if self.central_accuracy is None else found | {"central_accuracy": self.central_accuracy}


def simulate(settings: Settings, watch: Callable[[RoundRecord], None] = lambda record: None) -> Outcome:
    """Train, and train again in the clear with the same seed, cohorts and silent clients.

    Beside a run in which the clients add noise there is a third, in which the server does, for the same budget. All
    runs go forward together, so that each record has all accuracies.

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
    privacy = _privacy(settings)
    records, clipped = [], 0
    final = plain_final = model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ClippingWarning)
        for report, plain, central, seconds in _all_runs(settings, federation, model, secured, privacy):
            final, plain_final = report.model, plain.model
            records.append(_record(settings, federation, report, plain, central, seconds))
            watch(records[-1])
    for warning in caught:
        if issubclass(warning.category, ClippingWarning):
            clipped += 1
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    difference = max(float(np.abs(final[name] - plain_final[name]).max()) for name in model)
    return Outcome(
        settings,
        tuple(records),
        difference,
        _threshold(settings, secured, privacy, model),
        clipped,
        privacy.noise_multiplier if privacy else None,
    )


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


def _privacy(settings: Settings) -> Privacy | None:
    """Calibrate the noise to the budget, at the worst that may happen: as few survivors as allowed in every round."""
    if not settings.private:
        return None
    if settings.privacy == "central":
        return _central(settings)
    if settings.aggregator == "plain":
        raise ConfigError("--privacy distributed needs --aggregator secagg: with plain the server sees every update")
    # The server sees who is in a cohort, so against it sampling hides nothing.
    noise = dp.noise_multiplier(epsilon=settings.epsilon, delta=settings.delta, rounds=settings.rounds)
    return DistributedGaussian(
        settings.clip_norm, noise, layers=_LAYERS, minimum_survivors=_minimum_survivors(settings)
    )


def _central(settings: Settings) -> CentralGaussian:
    # Poisson cohorts that are too small for secure aggregation may take their part of delta.
    chance = settings.privacy == "central" and settings.aggregator == "secagg" and settings.sampling_rate < 1
    noise = dp.noise_multiplier(
        epsilon=settings.epsilon,
        delta=settings.delta * (1 - MOST_OF_DELTA) if chance else settings.delta,
        rounds=settings.rounds,
        sampling_rate=settings.sampling_rate,
    )
    return CentralGaussian(settings.clip_norm, noise)


def _minimum_survivors(settings: Settings) -> int | None:
    """Return the fewest survivors where the threshold counts neighbors only."""
    if settings.neighbors is None or settings.neighbors >= settings.clients - 1:
        return None
    return max(2, math.ceil(_FEWEST * settings.sampling_rate * settings.clients - 1e-9))


def _threshold(
    settings: Settings,
    secured: SecAgg | None,
    privacy: Privacy | None,
    model: perceptron.Model,
) -> int | None:
    """Return the fewest survivors if they are counted over the cohort (not neighbors) and all cohorts are alike."""
    if secured is None or settings.sampling_rate < 1:
        return None
    if isinstance(privacy, DistributedGaussian) and privacy.minimum_survivors is not None:
        return privacy.minimum_survivors
    config = secured.prepare(model, range(1, settings.clients + 1)).channel.config
    return config.threshold if config and config.complete else None


def _all_runs(
    settings: Settings,
    federation: Federation,
    model: perceptron.Model,
    secured: SecAgg | None,
    privacy: Privacy | None,
) -> Iterator[tuple[RoundReport, RoundReport, RoundReport | None, float]]:
    """Yield each round's report, the ones without protection and with central noise, and the wall time of the first."""
    plain_rounds = _rounds(settings, federation, model, Plain(), None)
    if not settings.protected:
        for plain, seconds in plain_rounds:
            yield plain, plain, None, seconds
        return
    central_rounds: Iterator[tuple[RoundReport | None, float]] = repeat((None, 0.0))
    if isinstance(privacy, DistributedGaussian):
        central_rounds = _rounds(settings, federation, model, Plain(), _central(settings))
    for report, seconds in _rounds(settings, federation, model, secured or Plain(), privacy):
        yield report, next(plain_rounds)[0], next(central_rounds)[0], seconds


def _rounds(
    settings: Settings,
    federation: Federation,
    model: perceptron.Model,
    aggregator: Aggregator,
    privacy: Privacy | None,
) -> Iterator[tuple[RoundReport, float]]:
    """Train under an aggregator; yield each report with the round's wall time."""
    examples = {
        client_id: perceptron.Examples(inputs, labels, generator(settings.seed, "batches", client_id))
        for client_id, (inputs, labels) in federation.clients.items()
    }

    def dropouts(number: int, cohort: tuple[int, ...]) -> Mapping[int, Stage]:
        return draw_dropouts(settings, number, cohort)

    budget = (settings.epsilon, settings.delta) if privacy else None
    reports = FedAvg(perceptron.local_update, aggregator=aggregator, privacy=privacy, budget=budget).rounds(
        model, examples, settings.rounds, sampling_rate=settings.sampling_rate, seed=settings.seed, dropouts=dropouts
    )
    started = time.perf_counter()
    for report in reports:
        yield report, time.perf_counter() - started
        started = time.perf_counter()


def _record(
    settings: Settings,
    federation: Federation,
    report: RoundReport,
    plain: RoundReport,
    central: RoundReport | None,
    seconds: float,
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
    )
