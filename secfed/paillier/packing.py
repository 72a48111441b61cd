"""Many entries in one plaintext: slots that a sum of the declared number of vectors cannot overflow.

Source: `protocols/paillier/README.md`, section 5.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto import packing
from secfed.crypto.ring import narrowest_dtype
from secfed.errors import ConfigError, EncodingError
from secfed.paillier.integers import read_column, to_bytes

MOST_SLOT_BITS = 64


@dataclass(frozen=True, slots=True)
class Packing:
    """How entries are placed in plaintexts. It is public, has one scale for all entries, and packs only the values.

    Args:
        length: Entries of a vector.
        entry_max: Largest entry.
        additions: Most vectors in a sum, counted by weight.
        plaintext_bits: Bits that any plaintext may use: `degree * (key_bits - 1)`.

    Raises:
        ConfigError: A slot would need more than 64 bits, or more than a plaintext has.
    """

    length: int
    entry_max: int
    additions: int
    plaintext_bits: int

    def __post_init__(self) -> None:
        if self.length < 1 or self.entry_max < 1 or self.additions < 1:
            raise ConfigError(
                f"length {self.length}, entry_max {self.entry_max} and additions {self.additions} must be at least 1"
            )
        if self.slot_bits > MOST_SLOT_BITS:
            raise ConfigError(
                f"a sum of {self.additions} entries of up to {self.entry_max} needs {self.slot_bits} bits, "
                f"{MOST_SLOT_BITS} are the most: lower bits, weights or the number of clients"
            )

    @property
    def slot_bits(self) -> int:
        """Bits of a slot: enough for the sum of entries, and no more."""
        return (self.entry_max * self.additions).bit_length()

    @property
    def slots(self) -> int:
        """Slots of a plaintext."""
        return self.plaintext_bits // self.slot_bits

    @property
    def plaintexts(self) -> int:
        """Plaintexts of a vector."""
        return -(-self.length // self.slots)

    @property
    def _row_slots(self) -> int:
        """Slots of a plaintext in memory, whose bits end with a byte: those beyond `slots` are zero."""
        return -(-self.slots // 8) * 8

    def pack(self, entries: npt.NDArray[np.unsignedinteger[Any]]) -> list[Any]:
        """Return the plaintexts of a vector.

        Args:
            entries: Shape `(length,)`, each from 0 to `entry_max`.

        Raises:
            EncodingError: An entry is larger, or the shape is wrong.
        """
        return [plaintext for piece in self.slices(entries, self.plaintexts) for plaintext in piece]

    def slices(self, entries: npt.NDArray[np.unsignedinteger[Any]], size: int) -> Iterator[list[Any]]:
        """Yield the checked plaintexts of a vector, `size` at a time; see `pack`."""
        if entries.shape != (self.length,):
            raise EncodingError(f"the vector has shape {entries.shape}, needed ({self.length},)")
        for start in range(0, self.length, size * self.slots):
            piece = entries[start : start + size * self.slots].copy()  # the owner may change the vector meanwhile
            if piece.max() > self.entry_max:
                raise EncodingError(f"an entry is above the largest, {self.entry_max}: a slot could overflow")
            yield self._rows(piece)

    def _rows(self, entries: npt.NDArray[np.unsignedinteger[Any]]) -> list[Any]:
        whole, rest = divmod(len(entries), self.slots)
        rows = np.zeros((whole + bool(rest), self._row_slots), narrowest_dtype(self.slot_bits))
        rows[:whole, : self.slots] = entries[: whole * self.slots].reshape(whole, self.slots)
        if rest:
            rows[whole, :rest] = entries[whole * self.slots :]
        return read_column(packing.pack(rows.reshape(-1), self.slot_bits), self._row_slots * self.slot_bits // 8)

    def unpack(self, plaintexts: Sequence[Any], additions: int) -> npt.NDArray[np.unsignedinteger[Any]] | None:
        """Return the totals of this many vectors, shape `(length,)`; None if no such vectors have this sum."""
        used = self.slots * self.slot_bits
        if len(plaintexts) != self.plaintexts or any(plaintext >> used for plaintext in plaintexts):
            return None
        data = b"".join([to_bytes(plaintext, self._row_slots * self.slot_bits // 8) for plaintext in plaintexts])
        count = self.plaintexts * self._row_slots
        rows = packing.unpack(data, count, self.slot_bits, narrowest_dtype(self.slot_bits))
        totals = rows.reshape(self.plaintexts, self._row_slots)[:, : self.slots].reshape(-1)
        if totals[self.length :].any() or int(totals.max()) > self.entry_max * additions:
            return None
        return totals[: self.length]
