"""Check what clients return from local training, one client at a time: one bad client must not end a round."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from secfed.aggregation.prepared import Reject
from secfed.encoding.flatten import Structure, Update, flatten, not_finite, structure, unflatten
from secfed.errors import EncodingError

Model = Update
LocalUpdate = Callable[[Model, Any], tuple[Update, float]]


class Results:
    """Local training of a cohort. Every client trains once, by ascending id, even if its result is not collected.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`. If it raises `EncodingError`, this client is
            rejected; other errors reach the caller.
        model: The model. Each client gets its own copy, so a client cannot change another client's model.
        data: Each client's data by ascending id.
        reject: Called with the id of each client whose result is invalid, and the reason; never with a value.
    """

    def __init__(self, local_update: LocalUpdate, model: Model, data: Mapping[int, Any], reject: Reject) -> None:
        self._local_update, self._data, self.reject = local_update, data, reject
        self._like, self._values = structure(model), flatten(model)
        self._kept: list[tuple[int, Any]] = []
        self.again()

    def again(self) -> None:
        """Start over with the results that were kept. If none were, each client trains again when it is asked."""
        self._waiting = iter(self._kept) if self._kept else self._train()

    def keep_all(self) -> list[float]:
        """Train all clients now, and return the weights of those whose results are valid."""
        self._kept, weights = list(self._waiting), []
        for client_id, result in self._kept:
            if reason := _objection(self._like, result):
                self.reject(client_id, reason)
            else:
                weights.append(result[1])
        self.again()
        return weights

    def of(self, client_id: int) -> tuple[Update, float]:
        """Return one client's update and weight. Call it by ascending id.

        Raises:
            EncodingError: The result is invalid.
        """
        for trained, result in self._waiting:
            reason = _objection(self._like, result)
            if trained == client_id:
                if reason:
                    raise EncodingError(reason)
                update, weight = result
                return update, weight
            if reason:  # this one dropped out
                self.reject(trained, reason)
        raise LookupError(client_id)

    def finish(self) -> None:
        """Train the clients that were not asked for, so that the next round does not depend on who dropped out."""
        for client_id, result in self._waiting:
            if reason := _objection(self._like, result):
                self.reject(client_id, reason)

    def _train(self) -> Iterator[tuple[int, Any]]:
        for client_id, examples in self._data.items():
            yield client_id, self._result(examples)

    def _result(self, examples: Any) -> Any:
        """Train one client. A separate function, so that its update is freed before the next client trains."""
        try:
            return self._local_update(unflatten(self._values, self._like), examples)
        except EncodingError as error:  # treated like an invalid result
            return error


def _objection(like: Structure, result: Any) -> str:
    """Say what is wrong with what a client returned, or nothing ("")."""
    if isinstance(result, EncodingError):
        return str(result)
    if not (isinstance(result, tuple) and len(result) == 2):
        return f"local_update returned {type(result).__name__}, needed (update, weight)"
    update, weight = result
    try:
        difference = like.difference(structure(update), dtypes=False)
        odd = "" if difference else not_finite(update)
    except EncodingError as error:
        return f"the update does not consist of arrays: {error}"
    except ValueError:  # numpy's, of a ragged list
        return "the update does not consist of arrays"
    if difference:
        return f"the update is not shaped like the model: {difference}"
    if odd:
        return odd
    if not (isinstance(weight, int | float | np.integer | np.floating) and math.isfinite(weight)):
        return "the weight is not a finite number"
    return "" if weight > 0 else "the weight is not positive: it has no examples"
