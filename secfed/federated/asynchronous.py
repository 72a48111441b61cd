"""Asynchronous training: clients train all the time, and the server steps when enough of them are ready."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from secfed.aggregation.privacy import Privacy
from secfed.dp.checks import check_count
from secfed.encoding.flatten import flatten, structure, unflatten
from secfed.errors import ConfigError, EncodingError
from secfed.federated.results import LocalUpdate, Model
from secfed.federated.schedule import Arrivals, Attendance, Schedule, Turn
from secfed.federated.training import Training, TrainingOptions, Values


class Asynchronous(Training):
    """What FedBuff and FedAsync have in common.

    Args:
        local_update: Trains on one client's data from the model that was there when the client began.
        buffer_size: Ready clients that make a round.
        concurrency: Clients that train at the same time.
        staleness_exponent: The staleness weight is `(1 + staleness) ** -staleness_exponent`.
        maximum_staleness: A client drops its update if the server took more steps while it trained; None: no limit.
        options: `aggregator`, `privacy`, `budget`, `ledger`, `adjacency` and `accountant`.
    """

    def __init__(
        self,
        local_update: LocalUpdate,
        *,
        buffer_size: int,
        concurrency: int,
        staleness_exponent: float,
        maximum_staleness: int | None,
        **options: Unpack[TrainingOptions],
    ) -> None:
        super().__init__(local_update, **options)
        check_count("buffer_size", buffer_size)
        check_count("concurrency", concurrency)
        if not 0 <= staleness_exponent < np.inf:
            raise ConfigError(f"staleness_exponent {staleness_exponent} must be a finite number from 0")
        if maximum_staleness is not None and maximum_staleness < 0:
            raise ConfigError(f"maximum_staleness {maximum_staleness} must not be negative")
        self._buffer_size, self._concurrency = buffer_size, concurrency
        self._exponent, self._most = staleness_exponent, maximum_staleness
        if self._spending and (adjacency := self._spending.accountant().adjacency) != "replace":
            raise ConfigError(
                f'{type(self).__name__} with privacy needs adjacency="replace", found {adjacency!r}: if a client is '
                "missing, others take its place, so two sums can differ by more than one update"
            )

    @abstractmethod
    def fold(self, update: Values, start: Values, values: Values, weight: float) -> Values:
        """Adapt a client's update to the current model.

        Args:
            update: The client's update, a float64 array of shape `(size,)`, like `start` and `values`.
            start: Values of the model from which the client began to train.
            values: Values of the current model.
            weight: The staleness weight, at most 1.
        """

    def _privacy_among(self, privacy: Privacy, population: int, asked: Attendance) -> Privacy:
        """Count no privacy from sampling: the server knows which clients are ready."""
        return replace(privacy, population=None, sampling_rate=1.0, cohort_size=None)

    def _schedule_of(self, ids: Sequence[int], values: npt.NDArray[Any], asked: Attendance) -> Schedule:
        """Take clients in the order in which they are ready.

        Raises:
            ConfigError: There are fewer clients than the buffer holds, or an option has no effect here.
        """
        name = type(self).__name__
        for option in ("sampling_rate", "cohort_size", "deadline"):
            if (given := getattr(asked, option)) is not None:
                raise ConfigError(f"found {option} {given}: {name} takes the clients that are ready first")
        if len(ids) < self._buffer_size:
            raise ConfigError(f"found {len(ids)} clients, needed at least buffer_size {self._buffer_size}")
        return Arrivals(ids, self._buffer_size, self._concurrency, self._most, asked.seed, asked.durations, values)

    def _local_update_of(self, turn: Turn, values: npt.NDArray[Any]) -> LocalUpdate:
        """Return what a client of this turn does: train from its own start, then fold."""
        now = values.astype(np.float64)

        def local_update(model: Model, of_client: Any) -> Any:
            client_id, data = of_client
            begun, like = turn.starts[client_id], structure(model)
            result: Any = self._local_update(unflatten(begun.values, like), data)
            if not (isinstance(result, tuple) and len(result) == 2):
                return result  # `Results` rejects it
            try:
                if like.difference(structure(result[0]), dtypes=False):
                    return result
                update = flatten(result[0]).astype(np.float64)
            except (EncodingError, ValueError):
                return result
            weight = (1 + begun.staleness) ** -self._exponent
            folded = self.fold(update, begun.values.astype(np.float64), now, weight)
            return unflatten(folded, structure(result[0])), result[1]

        return local_update
