"""The server's half of the stage SURPLUS_NOISE, after the unmasking: it removes noise that is not needed.

Each client adds enough noise for the smallest allowed number of survivors. If more survive, the server asks every
survivor for the seeds of its surplus layers. No socket, no clock.
"""

from collections.abc import Collection
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secfed.crypto.prg import SEED_BYTES
from secfed.dp.noise.distributed import NoisePlan
from secfed.dp.noise.messages import SurplusNoiseRequest, SurplusNoiseResponse
from secfed.dp.noise.shares import layer_of_noise
from secfed.errors import FaultyClientError, MalformedMessageError, TooFewSurvivorsError

SURPLUS_NOISE: Final = "SURPLUS_NOISE"


class SurplusNoise:
    """Collects and removes the surplus noise of one sum; made by `aggregation.PrivateSum.surplus_noise`.

    Args:
        plan: The public parameters of the sum's noise.
        transform_hash: Which sum it is, 32 bytes: `PrivateSum.hash`.
        survivors: Ids of the clients in the sum.
        modulus_bits: The sum is modulo `2**modulus_bits`.
        secret: Whether the noise must not reveal how many survived.

    Raises:
        TooFewSurvivorsError: There are too few survivors for any sum.

    Attributes:
        request: The message for every survivor; empty if there is no surplus.
    """

    def __init__(
        self, plan: NoisePlan, transform_hash: bytes, survivors: Collection[int], *, modulus_bits: int, secret: bool
    ) -> None:
        self._plan, self._hash, self._secret = plan, transform_hash, secret
        self._ring = np.uint64((1 << modulus_bits) - 1)
        self._survivors = frozenset(survivors)
        self._seeds: dict[int, list[bytes]] = {}
        self._kept, self._layers = plan.noise.kept(len(survivors) - plan.colluders), len(plan.noise.honest)
        kept = self._kept.to_bytes(4, "little")
        self.request = SurplusNoiseRequest(transform_hash, kept).to_bytes() if self._kept < self._layers else b""

    def receive(self, client_id: int, data: bytes) -> None:
        """Take one survivor's SurplusNoiseResponse; a second one of the same client replaces the first.

        Args:
            client_id: The survivor.
            data: Its response.

        Raises:
            FaultyClientError: M1, it is not such a message; M2, this client was not asked; M3, it is about another sum,
                or does not have one seed for each surplus layer. Nothing has changed.
        """
        try:
            response = SurplusNoiseResponse.from_bytes(data)
        except MalformedMessageError as error:
            raise FaultyClientError(f"client {client_id}: {error}", client_id, "M1") from None
        if not self.request or client_id not in self._survivors:
            raise FaultyClientError(f"client {client_id} was not asked for surplus noise", client_id, "M2")
        needed = SEED_BYTES * (self._layers - self._kept)
        if response.transform_hash != self._hash or len(response.seeds) != needed:
            found = f"{len(response.seeds)} bytes of seeds from client {client_id}"
            raise FaultyClientError(f"{found}, needed {needed} of this sum", client_id, "M3")
        starts = range(0, needed, SEED_BYTES)
        self._seeds[client_id] = [response.seeds[start : start + SEED_BYTES] for start in starts]

    def subtract(self, total: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the sum without the noise whose seeds have arrived. The noise of silent clients stays.

        Args:
            total: The sum modulo `2**modulus_bits`, shape `(length,)`.

        Raises:
            TooFewSurvivorsError: Not all survivors answered, and the noise that is left would reveal the size of a
                secret cohort.
        """
        if not self.request:
            return total
        if self._secret and len(self._seeds) < len(self._survivors):
            raise TooFewSurvivorsError(
                f"{len(self._seeds)} of {len(self._survivors)} survivors revealed surplus noise, needed all: the "
                "noise that is left would reveal the size of a secret cohort",
                len(self._seeds),
                len(self._survivors),
            )
        # Unsigned subtraction wraps modulo 2^64, and the mask reduces it to the ring.
        steps = total.astype(np.uint64)
        for layers in self._seeds.values():
            for layer, seed in enumerate(layers, start=self._kept):
                steps -= layer_of_noise(self._plan, layer, seed).view(np.uint64)
        return (steps & self._ring).astype(total.dtype)
