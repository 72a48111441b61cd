"""Training rounds of any algorithm: sample a cohort, train locally, aggregate, step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Required, TypedDict

import numpy as np
import numpy.typing as npt

from secfed.aggregation.aggregate import Aggregate
from secfed.aggregation.aggregator import Aggregator
from secfed.aggregation.cohort import as_mapping
from secfed.aggregation.cohort_sizes import refusal_of_skips
from secfed.aggregation.privacy import Privacy
from secfed.dp.accountant import Accountant
from secfed.dp.checks import check_count
from secfed.dp.events import Adjacency
from secfed.dp.ledger import Ledger
from secfed.encoding.flatten import flatten, structure, unflatten
from secfed.errors import ConfigError, FaultyClientError, TooFewSurvivorsError
from secfed.federated.execution import Execution
from secfed.federated.hooks import Callback, Evaluate, Hooks, Progress
from secfed.federated.report import RoundReport
from secfed.federated.results import LocalUpdate, Model
from secfed.federated.schedule import Attendance, Durations, Sampling, Schedule, Turn
from secfed.federated.spending import Budget, Spending
from secfed.federated.state import Memory, TrainingState, copied
from secfed.secagg.stages import Stage

# Delta if neither the budget nor the ledger gives one.
_DELTA = 1e-5
Dropouts = Callable[[int, tuple[int, ...]], Mapping[int, Stage]]
Values = npt.NDArray[np.float64]  # of a model, all of them in one array of shape (size,)


class TrainingOptions(TypedDict, total=False):
    """What all algorithms take, as keywords: see `secfed.FedAvg`."""

    aggregator: Required[Aggregator]
    privacy: Privacy | None
    budget: Budget | None
    ledger: Ledger | None
    adjacency: Adjacency | None
    accountant: Accountant | None


class Training(ABC):
    """Rounds of a federated algorithm; a subclass defines how the server steps.

    A subclass defines `step`, and `begin` if it keeps something from round to round. Both get the model's values as
    one float64 array, whatever its structure and dtypes; after each step the model is rounded to its own dtypes. They
    see only the released mean, so they do not change what a round spends of a privacy budget.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of the
            model; the update has the model's structure, the weight is the number of examples. If it raises
            `EncodingError`, the client is rejected.
        aggregator: How updates become a mean: `Plain()`, `SecAgg(...)`.
        privacy: `CentralGaussian(...)` or `DistributedGaussian(...)`. All clients then count equally, or by their
            weights up to `weight_cap`, and the sum is divided by the expected size of the cohort. Spending adds up over
            all calls of `rounds`, and an adaptive clip continues from its last value. Under `Plain`, noise is released
            even if the cohort is empty.
        budget: `(epsilon, delta)`: a round that could spend more is refused before anything is drawn.
        ledger: A `dp.Ledger` in which rounds are reserved and committed.
        adjacency: Which data sets `epsilon` compares, see `dp.events`. None takes that of the ledger or accountant, or
            else `"add_remove"`.
        accountant: What was released before. To resume a run, pass the `accountant` of its last report. With a ledger
            you do not need it: everything that the ledger records as spent counts.

    Raises:
        ConfigError: A parameter is out of range, or there is a budget without privacy.
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        aggregator: Aggregator,
        privacy: Privacy | None = None,
        budget: Budget | None = None,
        ledger: Ledger | None = None,
        adjacency: Adjacency | None = None,
        accountant: Accountant | None = None,
    ) -> None:
        if isinstance(aggregator, type):
            name = aggregator.__name__
            raise ConfigError(f"aggregator is the class {name}, needed one of its objects: write {name}(...)")
        if not isinstance(aggregator, Aggregator):
            raise ConfigError(f"aggregator {aggregator!r} must be an aggregator, such as secfed.SecAgg(...)")
        if privacy is None and any(option is not None for option in (budget, ledger, adjacency, accountant)):
            raise ConfigError("a budget, ledger, adjacency or accountant without privacy: nothing would be protected")
        if privacy is not None and not isinstance(privacy, Privacy):
            raise ConfigError(f"privacy {privacy!r:.100} must be CentralGaussian(...) or DistributedGaussian(...)")
        self._local_update = local_update
        self._aggregator = aggregator
        self._privacy = privacy
        self._population = 0
        self._spending = Spending(adjacency, budget, ledger, accountant) if privacy else None
        self._last: tuple[int, Model, Memory] | None = None
        self._schedule: Schedule | None = None

    def begin(self, values: Values) -> Memory:
        """Return what the algorithm keeps from round to round, as it is before the first one.

        Args:
            values: Those of the model, float64 of shape `(size,)`.

        Returns:
            Float64 arrays by name; nothing, if the algorithm keeps nothing.
        """
        return {}

    @abstractmethod
    def step(self, values: Values, mean: Values, memory: Memory) -> tuple[Values, Memory]:
        """Take the server's step; not called in a round that failed.

        Args:
            values: Those of the model, float64 of shape `(size,)`.
            mean: The weighted mean of the updates, in the same form; with privacy, the sum with noise divided by the
                expected weight.
            memory: What `begin` or the last `step` returned.

        Returns:
            The next model's values, and what to keep for the next step, with the same names and shapes.
        """

    def state(self) -> TrainingState:
        """Return a copy of the training's state after the last round that `rounds` yielded.

        Pass it to `rounds` to continue, in this process or, through `TrainingState.to_bytes`, in another one.

        Raises:
            ConfigError: `rounds` has not begun.
        """
        if self._last is None:
            raise ConfigError("found no round, needed one: there is no state before rounds() has begun")
        number, model, memory = self._last
        return TrainingState(
            type(self).__name__,
            number,
            copied(model),
            {name: array.copy() for name, array in memory.items()},
            self._privacy.whole_norm if self._privacy else None,
            self._spending.saved() if self._spending else None,
            self._schedule.saved() if self._schedule else {},
        )

    def rounds(
        self,
        model: Model | TrainingState,
        clients: Sequence[Any] | Mapping[int, Any],
        count: int,
        *,
        sampling_rate: float | None = None,
        cohort_size: int | None = None,
        seed: int | None = None,
        dropouts: Dropouts | None = None,
        durations: Durations | None = None,
        deadline: float | None = None,
        evaluate: Evaluate | None = None,
        callbacks: Sequence[Callback] = (),
        progress: Progress | None = None,
    ) -> Iterator[RoundReport]:
        """Train, round by round.

        Args:
            model: Array, or list or dictionary of arrays. Or a `TrainingState`, to resume from it: with its model, the
                algorithm's memory, round number, clip and accountant.
            clients: Each client's data: a list (ids from 1) or a dictionary by client id, 1 to 2^63.
            count: Number of rounds; after a state, the number of further rounds.
            sampling_rate: Each client joins a round's cohort independently with this probability (Poisson sampling).
            cohort_size: Clients in each round's cohort, drawn uniformly, instead of `sampling_rate`. No cohort is then
                too small for secure aggregation by chance. With neither option, all clients take part.
            seed: Makes the cohorts repeatable. A run resumed from a state repeats them too if it has the same clients,
                sampling and seed. Secrets never come from it. Privacy from sampling needs cohorts that no one can
                predict: leave `seed` out if the data are real.
            dropouts: `dropouts(round, cohort)`: which clients drop out and the first stage they do not answer
                (simulation).
            durations: `durations(client_id, round)`: how long a client trains, in any unit (simulation). Reports then
                have a `time`; a round takes as long as its slowest client.
            deadline: How long a round waits, in the same unit; slower clients are dropouts.
            evaluate: `evaluate(model)`, called after each round: figures by name, for `report.metrics`.
            callbacks: Each is called with every report before `rounds` yields it. To stop early, stop iterating.
            progress: `progress(round, trained, cohort)`, called after each client's local training with the number of
                clients that have trained and the size of the cohort. The count starts over if a client ended a session
                and the others train again. For the stages of a session use `SecAgg(progress=...)`.

        Yields:
            A report for each round. A round with too few survivors leaves the model as it was and says so.

        Raises:
            TooFewSurvivorsError: Every round failed; raised after the last report.
            ConfigError: No clients, a sampling rate outside (0, 1], a cohort size above the number of clients, both of
                them, a negative count, or dropouts that are not a function. The state is from another algorithm, or
                this training does not continue its budget. Or a Poisson cohort that is too small is so likely that it
                would cost more than a tenth of delta (the budget's, else the ledger's, else 1e-5), see
                `docs/accountant.md`, section 2.1.
            EncodingError: The model is invalid, or every client's update is.
            BudgetExceededError: The next round could overspend; nothing of it has been drawn or sent.
        """
        data = dict(clients) if isinstance(clients, Mapping) else dict(enumerate(clients, start=1))
        if not data:
            raise ConfigError("found no client, needed at least one")
        if sampling_rate is not None and cohort_size is not None:
            raise ConfigError(f"found sampling_rate {sampling_rate} and cohort_size {cohort_size}, needed only one")
        if sampling_rate is not None and not 0 < sampling_rate <= 1:
            raise ConfigError(f"sampling_rate {sampling_rate} must be above 0 and at most 1")
        if cohort_size is not None:
            check_count("cohort_size", cohort_size)
            if cohort_size > len(data):
                raise ConfigError(f"cohort_size {cohort_size} must be at most {len(data)}, the number of clients")
        if count < 0:
            raise ConfigError(f"count {count} must not be negative")
        if dropouts is not None and not callable(dropouts):
            raise ConfigError(
                f"found dropouts {dropouts!r:.100}, needed a function of round and cohort that returns a dictionary "
                "from client id to stage"
            )
        start = model if isinstance(model, TrainingState) else None
        if start:
            self._resume(start)
            model = start.model
        structure(model)
        self._population = len(data)
        hooks = Hooks(evaluate, tuple(callbacks), progress)
        if durations is not None and not callable(durations):
            raise ConfigError(f"durations: found {durations!r:.100}, needed a function")
        if deadline is not None:
            if durations is None:
                raise ConfigError(f"deadline {deadline} without durations: no client is ever late")
            check_positive("deadline", deadline)
        asked = Attendance(sampling_rate, cohort_size, seed, durations, deadline)
        if self._privacy:
            self._privacy = self._privacy_among(self._privacy, len(data), asked)
            self._check_skips(model, count)
        values, ids = flatten(model), sorted(data)
        schedule = self._schedule_of(ids, values, asked)
        if start:
            schedule.resume(start.schedule, start.round, values)
        memory = start.memory if start else self.begin(values.astype(np.float64))
        self._last, self._schedule = (start.round if start else 0, model, memory), schedule
        return self._rounds(self._last, data, count, schedule, dropouts, hooks)

    def _privacy_among(self, privacy: Privacy, population: int, asked: Attendance) -> Privacy:
        """Add the sampling of cohorts to the privacy parameters."""
        return replace(privacy, population=population, sampling_rate=asked.rate, cohort_size=asked.cohort_size)

    def _schedule_of(self, ids: Sequence[int], values: npt.NDArray[Any], asked: Attendance) -> Schedule:
        """Decide which clients' updates go into each round."""
        return Sampling(ids, asked)

    def _local_update_of(self, turn: Turn, values: npt.NDArray[Any]) -> LocalUpdate:
        """Return what a client of this turn does, with its id and its data.

        Args:
            turn: The round's clients.
            values: Values of the current model.
        """
        return lambda model, of_client: self._local_update(model, of_client[1])

    def _resume(self, state: TrainingState) -> None:
        """Take over a state's privacy, after checking its algorithm.

        Raises:
            ConfigError: The state is not from a training like this one.
        """
        name = type(self).__name__
        if state.algorithm != name:
            raise ConfigError(f"the state is of {state.algorithm}, this is {name}: start from its model instead")
        needed = {key: array.shape for key, array in self.begin(flatten(state.model).astype(np.float64)).items()}
        found = {key: array.shape for key, array in state.memory.items()}
        if found != needed:
            raise ConfigError(f"the state's memory has shapes {found}, needed {needed} for {name}")
        if (state.clip_norm is None) != (self._privacy is None):
            kinds = "without privacy", "with privacy"
            own, other = kinds[self._privacy is not None], kinds[state.clip_norm is not None]
            raise ConfigError(f"the state is of a training {other}, this one is {own}")
        if self._privacy and self._spending and state.clip_norm is not None:
            self._spending.resume(state.accountant)
            if self._privacy.adaptive:
                self._privacy = replace(self._privacy, clip_norm=state.clip_norm)

    def _rounds(
        self,
        start: tuple[int, Model, Memory],
        data: Mapping[int, Any],
        count: int,
        schedule: Schedule,
        dropouts: Dropouts | None,
        hooks: Hooks,
    ) -> Iterator[RoundReport]:
        first, model, memory = start
        failures: list[TooFewSurvivorsError | FaultyClientError | ConfigError] = []
        memory = {name: array.copy() for name, array in memory.items()}  # a step may change it in place
        for number in range(first + 1, first + count + 1):
            privacy = self._privacy
            turn = schedule.next(number)
            cohort = turn.cohort
            silent = dict.fromkeys(turn.late, Stage.MASKED_INPUT_COLLECTION)
            silent |= as_mapping(dropouts(number, cohort)) if dropouts else {}
            rejected: dict[int, str] = {}
            chosen = {client_id: (client_id, data[client_id]) for client_id in cohort}
            local_update = hooks.watched(self._local_update_of(turn, flatten(model)), number, cohort)
            execution = Execution(local_update, self._aggregator, privacy, self._spending, self._population)
            try:
                aggregate, failure = execution.aggregate(number, model, chosen, silent, rejected), ""
            except (TooFewSurvivorsError, FaultyClientError) as error:
                aggregate, failure = None, str(error)
                failures.append(error)
            except ConfigError as error:
                # A Poisson cohort may be too small for the threshold by chance, and the next one may be large enough.
                # A cohort of all clients, or of a fixed number, always has the same size.
                if not schedule.by_chance or len(cohort) == len(data):
                    raise
                aggregate, failure = None, str(error)
                failures.append(error)
            if aggregate:
                model, memory = self._step(model, aggregate, memory)
                schedule.stepped(flatten(model))
                if privacy and privacy.adaptive and aggregate.within_clip is not None:
                    clip_norm = privacy.adaptive.next(privacy.whole_norm, aggregate.within_clip)
                    self._privacy = replace(privacy, clip_norm=clip_norm)
            self._last = (number, model, memory)
            report = RoundReport(
                number,
                model,
                cohort,
                aggregate.survivors if aggregate else (),
                aggregate,
                failure,
                flatten(model).nbytes,
                aggregate.event if aggregate else None,
                self._spending.accountant() if self._spending else None,
                privacy.whole_norm if privacy else None,
                rejected,
                turn.time,
                turn.late,
                {client_id: begun.staleness for client_id, begun in turn.starts.items()},
                hooks.metrics(model),
            )
            for callback in hooks.callbacks:
                callback(report)
            yield report
        if failures and len(failures) == count:
            raise _all_failed(failures)

    def _step(self, model: Model, aggregate: Aggregate, memory: Memory) -> tuple[Model, Memory]:
        values, mean = flatten(model).astype(np.float64), flatten(aggregate.mean).astype(np.float64)
        stepped: Any = self.step(values, mean, memory)
        name = f"{type(self).__name__}.step"
        if not (isinstance(stepped, tuple) and len(stepped) == 2 and isinstance(stepped[1], dict)):
            raise ConfigError(f"{name} returned {type(stepped).__name__}, needed (values, memory)")
        if np.shape(stepped[0]) != values.shape:
            raise ConfigError(f"{name} returned values of shape {np.shape(stepped[0])}, needed {values.shape}")
        kept = {str(key): np.asarray(array, np.float64) for key, array in stepped[1].items()}
        return unflatten(np.asarray(stepped[0], np.float64), structure(model)), kept

    def _check_skips(self, model: Model, count: int) -> None:
        """Refuse rounds if cohorts that are too small to release anything cost more than a small part of delta.

        Raises:
            ConfigError: They do.
        """
        privacy, spending = self._privacy, self._spending
        if not (privacy and spending and count) or privacy.sampling_rate == 1:
            return
        population = privacy.population or 1
        expected = round(privacy.sampling_rate * population)
        prepared = self._aggregator.prepare(model, range(1, expected + 1), privacy=privacy)
        if refusal := refusal_of_skips(
            prepared.worst_event,
            rounds=count,
            delta=spending.delta or _DELTA,
            cohorts=prepared.cohorts,
            expected=expected,
            population=population,
        ):
            raise ConfigError(refusal)


def _all_failed(failures: Sequence[Exception]) -> TooFewSurvivorsError:
    """Return the error for a run in which every round failed, with the last round's numbers if it has any."""
    count, last = len(failures), failures[-1]
    rounds = "the only round failed" if count == 1 else f"all {count} rounds failed, the last one"
    survivors, threshold = (last.survivors, last.threshold) if isinstance(last, TooFewSurvivorsError) else (0, 1)
    return TooFewSurvivorsError(f"{rounds}: {last}", survivors, threshold)


def check_positive(name: str, number: float) -> float:
    """Return a number that must be positive and finite.

    Raises:
        ConfigError: It is not.
    """
    if not 0 < number < math.inf:
        raise ConfigError(f"{name} {number} must be positive and finite")
    return number


def check_rate(name: str, number: float) -> float:
    """Return a number that must be from 0 to below 1.

    Raises:
        ConfigError: It is not.
    """
    if not 0 <= number < 1:
        raise ConfigError(f"{name} {number} must be at least 0 and below 1")
    return number
