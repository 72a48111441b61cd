"""What clients return from local training, checked: one bad client must not end a round."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from secfed.encoding.flatten import Structure, Update, flatten, structure, unflatten
from secfed.errors import EncodingError


def checked_results(
    like: Structure, results: Mapping[int, Any], rejected: dict[int, str]
) -> tuple[dict[int, Update], dict[int, float]]:
    """Check what every client returned.

    Args:
        like: The model's structure.
        results: What each client returned, by id.
        rejected: Takes the clients whose result does not fit, with the reason; never with a value.

    Returns:
        Updates, all alike, and weights; zeros and 1 for those that were rejected, who must drop out.
    """
    for client_id, result in results.items():
        if reason := _objection(like, result):
            rejected[client_id] = reason
    kinds = {id_: structure(update).dtypes for id_, (update, _) in _without(results, rejected)}
    needed = like
    if kinds:
        # One client must not decide for all: the dtypes that most have are those that are needed.
        [(dtypes, _)] = Counter(kinds.values()).most_common(1)
        needed = Structure(like.paths, like.shapes, dtypes, like.example)
        for client_id, found in kinds.items():
            if found != dtypes:
                rejected[client_id] = "the update's dtypes are not those of most clients"
    nothing = unflatten(np.zeros(needed.size), needed)
    updates: dict[int, Update] = dict.fromkeys(results, nothing)
    weights: dict[int, float] = dict.fromkeys(results, 1)
    for client_id, (update, weight) in _without(results, rejected):
        updates[client_id], weights[client_id] = update, weight
    return updates, weights


def blank(update: Update) -> Update:
    """Return an update of the same structure that is zero."""
    like = structure(update)
    return unflatten(np.zeros(like.size), like)


def _without(results: Mapping[int, Any], rejected: Mapping[int, str]) -> list[tuple[int, Any]]:
    return [(client_id, result) for client_id, result in results.items() if client_id not in rejected]


def _objection(like: Structure, result: Any) -> str:
    """Say what is wrong with what a client returned, or nothing ("")."""
    if not (isinstance(result, tuple) and len(result) == 2):
        return f"local_update returned {type(result).__name__}, needed (update, weight)"
    update, weight = result
    try:
        difference = like.difference(structure(update), dtypes=False)
        finite = not difference and bool(np.isfinite(flatten(update)).all())
    except EncodingError as error:
        return f"the update holds something else than arrays: {error}"
    except ValueError:  # numpy's, of a ragged list
        return "the update holds something else than arrays"
    if difference:
        return f"the update is not shaped like the model: {difference}"
    if not finite:
        return "the update holds a value that is not finite"
    if not (isinstance(weight, int | float | np.integer | np.floating) and math.isfinite(weight)):
        return "the weight is not a finite number"
    return "" if weight > 0 else "the weight is not positive: it has no examples"
