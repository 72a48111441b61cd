"""Channels add vectors, in the clear or by secure aggregation. They ask for one vector at a time and keep none."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from secfed.aggregation.cohort import arrived, positions
from secfed.aggregation.weighted_mean import WeightedValues
from secfed.crypto.ring import narrowest_dtype
from secfed.errors import ConfigError, FaultyClientError, FaultyServerError, TooFewSurvivorsError
from secfed.paillier import Config as PaillierConfig
from secfed.secagg.config import Config, Policy
from secfed.secagg.session import Progress, run_session
from secfed.secagg.stages import Stage

Protection = Literal["plain", "secagg", "paillier"]
# Called with every message that the server sees: stage, direction, client id (or number of a key holder), bytes.
Observer = Callable[[Any, Any, int, bytes], None]
# Returns a client's vector; None makes the client drop out.
VectorOf = Callable[[int], Any]


@dataclass(frozen=True, slots=True)
class Total:
    """What came out of a channel.

    Attributes:
        vector: The survivors' sum.
        survivors: Ids of the clients in the sum.
        dropouts: Ids of the others.
        bytes_up: Bytes that each client sent, by id.
        bytes_down: Bytes that each client received, by id.
        seconds: Wall time of each stage, all parties together.
    """

    vector: npt.NDArray[Any]
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]
    bytes_up: dict[int, int]
    bytes_down: dict[int, int]
    seconds: Mapping[Any, float]


class Channel(Protocol):
    """The contract of every protection: vectors go in, and their sum comes out with the survivors."""

    @property
    def protection(self) -> Protection:
        """Its name in a transcript."""

    @property
    def config(self) -> Config | PaillierConfig | None:
        """The parameters of the session; None without a protocol.

        Raises:
            ConfigError: These clients cannot run a session.
        """

    def sum(self, vector_of: VectorOf, silent: Mapping[int, Stage], observer: Observer | None) -> Total:
        """Add the vectors of the clients that do not drop out.

        Args:
            vector_of: Called once for each client whose input is collected, by ascending id.
            silent: Clients that drop out, and the first stage that they do not answer.
            observer: Called with every message that the server sees: stage, direction, client id, bytes.

        Raises:
            ConfigError: These clients cannot run a session.
            TooFewSurvivorsError: Too many dropouts.
        """


@dataclass(frozen=True)
class InTheClear:
    """Vectors as they are: the server sees each of them.

    Args:
        clients: Ids, ascending.
        length: Entries of the sum.
        modulus_bits: Bits of an entry; 0: each client sends `WeightedValues`, and the sum is that of the weighted
            values in float64, then the sum of the weights.
    """

    clients: tuple[int, ...]
    length: int
    modulus_bits: int
    protection: Protection = "plain"
    config: Config | None = None

    def sum(self, vector_of: VectorOf, silent: Mapping[int, Stage], observer: Observer | None) -> Total:
        """Add the vectors; see `Channel`."""
        floats = not self.modulus_bits
        total: npt.NDArray[Any] = np.zeros(self.length, np.float64 if floats else np.uint64)
        sent = dict.fromkeys(self.clients, 0)
        weights = {}
        for client_id in arrived(self.clients, silent):
            vector = vector_of(client_id)
            if vector is None:
                continue
            if floats:
                total[:-1] += vector.values.astype(np.float64) * vector.weight
            else:
                total += vector
            weights[client_id] = vector.weight if floats else 1
            sent[client_id] = vector.nbytes
            if observer:
                observer(Stage.MASKED_INPUT_COLLECTION, "to_server", client_id, _to_bytes(vector))
        if floats:
            total[-1] = math.fsum(weights.values())
        else:
            total = (total & np.uint64((1 << self.modulus_bits) - 1)).astype(narrowest_dtype(self.modulus_bits))
        dropouts = tuple(client_id for client_id in self.clients if client_id not in weights)
        return Total(total, tuple(weights), dropouts, sent, dict.fromkeys(self.clients, 0), {})


def _to_bytes(vector: Any) -> bytes:
    if isinstance(vector, WeightedValues):
        return vector.to_bytes()
    data: bytes = vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
    return data


@dataclass(frozen=True)
class SecureAggregation:
    """A session of secure aggregation in one process: the server sees masked vectors and their sum.

    The session knows clients by their positions from 1, by ascending id, because its ids are coordinates of a small
    field.

    Args:
        clients: Ids, ascending.
        make_config: Returns the session's parameters for the clients' positions.
        policy: What every client requires.
        fewest: Fewest survivors that every client requires before it helps to unmask: fewer bring too little noise.
        progress: Called as in `secagg.run_session`.
    """

    clients: tuple[int, ...]
    make_config: Callable[[Iterable[int]], Config]
    policy: Policy
    fewest: int = 0
    progress: Progress | None = field(default=None, repr=False)
    protection: Protection = "secagg"

    @cached_property
    def config(self) -> Config:
        """The session's parameters; see `Channel`."""
        return self.make_config(range(1, len(self.clients) + 1))

    def sum(self, vector_of: VectorOf, silent: Mapping[int, Stage], observer: Observer | None) -> Total:
        """Run one session with fresh keys; see `Channel`.

        Raises:
            ConfigError: These clients cannot run a session, or the policy does not allow it.
            FaultyClientError: A client ended the session.
            TooFewSurvivorsError: Too few clients are left, or fewer than the policy and the noise need.
        """
        ids, position_of = self.clients, positions(self.clients)
        if len(ids) < self.fewest:
            raise TooFewSurvivorsError(
                f"the cohort has {len(ids)} clients, needed {self.fewest} for enough noise", len(ids), self.fewest
            )
        if objection := self.policy.objection(self.config):  # no server is at fault: the caller wrote both
            raise ConfigError(f"the policy of this aggregator does not allow this session: {objection}")
        policy = self.policy.for_cohorts_of(self.fewest)
        refused = 0

        def vector_at(position: int) -> Any:
            nonlocal refused
            vector = vector_of(ids[position - 1])
            refused += vector is None
            return vector

        try:
            result = run_session(
                self.config,
                vector_at,
                dropouts={position_of[client_id]: stage for client_id, stage in silent.items()},
                policy=policy,
                progress=self.progress,
                observer=observer
                and (lambda stage, direction, position, data: observer(stage, direction, ids[position - 1], data)),
            )
        except FaultyClientError as error:
            client_id = ids[error.client_id - 1]
            text = f"client {client_id}, number {error.client_id} of the session, ended it: {error.args[0]}"
            raise FaultyClientError(text, client_id, error.check) from None
        except FaultyServerError as error:
            count = len(arrived(ids, silent)) - refused
            if error.check in ("C9", "C11", "C17") and count < policy.minimum_cohort:
                least = policy.minimum_cohort
                why = "would bring too little noise" if count < self.fewest else "are fewer than the policy allows"
                text = f"{count} survivors {why}, needed {least}: the clients did not unmask"
                raise TooFewSurvivorsError(text, count, least) from None
            raise
        return Total(
            result.sum,
            tuple(ids[position - 1] for position in result.survivors),
            tuple(ids[position - 1] for position in result.dropouts),
            {ids[position - 1]: sent for position, sent in result.bytes_up.items()},
            {ids[position - 1]: sent for position, sent in result.bytes_down.items()},
            result.seconds,
        )
