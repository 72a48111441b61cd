"""The messages that tell clients the public parameters of a transform.

`protocols/aggregation/README.md` specifies them; `protocols/aggregation/messages.json` lists the fields. Numbers are
little-endian: `u8`, `u32`, `u64`, and `f64` in IEEE 754.
"""

import math
import struct
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from secfed.errors import FaultyServerError, MalformedMessageError
from secfed.wire import Message


@dataclass(frozen=True, slots=True)
class WeightedMeanParameters(Message):
    """What a client needs to encode for a weighted mean; 31 bytes."""

    kind: ClassVar[int] = 33
    values: Annotated[bytes, 8]  # u64: values of an update
    clip: Annotated[bytes, 8]  # f64
    bits: Annotated[bytes, 1]  # u8: bits of a rounded value
    clients: Annotated[bytes, 4]  # u32: most vectors in a sum
    max_weight: Annotated[bytes, 8]  # u64

    @classmethod
    def of(cls, values: int, clip: float, bits: int, clients: int, max_weight: int) -> Self:
        """Encode the numbers."""
        return cls(
            values=values.to_bytes(8, "little"),
            clip=f64(clip),
            bits=bytes([bits]),
            clients=int(clients).to_bytes(4, "little"),
            max_weight=int(max_weight).to_bytes(8, "little"),
        )

    def numbers(self, values: int) -> tuple[float, int, int, int]:
        """Return clip, bits, clients and largest weight, for updates with a number of values.

        Raises:
            FaultyServerError: T2, the server's update has another number of values.
            MalformedMessageError: T1, the clip is not a number.
        """
        if (found := int.from_bytes(self.values, "little")) != values:  # T2
            raise FaultyServerError(f"the server's update has {found} values, this client's {values}", "T2")
        clients, max_weight = (int.from_bytes(number, "little") for number in (self.clients, self.max_weight))
        return read_f64("clip", self.clip), self.bits[0], clients, max_weight


@dataclass(frozen=True, slots=True)
class PrivateSumParameters(Message):
    """What a client needs to encode for a private sum, and to see how much noise it brings."""

    kind: ClassVar[int] = 34
    values: Annotated[bytes, 8]  # u64: values of an update
    clip_norm: Annotated[bytes, 8]  # f64
    weight_cap: Annotated[bytes, 8]  # f64; 0: weights are not used
    count_scale: Annotated[bytes, 8]  # f64; 0: no entry counts the clients within the clip
    divisor: Annotated[bytes, 8]  # f64: what the sum is divided by
    step: Annotated[bytes, 8]  # f64: of the lattice, in units of the clip
    modulus_bits: Annotated[bytes, 1]  # u8
    rotation_seed: bytes  # 32 bytes; empty: no rotation
    mechanism: Annotated[bytes, 1]  # u8: 0 the server adds noise, 1 discrete Gaussian, 2 Skellam noise of the clients
    clients: Annotated[bytes, 4]  # u32: most clients in the sum
    threshold: Annotated[bytes, 4]  # u32: fewest survivors in the sum; 0 if the server adds the noise
    colluders: Annotated[bytes, 4]  # u32: survivors whose noise does not count
    noise_variance: Annotated[bytes, 8]  # f64: of the noise in the sum, per coordinate, in square steps
    honest: bytes  # u32 each, falling: how many honest survivors each layer of noise is made for


@dataclass(frozen=True, slots=True)
class CompressedParameters(Message):
    """What a client needs to compress before it encodes; 35 and 36 are messages of the stage SURPLUS_NOISE."""

    kind: ClassVar[int] = 37
    values: Annotated[bytes, 8]  # u64: values of an update, before compression
    seed: Annotated[bytes, 32]  # public, decides the maps
    maps: bytes  # 9 bytes each: u8 code, u64 number
    inner: bytes  # the parameters of the transform of the compressed values, a message of kind 33, 34 or 38


@dataclass(frozen=True, slots=True)
class ScaledMeanParameters(WeightedMeanParameters):
    """The same for a mean of values that are multiplied by weights before they are rounded; 31 bytes."""

    kind: ClassVar[int] = 38


@dataclass(frozen=True, slots=True)
class ArrayClipsParameters(Message):
    """What a client needs to clip each array on its own before it encodes."""

    kind: ClassVar[int] = 39
    clips: bytes  # f64 each: one for each array of an update, in the order of its arrays
    inner: bytes  # the parameters of the transform of the clipped arrays, a message of kind 33, 34, 37 or 38


def f64(number: float) -> bytes:
    """Encode a number."""
    return struct.pack("<d", number)


def read_f64(name: str, data: bytes) -> float:
    """Decode a number.

    Raises:
        MalformedMessageError: It is not finite, or negative, or a negative zero, which has other bytes than zero.
    """
    [number] = struct.unpack("<d", data)
    if not 0 <= number < math.inf or math.copysign(1, number) < 0:
        raise MalformedMessageError(f"{name} is {number}, needed a finite number from 0", 0)
    return float(number)


def u32s(data: bytes) -> tuple[int, ...]:
    """Decode a column of u32.

    Raises:
        MalformedMessageError: The bytes are not a whole number of them.
    """
    if len(data) % 4:
        raise MalformedMessageError(f"{len(data)} bytes are not a whole number of u32", 0)
    return struct.unpack(f"<{len(data) // 4}I", data)
