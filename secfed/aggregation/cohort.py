"""Converts the arguments of an aggregator's callers to one form and checks them."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from secfed.encoding.flatten import Update
from secfed.errors import ConfigError, EncodingError
from secfed.secagg.stages import Stage

Updates = Sequence[Update] | Mapping[int, Update]
Weights = Sequence[float] | Mapping[int, float] | None
LARGEST_ID = 1 << 63


class ClientEncodingError(EncodingError):
    """One client's update or weight does not fit; nothing has been sent.

    Attributes:
        client_id: The client.
    """

    def __init__(self, client_id: int, text: str) -> None:
        super().__init__(f"client {client_id}: {text}")
        self.client_id = client_id


def by_client(
    updates: Updates, weights: Weights, *, or_nobody: bool = False
) -> tuple[dict[int, Update], dict[int, Any]]:
    """Bring updates and weights to one form: by client id, ascending.

    Args:
        updates: One update per client: a list (ids from 1) or a dictionary by client id.
        weights: One weight per client, in the same form; by default all 1.
        or_nobody: Whether there may be no client at all.

    Raises:
        EncodingError: There is no update, or weights are missing, unexpected, or not positive finite numbers. The text
            shows no weight, because weights are secret.
    """
    by_id = dict(updates) if isinstance(updates, Mapping) else dict(enumerate(updates, start=1))
    if not by_id and not or_nobody:
        raise EncodingError("found no update, needed at least one")
    if weights is None:
        weight_of: dict[int, Any] = dict.fromkeys(by_id, 1)
    elif isinstance(weights, Mapping):
        weight_of = dict(weights)
    else:
        if not hasattr(weights, "__len__"):
            raise EncodingError(
                f"weights are of type {type(weights).__name__}, needed a list or a dictionary by client id"
            )
        if len(weights) != len(by_id):
            raise EncodingError(f"{len(weights)} weights for {len(by_id)} updates")
        weight_of = dict(zip(by_id, weights, strict=True))
    if odd := set(weight_of) ^ set(by_id):
        raise EncodingError(f"clients {sorted(odd)[:5]} have an update or a weight, but not both")
    for client_id, weight in weight_of.items():
        try:
            fits = math.isfinite(weight) and weight > 0
        except (TypeError, ValueError):
            found = type(weight).__name__
            raise ClientEncodingError(client_id, f"the weight is of type {found}, needed a number") from None
        except OverflowError:
            fits = False
        if not fits:
            raise ClientEncodingError(client_id, "the weight must be positive and finite")
    return {client_id: by_id[client_id] for client_id in sorted(by_id)}, weight_of


def checked_dropouts(client_ids: Collection[int], dropouts: Mapping[int, Stage] | None) -> dict[int, Stage]:
    """Return a copy of the dropouts.

    Raises:
        ConfigError: A dropout is not a client, or its stage is not a `Stage`.
    """
    silent = dict(as_mapping(dropouts))
    if odd := [stage for stage in silent.values() if not isinstance(stage, Stage)]:
        raise ConfigError(f"dropouts must lead from a client id to a secagg.Stage, found {odd[0]!r}")
    if unknown := set(silent) - set(client_ids):
        raise ConfigError(f"dropouts {sorted(unknown)[:5]} are not among the {len(client_ids)} clients")
    return silent


def as_mapping(dropouts: Any) -> Mapping[int, Stage]:
    """Return the dropouts; None means that no client drops out.

    Raises:
        ConfigError: They are not a mapping.
    """
    if dropouts is not None and not isinstance(dropouts, Mapping):
        raise ConfigError(
            f"found dropouts {dropouts!r:.100}, needed a dictionary from client id to stage, such as "
            "{3: Stage.UNMASKING}"
        )
    return dropouts or {}


def positions(client_ids: Iterable[int]) -> dict[int, int]:
    """Return each client's position among all, from 1, by ascending id.

    Raises:
        ConfigError: An id is not a whole number from 1 to 2^63, or occurs twice.
    """
    ids = list(client_ids)  # a generator gives them only once
    for client_id in ids:
        if not (isinstance(client_id, int | np.integer) and 1 <= client_id <= LARGEST_ID):
            raise ConfigError(f"found client id {client_id!r:.100}, needed client ids from 1 to 2^63")
    found = {client_id: position for position, client_id in enumerate(sorted(ids), start=1)}
    if len(found) < len(ids):
        raise ConfigError(f"found {len(ids)} client ids, {len(found)} of them different: needed each id once")
    return found


def arrived(client_ids: Iterable[int], silent: Mapping[int, Stage]) -> list[int]:
    """Return the clients whose input arrives."""
    return [client_id for client_id in client_ids if silent.get(client_id, Stage.DONE) > Stage.MASKED_INPUT_COLLECTION]


def power_of_two_above(weights: Weights) -> int:
    """Return the next power of two above the largest weight.

    Raises:
        ConfigError: There are no weights.
    """
    if not weights:
        raise ConfigError(
            "max_weight is None, so it follows from the weights of the cohort: needed weights, or a max_weight"
        )
    largest = max(weights.values() if isinstance(weights, Mapping) else weights)
    return 1 << (math.ceil(largest) - 1).bit_length()
