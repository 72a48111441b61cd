"""What an adversary saw of one session, and nothing else: the input of attacks.

A view is made from a recorded transcript. It holds copies, with no reference to a client, a key or the data.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np

from secfed.attacks.differencing import difference
from secfed.errors import ConfigError

Adversary = Literal["server", "outsider", "key_holder", "clients", "server_and_clients"]


class Recorded(Protocol):
    """What a view needs from a transcript; `secfed.aggregation.Transcript` provides it."""

    @property
    def protection(self) -> str:
        """What protected the updates from the server."""

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum."""

    @property
    def key_holders(self) -> int:
        """How many parties, other than clients and server, took part in decrypting the sum."""

    @property
    def weight(self) -> float:
        """What the sum is divided by to give the mean."""

    def readable(self, client_id: int) -> Any:
        """Return a client's input as the server can read it, with the structure of an update."""

    def readable_mean(self) -> Any:
        """Return the mean that the server gets, before it adds its own noise."""


@dataclass(frozen=True)
class View:
    """What one adversary saw. All adversaries are honest but curious: they follow the protocol.

    Attributes:
        adversary: `"server"`; `"outsider"`, who reads the traffic between the server and all others; `"key_holder"`,
            who decrypts the sum; `"clients"`, some that work together; or `"server_and_clients"`.
        protection: `"plain"`, `"secagg"` or `"paillier"`.
        clients: Ids of the clients in the mean.
        inputs: Clients' inputs by id as the adversary can read them, with the structure of an update; with protection
            they look like noise. Clients that work together know their own.
        mean: The mean that the adversary gets; None if it sees none. For clients that work together, the mean of the
            others.
    """

    adversary: Adversary
    protection: str
    clients: tuple[int, ...]
    inputs: Mapping[int, Any] = field(repr=False)
    mean: Any = field(repr=False)

    @classmethod
    def of_server(cls, transcript: Recorded | None) -> "View":
        """Return what the server saw.

        Args:
            transcript: Of `aggregate(..., record=True)`.

        Raises:
            ConfigError: There is no transcript.
        """
        recorded = _checked(transcript)
        inputs = {client_id: recorded.readable(client_id) for client_id in recorded.survivors}
        return cls("server", recorded.protection, recorded.survivors, inputs, recorded.readable_mean())

    @classmethod
    def of_outsider(cls, transcript: Recorded | None) -> "View":
        """Return what someone saw who reads unencrypted traffic.

        That is what the server saw, because everything that the server computes follows from messages. With TLS, an
        outsider sees only sizes and times.

        Args:
            transcript: A `Transcript`, as `record=True` keeps it.

        Raises:
            ConfigError: There is no transcript.
        """
        return replace(cls.of_server(transcript), adversary="outsider")

    @classmethod
    def of_key_holder(cls, transcript: Recorded | None) -> "View":
        """Return what the key holder saw: the sum that it decrypts, and no message of a client.

        One of several holders of a threshold key sees only ciphertexts, so `mean` is None.

        Args:
            transcript: A `Transcript`, as `record=True` keeps it.

        Raises:
            ConfigError: There is no transcript, or the session had no key holder.
        """
        recorded = _checked(transcript)
        if not recorded.key_holders:
            raise ConfigError(f"a session of {recorded.protection} has no key holder: needed one of paillier")
        mean = recorded.readable_mean() if recorded.key_holders == 1 else None
        return cls("key_holder", recorded.protection, recorded.survivors, {}, mean)

    @classmethod
    def of_clients(
        cls,
        transcript: Recorded | None,
        updates: Mapping[int, Any],
        weights: Mapping[int, float] | None = None,
        *,
        released: Any = None,
    ) -> "View":
        """Return what colluding clients see, alone or with the server.

        They subtract their own updates from the mean. Secure aggregation on a k-regular graph reveals more if the
        server works with all `neighbors` of a client; `secagg.parameters` chooses the graph so that this happens to no
        client, and this view does not include it.

        Args:
            transcript: Of `aggregate(..., record=True)`.
            updates: Their own updates by id, dictionaries of arrays, as they sent them (clipped, with privacy). Their
                shares of the noise are not subtracted.
            weights: Their weights by id; None: 1 each, as with privacy.
            released: The mean that clients receive; None: the server works with them, so they see what it saw.

        Raises:
            ConfigError: There is no transcript, a client is not in the sum or is alone in it, or weights do not match.
        """
        server = cls.of_server(transcript)
        recorded = _checked(transcript)
        own = dict.fromkeys(updates, 1.0) if weights is None else dict(weights)
        if not updates or updates.keys() - set(server.clients):
            raise ConfigError(f"found updates of clients {sorted(updates)[:5]}: needed some of {server.clients[:5]}...")
        if own.keys() != updates.keys():
            raise ConfigError(f"clients {sorted(own.keys() ^ updates.keys())[:5]} have an update or a weight, not both")
        others = tuple(client_id for client_id in server.clients if client_id not in updates)
        if not others:
            raise ConfigError("all clients of the sum work together: needed at least one that does not")
        seen, weight = server.mean if released is None else released, sum(own.values())
        for client_id, update in updates.items():
            if not isinstance(update, Mapping) or update.keys() != seen.keys():
                raise ConfigError(f"the update of client {client_id} must be a dictionary with the arrays of the mean")
        mean = {
            name: sum(own[client_id] * np.asarray(update[name], np.float64) for client_id, update in updates.items())
            / weight
            for name in seen
        }
        others_mean = difference(seen, recorded.weight, mean, weight)
        inputs = (dict(server.inputs) if released is None else {}) | deepcopy(dict(updates))
        adversary: Adversary = "server_and_clients" if released is None else "clients"
        return cls(adversary, server.protection, others, inputs, others_mean)


def _checked(transcript: Recorded | None) -> Recorded:
    if transcript is None:
        raise ConfigError("found no transcript: ask for one with aggregate(..., record=True)")
    return transcript
