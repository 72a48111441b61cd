"""How the server handles answers of those who decrypt: one key holder, or holders of a threshold key."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError, TooFewSurvivorsError
from secfed.paillier.config import Config
from secfed.paillier.integers import read_column
from secfed.paillier.messages import DecryptionResponse
from secfed.wire import Message, Set

Totals = npt.NDArray[np.unsignedinteger[Any]]


class RefusedError(Exception):
    """A refused message; the caller, which knows the sender, adds its name.

    Attributes:
        check: The number of the check.
    """

    def __init__(self, text: str, check: str) -> None:
        super().__init__(text)
        self.check = check


@dataclass(frozen=True, slots=True)
class SumToOpen:
    """Which sum is decrypted."""

    config: Config
    session_id: bytes
    survivors: Set

    @property
    def additions(self) -> int:
        """Number of vectors in it, counted by weight: the sum of the survivors' weights."""
        return sum(self.config.weight(position) for position in np.flatnonzero(self.survivors).tolist())


class Opening(Protocol):
    """Those who decrypt, as the server sees them."""

    @property
    def holders(self) -> tuple[int, ...]:
        """The numbers of the holders to ask, from 1."""

    def check(self, config: Config) -> None:
        """Check that they can decrypt in this session, the only one for this object.

        Raises:
            ConfigError: Their key has another public key or degree, or the object has served another session.
        """

    def message_bytes(self, config: Config) -> int:
        """Return the length of the longest response."""

    def receive(self, request: SumToOpen, ciphertexts: Sequence[Any], holder_id: int, response: Message) -> None:
        """Take a response: a message of any kind, from one of the holders.

        Raises:
            RefusedError: S3 to S10; nothing has changed.
        """

    def totals(self, request: SumToOpen) -> Totals:
        """Return the slots' totals.

        Raises:
            TooFewSurvivorsError: Too few holders have answered.
            DecryptionError: Their answers do not combine to a sum.
        """


class OneSession:
    """Refuses a second session, which would return the sum of the first."""

    _taken = False

    def take(self) -> None:
        """Begin the session.

        Raises:
            ConfigError: There was an earlier one.
        """
        if self._taken:
            raise ConfigError("an opening serves only one session: needed a new one for this session")
        self._taken = True


class OneKeyHolder(OneSession):
    """One key holder, number 1, with the whole private key."""

    def __init__(self) -> None:
        self._totals: Totals | None = None

    @property
    def holders(self) -> tuple[int, ...]:
        """Number 1."""
        return (1,)

    def check(self, config: Config) -> None:
        """Accept one session of any degree: the private key works for all of them; see `Opening`."""
        self.take()

    def message_bytes(self, config: Config) -> int:
        """Return the length of the longest response."""
        return DecryptionResponse.size(config.packing.plaintexts * config.public_key.plaintext_bytes(config.degree))

    def receive(self, request: SumToOpen, ciphertexts: Sequence[Any], holder_id: int, response: Message) -> None:
        """Take a response; see `Opening`."""
        config = request.config
        if not isinstance(response, DecryptionResponse):  # S3
            raise RefusedError(f"message of kind {response.kind}, needed DecryptionResponse", "S3")
        if self._totals is not None:  # S4
            raise RefusedError("answered twice", "S4")
        if response.session_id != request.session_id:  # S5
            raise RefusedError("the response is for another session or key", "S5")
        size, count = config.public_key.plaintext_bytes(config.degree), config.packing.plaintexts
        if len(response.plaintexts) != size * count:  # S6
            found = len(response.plaintexts)
            raise RefusedError(f"the plaintexts have {found} bytes, {count} of {size} bytes are needed", "S6")
        totals = config.packing.unpack(read_column(response.plaintexts, size), request.additions)
        if totals is None:  # S9
            raise RefusedError("the plaintexts are not a sum of that many vectors", "S9")
        self._totals = totals

    def totals(self, request: SumToOpen) -> Totals:
        """Return the slots' totals; see `Opening`."""
        if self._totals is None:
            raise TooFewSurvivorsError("the key holder has not answered", 0, 1)
        return self._totals


def checked_column(config: Config, data: bytes, name: str = "ciphertext") -> list[Any]:
    """Read a vector's ciphertexts, or their partial decryptions.

    Args:
        config: The session's parameters.
        data: Their column.
        name: Name of one of them in errors.

    Raises:
        RefusedError: S6 to S8: their number, a range, or a common factor with the modulus.
    """
    size, count = config.public_key.ciphertext_bytes(config.degree), config.packing.plaintexts
    if len(data) != size * count:  # S6
        raise RefusedError(f"the {name}s have {len(data)} bytes, {count} of {size} bytes are needed", "S6")
    ciphertexts = read_column(data, size)
    if fault := config.public_key.find_out_of_range(ciphertexts, config.degree):  # S7
        raise RefusedError(fault.replace("ciphertext", name), "S7")
    if fault := config.public_key.find_common_factor(ciphertexts):  # S8
        raise RefusedError(fault.replace("ciphertext", name), "S8")
    return ciphertexts
