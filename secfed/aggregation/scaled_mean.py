"""A weighted mean for few bits: multiply values by the weight before rounding; send the weight in separate entries."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.aggregation.messages import ScaledMeanParameters
from secfed.aggregation.transform import Decoded, Transform
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.crypto.ring import signed
from secfed.encoding.fixed_point import FixedPoint
from secfed.encoding.flatten import Structure, Update, arrays, structure, unflatten
from secfed.errors import ConfigError, EncodingError, MalformedMessageError


@dataclass(frozen=True)
class ScaledMean(Transform):
    """Flatten, clip, multiply by the weight, round; and back.

    A value is multiplied by `weight / max_weight` before it is rounded, so that an entry needs no bits for the weight:
    it takes about `bits + log2(clients)` bits, where `WeightedMean` takes `log2(max_weight)` more. Rounding then adds
    `max_weight / weight` times the error; two or three more `bits` make up for it. The exact weight follows the values,
    cut into as many entries as it needs.

    Args:
        structure: Names, shapes and dtypes of the mean.
        clip: Values are clipped to [-clip, clip].
        bits: Bits of a rounded value, 2 to 32.
        clients: Most clients in one sum.
        max_weight: Largest weight of a client, public.

    Raises:
        ConfigError: A parameter is out of range, or the sum would need more than 64 bits.

    Security:
        The server learns the sum of each digit of the weights, which is a little more than the sum of the weights: with
        digits of one bit, how many clients have that bit. It never learns one client's weight.

    Client and server hold the same object; `length`, `modulus_bits` and `context` go into the `secagg.Config`.

    Source: Suresh, Yu, Kumar, McMahan: Distributed Mean Estimation with Limited Communication, ICML 2017, section 2.2
    (k-level stochastic quantization), of weighted values.
    """

    structure: Structure
    clip: float
    bits: int
    clients: int
    max_weight: int

    def __post_init__(self) -> None:
        _ = self.fixed_point
        if not 1 <= self.max_weight < 1 << 53:
            raise ConfigError(f"max_weight {self.max_weight} must be from 1 to 2^53 - 1")

    @cached_property
    def fixed_point(self) -> FixedPoint:
        """The rounding of weighted values, which all have weight 1 there."""
        return FixedPoint(self.clip, self.bits, self.clients)

    @cached_property
    def digit_bits(self) -> int:
        """Bits of a weight that one entry takes: a sum of digits of this size stays below half of the modulus."""
        return (((1 << (self.modulus_bits - 1)) - 1) // self.clients + 1).bit_length() - 1

    @cached_property
    def digits(self) -> int:
        """Entries of a weight."""
        return -(-int(self.max_weight).bit_length() // self.digit_bits)

    @property
    def length(self) -> int:
        """Entries of a vector: one for each value, `digits` for the weight."""
        return self.structure.size + self.digits

    @property
    def modulus_bits(self) -> int:  # type: ignore[override]  # read-only is enough
        """Bits of an entry."""
        return self.fixed_point.modulus_bits

    @property
    def bound(self) -> int:
        """Largest absolute value of an entry: a value at the clip, or a digit of a weight."""
        return max(self.fixed_point.levels, (1 << self.digit_bits) - 1)

    @property
    def context(self) -> bytes:
        """What binds a session to these parameters."""
        return b"secfed/aggregation/v1 " + self.hash.hex().encode()

    def to_bytes(self) -> bytes:
        """Return the public parameters, for the clients: 31 bytes, see `protocols/aggregation/README.md`."""
        return ScaledMeanParameters.of(
            self.structure.size, self.clip, self.bits, self.clients, self.max_weight
        ).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, *, example: Update) -> "ScaledMean":
        """Take the parameters of a sum on a client.

        Args:
            data: What `to_bytes` gave on the server.
            example: What an update looks like on this client, such as its model.

        Raises:
            MalformedMessageError: T1, these bytes are not parameters of a scaled mean.
            FaultyServerError: T2, the server's update has another number of values.
        """
        found, like = ScaledMeanParameters.from_bytes(data), structure(example)
        clip, bits, clients, max_weight = found.numbers(like.size)
        try:
            return cls(like, clip, bits, clients, max_weight)
        except ConfigError as error:
            raise MalformedMessageError(f"these parameters of a mean do not fit together: {error}", 0) from None

    def encode(
        self,
        update: Update,
        weight: float,
        *,
        seed: bytes | None = None,
        divisors: Sequence[float] | None = None,
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Encode one client's update.

        Args:
            update: Array, or list or dictionary of arrays, with the names and shapes of `structure`.
            weight: Whole number in [1, max_weight].
            seed: 32 bytes that decide how values are rounded; by default fresh from the operating system.
            divisors: One positive number for each array, by which its values are divided before they are clipped.

        Returns:
            Shape `(length,)`, modulo `2**modulus_bits`.

        Raises:
            EncodingError: The update or the weight does not fit; nothing has been sent.
        """
        rounding = SystemEntropy().draw("rounding", SEED_BYTES) if seed is None else seed
        whole = self._checked(weight)
        self.structure.check(update, dtypes=False)
        rounded = self.fixed_point.encode_parts(
            arrays(update), 1, seed=rounding, divisors=divisors, factor=whole / self.max_weight
        )[:-1]
        base = 1 << self.digit_bits
        digits = [(whole >> (self.digit_bits * place)) % base for place in range(self.digits)]
        return np.concatenate([rounded, np.array(digits, rounded.dtype)])

    def _checked(self, weight: float) -> int:
        return FixedPoint(self.clip, 2, 1, self.max_weight).checked_weight(weight)

    def check(self, update: Update, weight: float) -> None:
        """Check an update and its weight before anything is sent; for errors see `encode`."""
        super().check(update, weight)
        self._checked(weight)

    def beyond_clip(self, update: Update, divisors: Sequence[float] | None = None) -> int:
        """Count the values beyond the clip; each array is divided by its divisor first, if there are any."""
        return self.fixed_point.clipped_in(arrays(update), divisors)

    def decode(self, total: npt.NDArray[np.unsignedinteger[Any]], survivors: Collection[int]) -> Decoded:
        """Decode the sum to the weighted mean and the sum of the weights.

        Args:
            total: The sum modulo `2**modulus_bits`, shape `(length,)`.
            survivors: Ids of the clients in it.

        Raises:
            EncodingError: The sum of the weights is impossible for this number of clients.
        """
        sums, size = signed(total, self.modulus_bits), self.structure.size
        weight = sum(int(digit) << (self.digit_bits * place) for place, digit in enumerate(sums[size:]))
        least, most = len(survivors), len(survivors) * self.max_weight
        if not max(1, least) <= weight <= most:
            raise EncodingError(f"the weights sum to {weight}, needed {least} to {most} for {len(survivors)} survivors")
        step = self.clip / self.fixed_point.levels
        return Decoded(unflatten(sums[:size] * step / (weight / self.max_weight), self.structure), weight)
