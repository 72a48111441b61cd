"""The transforms of a weighted mean: as floats in the clear, and as integers that any channel can add."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.aggregation.messages import WeightedMeanParameters
from secfed.aggregation.transform import Decoded, Transform
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.encoding.fixed_point import FixedPoint
from secfed.encoding.flatten import Structure, Update, arrays, structure, unflatten
from secfed.errors import (
    ConfigError,
    EncodingError,
    MalformedMessageError,
    TooFewSurvivorsError,
)


@dataclass(frozen=True, slots=True)
class WeightedValues:
    """What a client sends in the clear: its values in their own dtype, shape `(size,)`, and its weight."""

    values: npt.NDArray[np.floating[Any]]
    weight: float

    @property
    def nbytes(self) -> int:
        """Bytes of the message."""
        return 8 + self.values.nbytes

    def to_bytes(self) -> bytes:
        """Return the weight as a float64, then the values, all little-endian."""
        values = self.values.astype(self.values.dtype.newbyteorder("<"), copy=False)
        return np.array([self.weight], "<f8").tobytes() + values.tobytes()


@dataclass(frozen=True)
class FloatMean(Transform):
    """The weighted mean in float64, without clipping or rounding: the server sees every update and weight.

    Args:
        structure: Names, shapes and dtypes of the mean.
    """

    structure: Structure
    modulus_bits = 0
    context = b""

    @property
    def length(self) -> int:
        """Entries of the sum: one for each value, one for the sum of the weights."""
        return self.structure.size + 1

    def to_bytes(self) -> bytes:
        """Return nothing: there is no parameter."""
        return b""

    def encode(self, update: Update, weight: float, *, seed: bytes | None = None) -> WeightedValues:
        """Return the values and the weight as they are.

        Args:
            update: An update, in the structure of the example.
            weight: Its weight.
            seed: Not used: nothing is rounded.

        Raises:
            EncodingError: The update does not fit.
        """
        return WeightedValues(self.structure.values(update), weight)

    def decode(self, total: npt.NDArray[np.float64], survivors: Collection[int]) -> Decoded:
        """Divide the weighted sum by the sum of the weights, its last entry.

        Args:
            total: Sum of the vectors, as the protocol gave it.
            survivors: Ids of the clients whose vectors are in the sum, ascending.

        Raises:
            TooFewSurvivorsError: No client is in the sum.
        """
        if not survivors:
            raise TooFewSurvivorsError("no client is left", 0, 1)
        weight = float(total[-1])
        return Decoded(unflatten(total[:-1] / weight, self.structure), weight)


@dataclass(frozen=True)
class WeightedMean(Transform):
    """Flatten, clip, round and multiply by the weight; and back.

    Args:
        structure: Names, shapes and dtypes of the mean.
        fixed_point: How values become integers.

    Client and server hold the same object; `length`, `modulus_bits` and `context` go into the `secagg.Config`.
    """

    structure: Structure
    fixed_point: FixedPoint

    @classmethod
    def of(
        cls, example: Update, *, clip: float, clients: int, max_weight: int = 1, bits: int | None = None
    ) -> "WeightedMean":
        """Make the transform for updates that look like an example (the model, say).

        Args:
            example: Array, or list or dictionary of arrays.
            clip: Values are clipped to [-clip, clip].
            clients: Most clients in one sum.
            max_weight: Largest weight of a client, public.
            bits: Bits of a rounded value; None chooses, see `FixedPoint.fitting`.

        Raises:
            ConfigError: The parameters do not fit together.
            EncodingError: The example is not an update.
        """
        if bits is None:
            return cls(structure(example), FixedPoint.fitting(clip, clients=clients, max_weight=max_weight))
        return cls(structure(example), FixedPoint(clip, bits, clients, max_weight))

    @property
    def length(self) -> int:
        """Entries of a vector: one for each value, one for the weight."""
        return self.structure.size + 1

    @property
    def modulus_bits(self) -> int:  # type: ignore[override]  # read-only is enough
        """Bits of an entry."""
        return self.fixed_point.modulus_bits

    @property
    def bound(self) -> int:
        """Largest absolute value of an entry: a value at the clip, of a client of the largest weight."""
        return self.fixed_point.levels * int(self.fixed_point.max_weight)

    @property
    def context(self) -> bytes:
        """What binds a session to these parameters."""
        return self.fixed_point.context(self.structure.size)

    def to_bytes(self) -> bytes:
        """Return the public parameters, for the clients: 31 bytes, see `protocols/aggregation/README.md`."""
        fixed = self.fixed_point
        return WeightedMeanParameters.of(
            self.structure.size, fixed.clip, fixed.bits, fixed.clients, fixed.max_weight
        ).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, *, example: Update) -> "WeightedMean":
        """Take the parameters of a sum on a client.

        Args:
            data: What `to_bytes` gave on the server.
            example: What an update looks like on this client, such as its model.

        Raises:
            MalformedMessageError: T1, these bytes are not parameters of a weighted mean.
            FaultyServerError: T2, the server's update has another number of values.
        """
        found, like = WeightedMeanParameters.from_bytes(data), structure(example)
        clip, bits, clients, max_weight = found.numbers(like.size)
        try:
            return cls(like, FixedPoint(clip, bits, clients, max_weight))
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
        self.structure.check(update, dtypes=False)
        return self.fixed_point.encode_parts(arrays(update), weight, seed=rounding, divisors=divisors)

    def check(self, update: Update, weight: float) -> None:
        """Check an update and its weight before anything is sent; for errors see `encode`."""
        super().check(update, weight)
        self.fixed_point.checked_weight(weight)

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
        narrow = all(dtype == np.float32 for dtype in self.structure.dtypes)
        values, weight = self.fixed_point.decode(total, np.float32 if narrow else np.float64)
        if not len(survivors) <= weight <= len(survivors) * self.fixed_point.max_weight:
            raise EncodingError(
                f"the weights sum to {weight}, needed {len(survivors)} to "
                f"{len(survivors) * self.fixed_point.max_weight} for {len(survivors)} survivors"
            )
        return Decoded(unflatten(values, self.structure, copy=False), weight)
