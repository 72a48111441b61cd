"""The training round, whatever the algorithm: sample a cohort, train locally, aggregate, step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secfed.aggregation.aggregators import Aggregate, Aggregator
from secfed.encoding.flatten import Update, flatten, model_hash, structure, unflatten
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.secagg.stages import Stage

Model = Update
LocalUpdate = Callable[[Model, Any], tuple[Update, float]]
Dropouts = Callable[[int, tuple[int, ...]], Mapping[int, Stage]]


@dataclass(frozen=True, slots=True)
class RoundReport:
    """One training round.

    Attributes:
        number: From 1.
        model: The model after the round.
        cohort: Ids of the clients that were sampled.
        survivors: Ids of those whose update is in the mean; empty if the round failed.
        aggregate: What the aggregator gave; None if the round failed.
        failure: Why there is no aggregate ("" if there is one): too few survivors, or too small a cohort. The model is
            then as before.
        model_bytes: Size of the model that each client of the cohort was sent.
    """

    number: int
    model: Model = field(repr=False)
    cohort: tuple[int, ...]
    survivors: tuple[int, ...]
    aggregate: Aggregate | None = field(repr=False)
    failure: str
    model_bytes: int


class Training(ABC):
    """Rounds of a federated algorithm; a subclass says how the server steps.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`: trains on one client's data from a copy of the
            model; the update has the model's structure, the weight is the number of examples.
        aggregator: How updates become a mean: `Plain()`, `SecAgg(...)`.
    """

    def __init__(self, local_update: LocalUpdate, *, aggregator: Aggregator) -> None:
        if not hasattr(aggregator, "aggregate"):
            raise ConfigError(f"aggregator {aggregator!r} must be an aggregator, such as secfed.SecAgg(...)")
        self._local_update = local_update
        self._aggregator = aggregator

    @abstractmethod
    def step(self, model: Model, mean: Update) -> Model:
        """Return the next model from the weighted mean of the updates."""

    def rounds(
        self,
        model: Model,
        clients: Sequence[Any] | Mapping[int, Any],
        count: int,
        *,
        sampling_rate: float = 1.0,
        seed: int | None = None,
        dropouts: Dropouts | None = None,
    ) -> Iterator[RoundReport]:
        """Train, round by round.

        Args:
            model: Array, or list or dictionary of arrays.
            clients: Each client's data: a list (ids from 1) or a dictionary by client id.
            count: Number of rounds.
            sampling_rate: Each client joins a round's cohort independently with this probability (Poisson sampling).
            seed: Makes the cohorts repeatable; secrets never come from it.
            dropouts: `dropouts(round, cohort)`: which clients fall silent and the first stage they do not answer
                (simulation).

        Yields:
            A report for each round. A round with too few survivors leaves the model as it was and says so.

        Raises:
            ConfigError: No clients, a sampling rate outside (0, 1], a negative count.
            EncodingError: The model or an update does not fit.
        """
        data = dict(clients) if isinstance(clients, Mapping) else dict(enumerate(clients, start=1))
        if not data:
            raise ConfigError("found no client, needed at least one")
        if not 0 < sampling_rate <= 1:
            raise ConfigError(f"sampling_rate {sampling_rate} must be above 0 and at most 1")
        if count < 0:
            raise ConfigError(f"count {count} must not be negative")
        structure(model)
        generator = np.random.default_rng(seed)
        return self._rounds(model, data, count, sampling_rate, generator, dropouts)

    def _rounds(
        self,
        model: Model,
        data: Mapping[int, Any],
        count: int,
        sampling_rate: float,
        generator: np.random.Generator,
        dropouts: Dropouts | None,
    ) -> Iterator[RoundReport]:
        for number in range(1, count + 1):
            chosen = generator.random(len(data)) < sampling_rate
            cohort = tuple(client_id for client_id, joins in zip(sorted(data), chosen, strict=True) if joins)
            silent = dropouts(number, cohort) if dropouts else {}
            try:
                aggregate, failure = self._aggregate(number, model, {id_: data[id_] for id_ in cohort}, silent), ""
            except TooFewSurvivorsError as error:
                aggregate, failure = None, str(error)
            except ConfigError as error:
                # A sampled cohort may be too small for the threshold by chance, and the next one may do; all clients
                # are no matter of chance.
                if len(cohort) == len(data):
                    raise
                aggregate, failure = None, str(error)
            if aggregate:
                model = self.step(model, aggregate.mean)
            survivors = aggregate.survivors if aggregate else ()
            yield RoundReport(number, model, cohort, survivors, aggregate, failure, flatten(model).nbytes)

    def _aggregate(self, number: int, model: Model, data: Mapping[int, Any], silent: Mapping[int, Stage]) -> Aggregate:
        if not data:
            raise TooFewSurvivorsError("the cohort is empty", 0, 1)
        like, values = structure(model), flatten(model)
        updates, weights = {}, {}
        for client_id, examples in data.items():
            own_copy = unflatten(values, like)  # whatever it does to its copy, the others do not see
            returned = self._local_update(own_copy, examples)
            if not (isinstance(returned, tuple) and len(returned) == 2):
                found = type(returned).__name__
                raise EncodingError(f"client {client_id}: local_update returned {found}, needed (update, weight)")
            updates[client_id], weights[client_id] = returned
            if difference := like.difference(structure(updates[client_id]), dtypes=False):
                raise EncodingError(f"client {client_id}: the update is not shaped like the model: {difference}")
        return self._aggregator.aggregate(updates, weights, dropouts=silent, round=number, model_hash=model_hash(model))
