"""One transform in two halves: the client's makes an update an integer vector, the server's makes the sum a mean."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.encoding.fixed_point import FixedPoint
from secfed.encoding.flatten import Structure, Update, structure, unflatten


@dataclass(frozen=True)
class Pipeline:
    """Flatten, clip, round and weigh; and back.

    Args:
        structure: Names, shapes and dtypes that every update must have.
        fixed_point: How values become integers.

    Client and server hold the same pipeline; `length`, `modulus_bits` and `context` go into the `secagg.Config`.
    """

    structure: Structure
    fixed_point: FixedPoint

    @classmethod
    def of(
        cls, example: Update, *, clip: float, clients: int, max_weight: int = 1, bits: int | None = None
    ) -> "Pipeline":
        """Make the pipeline for updates that look like an example (the model, say).

        Args:
            example: Array, or list or dictionary of arrays.
            clip: Values are clipped to [-clip, clip].
            clients: Most clients in one sum.
            max_weight: Largest weight of a client, public.
            bits: Bits of a rounded value; None chooses, see `FixedPoint.fitting`.

        Raises:
            ConfigError: The parameters do not fit together.
            EncodingError: The example is no update.
        """
        if bits is None:
            return cls(structure(example), FixedPoint.fitting(clip, clients=clients, max_weight=max_weight))
        return cls(structure(example), FixedPoint(clip, bits, clients, max_weight))

    @property
    def length(self) -> int:
        """Entries of a vector: one for each value, one for the weight."""
        return self.structure.size + 1

    @property
    def modulus_bits(self) -> int:
        """Bits of an entry."""
        return self.fixed_point.modulus_bits

    @property
    def context(self) -> bytes:
        """What binds a session to these parameters."""
        return self.fixed_point.context(self.structure.size)

    def encode(self, update: Update, weight: int, *, seed: bytes | None = None) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Encode one client's update.

        Args:
            update: Array, or list or dictionary of arrays, of the pipeline's structure.
            weight: Whole number in [1, max_weight].
            seed: 32 bytes that decide how values are rounded; by default fresh from the operating system.

        Returns:
            Shape `(length,)`, modulo `2**modulus_bits`.

        Raises:
            EncodingError: The update or the weight does not fit; nothing has been sent.
        """
        rounding = SystemEntropy().draw("rounding", SEED_BYTES) if seed is None else seed
        return self.fixed_point.encode(self.structure.values(update), weight, seed=rounding)

    def decode(self, total: npt.NDArray[np.unsignedinteger[Any]]) -> tuple[Update, int]:
        """Decode the sum to the weighted mean, with the structure of one update, and the sum of the weights."""
        values, weight = self.fixed_point.decode(total)
        return unflatten(values, self.structure), weight
