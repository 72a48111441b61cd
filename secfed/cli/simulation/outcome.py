"""What a simulation gave: its rounds, and the run as a whole."""

from dataclasses import dataclass, field
from typing import Any

from secfed.cli.simulation.datasets import Federation
from secfed.cli.simulation.settings import Settings
from secfed.secagg import Stage


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round.

    Attributes:
        number: From 1.
        accuracy: On the test rows, after the round.
        plain_accuracy: That of the run without protection.
        central_accuracy: That of the run in which the server adds the noise, if there is one.
        epsilon: Spent up to this round, at the budget's delta; None without privacy.
        delta: The budget's; None without privacy.
        cohort: Clients that were sampled.
        survivors: Clients whose update is in the mean; 0 if the round failed.
        plain_survivors: Those of the run without protection.
        dropouts: Clients that dropped out, by the first stage they did not answer.
        bytes_up_per_client: Mean of what a survivor sent; None if the round failed.
        bytes_down_per_client: Mean of what a survivor was sent, the model among it; None if the round failed.
        seconds: Wall time of the round, local training of all clients included.
        stage_seconds: Wall time of each stage, all parties together.
        failure: Why there is no mean, or nothing ("").
        time: Simulated time since the first round began; the median client trains for 1.
        late: Clients that did not answer before the deadline.
        staleness: Mean number of steps that the server took while a client of the cohort trained; 0 for algorithms in
            which all begin with the round.
        fedavg_accuracy: That of plain FedAvg, next to another algorithm.
        fedavg_time: That of the same run.
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
    stage_seconds: dict[Any, float]
    failure: str
    time: float
    late: int
    staleness: float
    fedavg_accuracy: float | None
    fedavg_time: float | None

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
            "time": self.time,
            "late": self.late,
            "staleness": self.staleness,
            "fedavg_accuracy": self.fedavg_accuracy,
            "central_accuracy": self.central_accuracy,
            "fedavg_time": self.fedavg_time,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """A whole run.

    Attributes:
        settings: What was run.
        federation: The data.
        records: Its rounds.
        max_model_difference: Largest absolute difference of any parameter of the two models after the last round.
        threshold: Fewest survivors that can be unmasked or decrypted, where that is one number for all rounds.
        clipped_rounds: Rounds in which values were beyond the clip.
        noise_multiplier: What the budget requires; None without privacy.
    """

    settings: Settings
    federation: Federation = field(repr=False)
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
    def fedavg_accuracy(self) -> float | None:
        """Of plain FedAvg after its last round, next to another algorithm."""
        return self.records[-1].fedavg_accuracy

    @property
    def reached(self) -> RoundRecord | None:
        """The first round after which the target accuracy was reached."""
        return next((record for record in self.records if record.accuracy >= self.settings.target), None)

    @property
    def fedavg_reached(self) -> RoundRecord | None:
        """The same for plain FedAvg; None also if that was not run."""
        found = (record for record in self.records if (record.fedavg_accuracy or 0.0) >= self.settings.target)
        return next(found, None)

    def bytes_until(self, last: RoundRecord) -> int:
        """Return what all survivors of all rounds up to this one sent and were sent."""
        return sum(
            record.survivors * ((record.bytes_up_per_client or 0) + (record.bytes_down_per_client or 0))
            for record in self.records[: last.number]
        )

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
        """Whether both runs had the same survivors in each round; then the models differ only by rounding."""
        return all(record.survivors == record.plain_survivors for record in self.records)

    @property
    def dropouts(self) -> dict[Stage, int]:
        """Clients that dropped out, by stage, over all rounds."""
        return {stage: sum(record.dropouts[stage] for record in self.records) for stage in self.settings.stages}

    def to_json(self, files: list[str]) -> dict[str, Any]:
        """Return the run as the command line prints it."""
        settings = self.settings
        return {
            "aggregator": settings.aggregator,
            "algorithm": settings.algorithm,
            "algorithm_parameters": settings.parameters,
            "dataset": settings.dataset if settings.data is None else str(settings.data),
            "model": settings.model,
            "hidden": settings.units,
            "classes": self.federation.classes,
            "features": self.federation.features,
            "training_rows": self.federation.training_rows,
            "test_rows": len(self.federation.test[1]),
            "clients": settings.clients,
            "seed": settings.seed,
            "bits": settings.bits,
            "scale_weights": settings.scale_weights,
            "compression": settings.compression or None,
            "accuracy": self.accuracy,
            "plain_accuracy": self.plain_accuracy,
            "fedavg_accuracy": self.fedavg_accuracy,
            "target_accuracy": settings.target,
            "rounds_to_target": self.reached.number if self.reached else None,
            "time_to_target": self.reached.time if self.reached else None,
            "bytes_to_target": self.bytes_until(self.reached) if self.reached else None,
            "max_model_difference": self.max_model_difference,
            "epsilon": self.epsilon,
            "delta": self.records[-1].delta,
            "rounds": [record.to_json() for record in self.records],
            "privacy": settings.privacy,
            "epsilon_budget": settings.epsilon if settings.private else None,
            "clip_norm": settings.clip_norm if settings.private else None,
            "noise_multiplier": self.noise_multiplier,
            "central_accuracy": self.central_accuracy,
            "files": files,
        }
