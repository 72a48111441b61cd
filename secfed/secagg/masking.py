"""The interface between the protocol and its masks: seeds and vectors in, payload bytes out, and back to the sum.

Client and server agree on seeds; what is done with the seeds is decided here. To add a kind of masking, write a class
like `AesCtr` and add a line to `_KINDS` (and a code in `config`).
Source: Bonawitz et al. 2017, section 4 and Figure 4 (round 2).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from secfed.crypto import packing, prg
from secfed.crypto.entropy import Entropy
from secfed.errors import EncodingError, MalformedMessageError
from secfed.secagg.config import Config
from secfed.staging import Whole

Vector = npt.NDArray[np.unsignedinteger[Any]]
# Bytes of a vector that are masked at a time. A client holds only a few such blocks besides its vector, and each is
# long enough that setting up the ciphers of all seeds costs little in comparison.
BLOCK_BYTES = 1 << 21


class Accumulator(Protocol):
    """The server's half: adds payloads as they arrive and removes the masks from their sum."""

    def add(self, payload: Whole) -> None:
        """Add one client's payload; refuse a malformed one before anything changes (MalformedMessageError).

        The caller may reuse the payload's buffer: no part of it is kept. If the payload is in a file that cannot be
        read (OSError), part of it may have been added.
        """

    def remove(self, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
        """Remove the masks that clients added and subtracted."""

    def sum(self) -> Vector:
        """Return the sum, shape `(length,)`, once all masks are removed; it may not be a copy."""

    def to_bytes(self) -> bytes | memoryview:
        """Save the sum so far. A memoryview shows the sum itself, so the caller must copy it at once."""


class Masking(Protocol):
    """One kind of masking for one session."""

    payload_bytes: int

    def mask(
        self, vector: Vector, added: Sequence[bytes], subtracted: Sequence[bytes], entropy: Entropy
    ) -> Iterator[bytes]:
        """Make the payload of a vector under the masks of these seeds, in pieces of `payload_bytes` together.

        The vector stays as it is, and each of its entries is read once. A kind may draw secrets of its own.
        """

    def accumulator(self, saved: bytes | memoryview | None = None) -> Accumulator:
        """Start a sum, or resume a saved one."""


def checked(vector: npt.ArrayLike, config: Config, *, copy: bool) -> Vector:
    """Return a vector in the ring's dtype, as a copy or, if `copy` is false and it has that dtype, unchanged.

    Raises:
        EncodingError: It has the wrong shape, type or range.
    """
    array = np.asarray(vector)
    if array.shape != (config.length,):
        raise EncodingError(f"the vector has shape {array.shape}, needs ({config.length},)")
    if array.dtype.kind not in "ui":
        raise EncodingError(f"the vector has dtype {array.dtype}, needs whole numbers")
    if int(array.min()) < 0 or int(array.max()) >> config.modulus_bits:  # which entry, and what it is, is a secret
        raise EncodingError(f"an entry of the vector is not from 0 to 2**{config.modulus_bits} - 1")
    return array.astype(config.dtype, copy=copy)


def made(make_vector: Callable[[], npt.ArrayLike], config: Config, *, copy: bool) -> Vector:
    """Let a caller's function make a vector.

    Raises:
        EncodingError: The vector is invalid, or the function failed with a MalformedMessageError, which would look like
            a malformed request.
    """
    try:
        return checked(make_vector(), config, copy=copy)
    except MalformedMessageError as error:
        raise EncodingError(f"the function that makes the vector failed: {error}") from error


def create(config: Config, session_id: bytes, threads: int | None) -> Masking:
    """Return the configuration's kind of masking for one session."""
    kind: Masking = _KINDS[config.masking](config, session_id, threads)
    return kind


class AesCtr:
    """Masks are AES-128-CTR keystreams; the payload is the masked vector, bit-packed."""

    def __init__(self, config: Config, session_id: bytes, threads: int | None) -> None:
        self._length, self._bits, self._dtype = config.length, config.modulus_bits, config.dtype
        self._threads = threads
        self.payload_bytes = packing.packed_bytes(config.length, config.modulus_bits)

    def mask(
        self, vector: Vector, added: Sequence[bytes], subtracted: Sequence[bytes], entropy: Entropy
    ) -> Iterator[bytes]:
        """Mask and bit-pack a vector block by block."""
        entries = BLOCK_BYTES // vector.itemsize  # a multiple of 8: every packed block ends with a whole byte
        buffer = np.empty(min(entries, len(vector)), vector.dtype)
        for start in range(0, len(vector), entries):
            block = buffer[: len(vector) - start]
            np.copyto(block, vector[start : start + entries])
            prg.accumulate(block, added, subtracted, self._threads, start * vector.itemsize)
            yield packing.pack(block, self._bits)

    def accumulator(self, saved: bytes | memoryview | None = None) -> "_AesCtrSum":
        """Start a sum, or resume a saved one."""
        return _AesCtrSum(self._length, self._bits, self._dtype, self._threads, saved)


class _AesCtrSum:
    """One vector, for any number of clients."""

    def __init__(
        self, length: int, bits: int, dtype: np.dtype[Any], threads: int | None, saved: bytes | memoryview | None
    ) -> None:
        self._bits, self._threads = bits, threads
        if saved is not None and len(saved) != length * dtype.itemsize:
            raise MalformedMessageError(f"a saved sum has {len(saved)} bytes, needs {length * dtype.itemsize}", 0)
        self._total: Vector = np.zeros(length, dtype) if saved is None else np.frombuffer(saved, dtype).copy()

    def add(self, payload: Whole) -> None:
        length, bits = len(self._total), self._bits
        needed = packing.packed_bytes(length, bits)
        if len(payload) != needed:
            raise MalformedMessageError(f"the masked vector has {len(payload)} bytes, needs {needed}", len(payload))
        unused = -length * bits % 8
        if payload[-1] >> (8 - unused):
            raise MalformedMessageError("unused bits of the masked vector's last byte are not zero", needed - 1)
        for start in range(0, length, packing.CHUNK_ENTRIES):
            target = self._total[start : start + packing.CHUNK_ENTRIES]
            offset = start * bits // 8
            piece = payload[offset : offset + packing.packed_bytes(len(target), bits)]
            target += packing.unpack(bytes(piece), len(target), bits, self._total.dtype)

    def remove(self, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
        prg.accumulate(self._total, subtracted, added, self._threads)

    def sum(self) -> Vector:
        self._total &= self._total.dtype.type((1 << self._bits) - 1)  # in place, to save a copy of the vector
        return self._total

    def to_bytes(self) -> memoryview:
        return self._total.data.cast("B")


_KINDS: dict[str, Any] = {"aes128_ctr": AesCtr}
