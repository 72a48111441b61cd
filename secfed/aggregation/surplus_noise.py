"""The server's half of the stage SURPLUS_NOISE, after the unmasking: it takes off noise that nobody needs.

More clients than the fewest allowed may survive, and each has brought noise for the case that they do not. The server
asks every survivor for the seeds of its surplus layers; no socket, no clock.
"""

from collections.abc import Collection
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from secfed.aggregation.messages import SurplusNoiseRequest, SurplusNoiseResponse
from secfed.aggregation.noise_shares import layer_of_noise
from secfed.aggregation.private_sum import PrivateSum
from secfed.crypto.prg import SEED_BYTES
from secfed.errors import FaultyClientError, MalformedMessageError, TooFewSurvivorsError
from secfed.secagg.messages import column

SURPLUS_NOISE: Final = "SURPLUS_NOISE"


class SurplusNoise:
    """What the server asks the survivors of one sum, and what it takes off.

    Args:
        transform: The sum's transform.
        survivors: Ids of the clients in the sum.

    Raises:
        TooFewSurvivorsError: They are too few for any sum.

    Attributes:
        request: The message for every survivor; empty if there is no surplus, and nothing to ask.
    """

    def __init__(self, transform: PrivateSum, survivors: Collection[int]) -> None:
        self._transform, self._survivors = transform, frozenset(survivors)
        self._seeds: dict[int, list[bytes]] = {}
        self._kept = self._layers = 0
        if plan := transform.plan:
            self._kept, self._layers = plan.noise.kept(len(survivors) - plan.colluders), len(plan.noise.honest)
        surplus = self._kept < self._layers
        kept = self._kept.to_bytes(4, "little")
        self.request = SurplusNoiseRequest(transform.hash, kept).to_bytes() if surplus else b""

    def receive(self, client_id: int, data: bytes) -> None:
        """Take one survivor's SurplusNoiseResponse; a second one of the same client replaces the first.

        Raises:
            FaultyClientError: M1, it is no such message; M2, nobody asked this client; M3, it is about another sum, or
                has not one seed for each surplus layer. Nothing has changed.
        """
        try:
            response = SurplusNoiseResponse.from_bytes(data)
        except MalformedMessageError as error:
            raise FaultyClientError(f"client {client_id}: {error}", client_id, "M1") from None
        if not self.request or client_id not in self._survivors:
            raise FaultyClientError(f"client {client_id} was not asked for surplus noise", client_id, "M2")
        layers = self._layers - self._kept
        needed = SEED_BYTES * layers
        if response.transform_hash != self._transform.hash or len(response.seeds) != needed:
            found = f"{len(response.seeds)} bytes of seeds from client {client_id}"
            raise FaultyClientError(f"{found}, needed {needed} of this sum", client_id, "M3")
        self._seeds[client_id] = column(response.seeds, SEED_BYTES, layers, "seeds")

    def subtract(self, total: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the sum without the noise whose seeds have come; whoever is silent leaves more noise in it.

        Args:
            total: The sum modulo `2**modulus_bits`, shape `(length,)`.

        Raises:
            TooFewSurvivorsError: Not all survivors answered, and what the others leave would tell the size of a secret
                cohort.
        """
        transform, plan = self._transform, self._transform.plan
        if not self.request or plan is None:
            return total
        if transform.noise_is_fixed and len(self._seeds) < len(self._survivors):
            raise TooFewSurvivorsError(
                f"{len(self._seeds)} of {len(self._survivors)} survivors revealed surplus noise, needed all: what the "
                "others leave would tell how many joined a secret cohort",
                len(self._seeds),
                len(self._survivors),
            )
        steps = transform.centre(total)
        for layers in self._seeds.values():
            for layer, seed in enumerate(layers, start=self._kept):
                steps -= layer_of_noise(plan, layer, seed)
        return transform.wrap(steps)
