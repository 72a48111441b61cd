"""What clients return from local training, one at a time and checked: one bad client must not end a round."""

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
    """Local training of a cohort: every client is trained once, by ascending id, also if its result is not collected.

    Args:
        local_update: `local_update(model, data) -> (update, weight)`. An `EncodingError` that it raises is the reason
            to reject this client; other errors are the caller's.
        model: The model; each client gets its own copy, so whatever one does to it, the others do not see.
        data: Each client's data by ascending id.
        reject: Called with the id of each client whose result does not fit, and the reason; never with a value.
    """

    def __init__(self, local_update: LocalUpdate, model: Model, data: Mapping[int, Any], reject: Reject) -> None:
        self._local_update, self._data, self.reject = local_update, data, reject
        self._like, self._values = structure(model), flatten(model)
        self._kept: list[tuple[int, Any]] = []
        self.again()

    def again(self) -> None:
        """Start over: with the results that were kept, else each client trains again when it is asked."""
        self._waiting = iter(self._kept) if self._kept else self._train()

    def keep_all(self) -> list[float]:
        """Train all clients now, and return the weights of those whose results fit."""
        self._kept, weights = list(self._waiting), []
        for client_id, result in self._kept:
            if reason := _objection(self._like, result):
                self.reject(client_id, reason)
            else:
                weights.append(result[1])
        self.again()
        return weights

    def of(self, client_id: int) -> tuple[Update, float]:
        """Return one client's update and weight; to be asked by ascending id.

        Raises:
            EncodingError: They do not fit.
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
        """Train one client; in a function of its own, so that nothing holds its update while the next one trains."""
        try:
            return self._local_update(unflatten(self._values, self._like), examples)
        except EncodingError as error:  # as good as a result that does not fit
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
        return f"the update holds something else than arrays: {error}"
    except ValueError:  # numpy's, of a ragged list
        return "the update holds something else than arrays"
    if difference:
        return f"the update is not shaped like the model: {difference}"
    if odd:
        return odd
    if not (isinstance(weight, int | float | np.integer | np.floating) and math.isfinite(weight)):
        return "the weight is not a finite number"
    return "" if weight > 0 else "the weight is not positive: it has no examples"
