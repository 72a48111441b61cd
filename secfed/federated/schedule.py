"""Which clients' updates go into each round, and when: sampled cohorts, or clients that answer when they are ready.

Time is simulated. It counts only local training, in the unit of `durations`; messages take no time.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError
from secfed.federated.state import Memory

Durations = Callable[[int, int], float]
Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Start:
    """The model from which a client's local training began, and how many steps the server has taken since."""

    values: Values = field(repr=False)
    staleness: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One round's clients.

    Attributes:
        cohort: Their ids, ascending.
        late: Those that do not answer before the deadline.
        starts: Where each client's training began. If empty, all began from the round's model.
        time: When the last answer arrived; None if it is not known how long training takes.
    """

    cohort: tuple[int, ...]
    late: tuple[int, ...] = ()
    starts: Mapping[int, Start] = field(default_factory=dict)
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Attendance:
    """The caller's options for cohorts and time; see `Training.rounds`."""

    sampling_rate: float | None
    cohort_size: int | None
    seed: int | None
    durations: Durations | None
    deadline: float | None

    @property
    def rate(self) -> float:
        """The probability with which a client joins a cohort that has no fixed size."""
        return 1.0 if self.sampling_rate is None else self.sampling_rate


class Schedule(Protocol):
    """Decides which clients each round has. Its whole state can be saved."""

    @property
    def by_chance(self) -> bool:
        """Whether the size of a cohort is random."""

    def next(self, number: int) -> Turn:
        """Return the turn of the next round."""

    def stepped(self, values: Values) -> None:
        """Record that the server took a step, and the model's values after it."""

    def saved(self) -> Memory:
        """Return what `resume` reads: arrays by name."""

    def resume(self, saved: Memory, rounds: int, values: Values) -> None:
        """Continue after this many rounds.

        Raises:
            ConfigError: This was saved by another kind of schedule.
        """


def duration(durations: Durations, client_id: int, number: int) -> float:
    """Ask how long a client trains.

    Raises:
        ConfigError: That is not a positive finite number.
    """
    seconds = durations(client_id, number)
    if not (isinstance(seconds, int | float | np.integer | np.floating) and 0 < seconds < math.inf):
        raise ConfigError(f"durations returned {seconds!r:.100} for client {client_id}, needed a positive number")
    return float(seconds)


class Sampling:
    """A cohort for each round, drawn at random; a round is over when its slowest client has answered.

    Args:
        ids: All clients, ascending.
        asked: How cohorts are drawn. Without durations there is no clock.
    """

    def __init__(self, ids: Sequence[int], asked: Attendance) -> None:
        self._ids, self._rate, self._size = ids, asked.rate, asked.cohort_size
        self._seed, self._generator = asked.seed, np.random.default_rng(asked.seed)
        self._durations, self._deadline, self._clock = asked.durations, asked.deadline, 0.0

    @property
    def by_chance(self) -> bool:
        """Whether the size of a cohort is random."""
        return self._size is None

    def _draw(self) -> tuple[int, ...]:
        if self._size is not None:
            chosen = sorted(self._generator.choice(len(self._ids), self._size, replace=False))
            return tuple(self._ids[place] for place in chosen)
        joins = self._generator.random(len(self._ids)) < self._rate
        return tuple(client_id for client_id, joined in zip(self._ids, joins, strict=True) if joined)

    def next(self, number: int) -> Turn:
        """Draw the next cohort."""
        cohort = self._draw()
        if self._durations is None:
            return Turn(cohort)
        seconds = {client_id: duration(self._durations, client_id, number) for client_id in cohort}
        deadline = math.inf if self._deadline is None else self._deadline
        self._clock += min(deadline, max(seconds.values(), default=0.0))
        late = tuple(client_id for client_id in cohort if seconds[client_id] > deadline)
        return Turn(cohort, late, time=self._clock)

    def stepped(self, values: Values) -> None:
        """Nothing depends on it."""

    def saved(self) -> Memory:
        """Return the clock, if there is one. Nothing saved predicts later cohorts."""
        return {} if self._durations is None else {"clock": np.array([self._clock])}

    def resume(self, saved: Memory, rounds: int, values: Values) -> None:
        """Continue from a clock. With a seed, skip the cohorts of the earlier rounds.

        Raises:
            ConfigError: Only one of the two runs, the earlier one or this one, has a clock.
        """
        if set(saved) != set(self.saved()):
            had, has = ("with" if "clock" in names else "without" for names in (saved, self.saved()))
            raise ConfigError(f"the state is of a training {had} durations, this one is {has}")
        self._clock = float(saved["clock"][0]) if saved else 0.0
        if self._seed is not None:
            for _ in range(rounds):
                self._draw()


class Arrivals:
    """Clients train all the time, each from the current model when it begins. A round takes those that are ready.

    Args:
        ids: All clients, ascending.
        buffer_size: Ready clients that make a round.
        concurrency: Clients that train at the same time, as long as there are idle ones.
        maximum_staleness: If the server took more steps while a client trained, the client drops its update and is
            idle again; None: no limit.
        seed: Makes the choice of the next idle client repeatable.
        durations: How long each client trains; None: all take 1.
    """

    by_chance = False

    def __init__(
        self,
        ids: Sequence[int],
        buffer_size: int,
        concurrency: int,
        maximum_staleness: int | None,
        seed: int | None,
        durations: Durations | None,
        values: Values,
    ) -> None:
        self._ids, self._size, self._concurrency, self._most = ids, buffer_size, concurrency, maximum_staleness
        self._seed, self._generator, self._durations = seed, np.random.default_rng(), durations
        self._clock, self._version, self._begun = 0.0, 0, 0
        self._training: list[tuple[float, int, int, int]] = []  # a heap: time ready, order, client, version
        self._models = {0: values}

    def next(self, number: int) -> Turn:
        """Let time pass until enough clients are ready."""
        ready: dict[int, Start] = {}
        while len(ready) < self._size:
            self._begin(number, ready)
            self._clock, _, client_id, version = heapq.heappop(self._training)
            staleness = self._version - version
            if self._most is None or staleness <= self._most:
                ready[client_id] = Start(self._models[version], staleness)
        return Turn(tuple(sorted(ready)), starts=ready, time=self._clock)

    def _begin(self, number: int, ready: Mapping[int, Start]) -> None:
        """Let idle clients begin; the ready ones are waiting for their round."""
        busy = {client_id for _, _, client_id, _ in self._training}
        idle = [client_id for client_id in self._ids if client_id not in busy and client_id not in ready]
        while idle and len(self._training) < self._concurrency:
            chance = self._generator if self._seed is None else np.random.default_rng([self._seed, self._begun])
            client_id = idle.pop(int(chance.integers(len(idle))))
            seconds = 1.0 if self._durations is None else duration(self._durations, client_id, number)
            heapq.heappush(self._training, (self._clock + seconds, self._begun, client_id, self._version))
            self._begun += 1

    def stepped(self, values: Values) -> None:
        """Take the next model, and forget the models from which no client still trains."""
        self._version += 1
        used = {version for *_, version in self._training}
        self._models = {version: model for version, model in self._models.items() if version in used}
        self._models[self._version] = values

    def saved(self) -> Memory:
        """Return the clock, who is training, since when and from which model."""
        rows = [
            (ready, order, client_id >> 32, client_id & 0xFFFFFFFF, version)  # a float64 does not hold 63 bits
            for ready, order, client_id, version in sorted(self._training)
        ]
        return {
            "clock": np.array([self._clock, self._version, self._begun], np.float64),
            "training": np.array(rows, np.float64).reshape(len(rows), 5),
            "versions": np.array(list(self._models), np.float64),
            "models": np.array(list(self._models.values()), np.float64),
        }

    def resume(self, saved: Memory, rounds: int, values: Values) -> None:
        """Continue with the clients that were training.

        Raises:
            ConfigError: These arrays are not from such a run, or name other clients.
        """
        try:
            clock, version, begun = saved["clock"]
            rows, versions, models = saved["training"], saved["versions"], saved["models"]
            training = [
                (float(ready), int(order), (int(high) << 32) | int(low), int(start))
                for ready, order, high, low, start in rows
            ]
            kept = {int(number): model.astype(values.dtype) for number, model in zip(versions, models, strict=True)}
            if models.shape[1:] != values.shape or not {int(version), *(start for *_, start in training)} <= set(kept):
                raise ValueError("models")
        except (KeyError, ValueError) as error:
            raise ConfigError(f"the state does not say who was training: {error}") from None
        if gone := {client_id for _, _, client_id, _ in training} - set(self._ids):
            raise ConfigError(f"clients {sorted(gone)} of the state were training, and are not among the clients")
        self._clock, self._version, self._begun = float(clock), int(version), int(begun)
        self._training, self._models = training, kept
        heapq.heapify(self._training)
