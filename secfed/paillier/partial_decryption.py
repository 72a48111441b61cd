"""How the server handles answers of the holders of shares of a threshold key.

Source: `protocols/paillier/README.md`, sections 8 and 9.
"""

from collections.abc import Sequence
from typing import Any

from secfed.errors import DecryptionError
from secfed.paillier.config import Config
from secfed.paillier.messages import PartialDecryptionResponse
from secfed.paillier.opening import OneSession, RefusedError, SumToOpen, Totals, checked_column
from secfed.paillier.threshold import ThresholdKey
from secfed.wire import Message


class PartialDecryptions(OneSession):
    """The holders' answers in one session, as the server keeps them; see `Opening`.

    Args:
        key: The threshold key.
        threads: Threads that combine them, by default one for each usable core.
    """

    def __init__(self, key: ThresholdKey, threads: int | None = None) -> None:
        self._key, self._threads = key, threads
        self._answered: set[int] = set()
        self._columns: dict[int, list[Any]] = {}  # of the holders with the lowest numbers that have answered

    def __repr__(self) -> str:
        return f"PartialDecryptions({len(self._answered)} of {self._key.holders} holders, needed {self._key.threshold})"

    @property
    def holders(self) -> tuple[int, ...]:
        """The numbers of all holders, each of which is asked."""
        return tuple(range(1, self._key.holders + 1))

    def check(self, config: Config) -> None:
        """Check that a session is under this key; see `Opening`."""
        self._key.check_config(config)
        self.take()

    def message_bytes(self, config: Config) -> int:
        """Return the length of the longest response."""
        return PartialDecryptionResponse.size(config.column_bytes, self._key.response_bytes)

    def receive(self, request: SumToOpen, ciphertexts: Sequence[Any], holder_id: int, response: Message) -> None:
        """Take a response; see `Opening`."""
        if not isinstance(response, PartialDecryptionResponse):  # S3
            raise RefusedError(f"message of kind {response.kind}, needed PartialDecryptionResponse", "S3")
        if holder_id in self._answered:  # S4
            raise RefusedError("answered twice", "S4")
        if response.session_id != request.session_id:  # S5
            raise RefusedError("the response is for another session or key", "S5")
        partials = checked_column(request.config, response.partials, "partial decryption")  # S6 to S8
        proof = (response.challenge, response.response)
        if not self._key.is_proved(holder_id, request.session_id, ciphertexts, partials, *proof):  # S10
            raise RefusedError("the proof of its partial decryptions does not hold", "S10")
        self._answered.add(holder_id)
        self._columns[holder_id] = partials
        if len(self._columns) > self._key.threshold:
            del self._columns[max(self._columns)]

    def totals(self, request: SumToOpen) -> Totals:
        """Return the slots' totals; see `Opening`."""
        totals = request.config.packing.unpack(self._key.combine(self._columns, self._threads), request.additions)
        if totals is None:  # K6
            raise DecryptionError
        return totals
