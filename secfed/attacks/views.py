"""What an adversary saw of one session, and nothing else: what attacks are given.

A view is made from a recorded transcript. It holds copies, no reference to a client, a key or the data.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from secfed.errors import ConfigError

Adversary = Literal["server"]


class Recorded(Protocol):
    """What a view needs of a transcript; `secfed.aggregation.Transcript` has it."""

    @property
    def protection(self) -> str:
        """What lay between the server and the updates."""

    @property
    def survivors(self) -> tuple[int, ...]:
        """Ids of the clients in the sum."""

    def readable(self, client_id: int) -> Any:
        """Return a client's input as the server reads it, with the structure of an update."""

    def readable_mean(self) -> Any:
        """Return the mean that the server ends with, before it adds noise of its own."""


@dataclass(frozen=True)
class View:
    """What one adversary saw.

    Attributes:
        adversary: `"server"`: honest, and curious.
        protection: `"plain"`, `"secagg"` or `"paillier"`.
        clients: Ids of the clients whose input it received.
        inputs: Each client's input as the adversary reads it, with the structure of an update; under a protection,
            what looks like noise.
        mean: The mean that it ends with.
    """

    adversary: Adversary
    protection: str
    clients: tuple[int, ...]
    inputs: Mapping[int, Any] = field(repr=False)
    mean: Any = field(repr=False)

    @classmethod
    def of_server(cls, transcript: Recorded | None) -> "View":
        """Return what an honest server saw.

        Args:
            transcript: Of `aggregate(..., record=True)`.

        Raises:
            ConfigError: There is no transcript.
        """
        if transcript is None:
            raise ConfigError("found no transcript: ask for one with aggregate(..., record=True)")
        inputs = {client_id: transcript.readable(client_id) for client_id in transcript.survivors}
        return cls("server", transcript.protection, transcript.survivors, inputs, transcript.readable_mean())
