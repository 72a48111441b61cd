"""What every transform does: the client's half turns an update into a vector, the server's half the sum into a mean.

Both halves are one object, public and the same for all parties of a sum. Between them stands a channel, which only
adds.
"""

from __future__ import annotations  # so a client does not load modules that only annotations name

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from secfed.encoding.flatten import Structure, Update
from secfed.errors import FaultyServerError

if TYPE_CHECKING:
    from secfed.dp.events import Event
    from secfed.paillier.config import Config as PaillierConfig
    from secfed.secagg.config import Config as SecAggConfig


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded sum.

    Attributes:
        mean: With the structure of one update.
        weight: What the sum was divided by.
        event: What was released, if the sum was private.
        within_clip: The noisy fraction of clients whose update was within the clip, if the clip is adaptive.
    """

    mean: Update
    weight: float
    event: Event | None = None
    within_clip: float | None = None


class Transform(ABC):
    """From an update to a vector, and from the sum of vectors to a mean.

    Attributes:
        structure: Names, shapes and dtypes of the mean; updates may have other float dtypes.
        modulus_bits: Bits of an entry; 0: the entries are float64, which only a channel in the clear can add.
    """

    structure: Structure
    modulus_bits: int

    @property
    def inner(self) -> Transform:
        """The transform of what is rounded and sent: this one, unless something comes before it."""
        return self

    def inside(self, update: Update) -> Update:
        """Return what the inner transform gets of an update.

        Args:
            update: An update, in the structure of the example.

        Raises:
            EncodingError: The update does not fit.
        """
        return update

    def expanded(self, decoded: Decoded) -> Decoded:
        """Return what the inner transform decoded, with its mean turned back into one of updates.

        Args:
            decoded: What the inner transform decoded.
        """
        return decoded

    @property
    @abstractmethod
    def length(self) -> int:
        """Entries of a sum."""

    @property
    def bound(self) -> int:
        """Largest absolute value of an entry read as a signed number; 0 if entries may be any number of the ring."""
        return 0

    @property
    def fewest(self) -> int:
        """Fewest survivors whose sum may be released; 0 where any number will do."""
        return 0

    @property
    @abstractmethod
    def context(self) -> bytes:
        """What binds a session to these parameters."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Return the public parameters, from which a client on another machine makes the same transform."""

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the public parameters: which sum this is."""
        return hashlib.sha256(self.to_bytes()).digest()

    def check_config(self, config: SecAggConfig | PaillierConfig) -> None:
        """Check on a client that a session is for these vectors.

        Args:
            config: The session's parameters, as the server announced them.

        Raises:
            FaultyServerError: T6, its length, modulus or context differs.
        """
        wanted = self.length, self.modulus_bits, self.context
        if (config.length, config.modulus_bits, config.context) != wanted:
            raise FaultyServerError("the session's configuration is not for vectors of this transform", "T6")

    @abstractmethod
    def encode(self, update: Update, weight: float, *, seed: bytes | None = None) -> Any:
        """Encode one client's update for the channel.

        Args:
            update: Array, or list or dictionary of arrays, with the names and shapes of `structure`.
            weight: The client's weight.
            seed: 32 bytes that decide how values are rounded; by default fresh from the operating system.

        Raises:
            EncodingError: The update or the weight does not fit; nothing has been sent.
        """

    @abstractmethod
    def decode(self, total: npt.NDArray[Any], survivors: Collection[int]) -> Decoded:
        """Decode the sum of these clients' vectors.

        Args:
            total: Sum of the vectors, as the protocol gave it.
            survivors: Ids of the clients whose vectors are in the sum, ascending.

        Raises:
            EncodingError: This is not a sum of encoded vectors.
            TooFewSurvivorsError: Too few clients are in it.
        """

    def check(self, update: Update, weight: float) -> None:
        """Check an update and its weight before anything is sent.

        Args:
            update: An update, in the structure of the example.
            weight: Its weight.

        Raises:
            EncodingError: The update does not have this structure, a value is not finite, or the weight does not fit.
        """
        self.structure.check(update)

    def beyond_clip(self, update: Update) -> int:
        """Count the values that `encode` clips one by one.

        Args:
            update: An update, in the structure of the example.
        """
        return 0


class Preceded(Transform):
    """A transform that changes an update first, and then applies another transform.

    Attributes:
        transform: The other one.
    """

    transform: Transform

    @property
    def inner(self) -> Transform:
        """The transform of what is rounded and sent."""
        return self.transform.inner

    @property
    def modulus_bits(self) -> int:  # type: ignore[override]  # read-only is enough
        """Bits of an entry."""
        return self.transform.modulus_bits

    @property
    def length(self) -> int:
        """Entries of a vector."""
        return self.transform.length

    @property
    def bound(self) -> int:
        """Largest absolute value of an entry."""
        return self.transform.bound

    @property
    def fewest(self) -> int:
        """Fewest survivors whose sum may be released."""
        return self.transform.fewest

    @property
    def context(self) -> bytes:
        """What binds a session to these parameters."""
        return b"secfed/aggregation/v1 " + self.hash.hex().encode()

    def check(self, update: Update, weight: float) -> None:
        """Check an update and its weight before anything is sent; for errors see `encode`."""
        super().check(update, weight)
        self.transform.check(self.transform.structure.example, weight)
