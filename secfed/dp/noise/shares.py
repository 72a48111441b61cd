"""One client's noise in layers, some of which it can reveal once it knows how many clients survived.

After the unmasking the server asks the survivors for the seeds of the layers that are not needed, draws the same noise
again and subtracts it (`surplus.py`). A client reveals only what *its own* count of the survivors allows, once. If a
client does not answer, its surplus noise stays in the sum.

Source: Jiang, Wang, Chen: Efficient Federated Learning with Dropout-Resilient Differential Privacy, EuroSys 2024; there
seeds are also shared among the clients, so that even a silent client's surplus can be removed.
"""

import threading

import numpy as np
import numpy.typing as npt

from secfed.concurrency import refused_while_busy
from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.dp.noise import samplers
from secfed.dp.noise.distributed import NoisePlan
from secfed.dp.noise.messages import SurplusNoiseRequest, SurplusNoiseResponse
from secfed.errors import FaultyServerError, StageError

Steps = npt.NDArray[np.int64]


class NoiseShare:
    """The noise of one client for one sum: a fresh seed for each layer; made by
    `aggregation.PrivateSum.noise_share`.

    Args:
        plan: The public parameters of the sum's noise.
        transform_hash: Which sum it is for, 32 bytes: `PrivateSum.hash`.
        entropy: Source of the seeds; by default the operating system's.
    """

    def __init__(self, plan: NoisePlan, transform_hash: bytes, *, entropy: Entropy | None = None) -> None:
        source = entropy or SystemEntropy()
        self._plan, self._hash = plan, transform_hash
        self._busy = threading.Lock()
        self._seeds = [source.draw(f"noise {layer}", SEED_BYTES) for layer in range(len(plan.noise.honest))]

    def __repr__(self) -> str:
        return f"NoiseShare(layers={len(self._plan.noise.honest)})"

    def __reduce__(self) -> str:
        raise TypeError("a NoiseShare holds secrets and cannot be pickled")

    @refused_while_busy
    def draw(self) -> Steps:
        """Return the noise of all layers together, in steps; shape `(dimension,)`.

        Raises:
            StageError: The seeds have been revealed or dropped: there is nothing to draw from, and a vector without
                noise must not be sent. Or another thread is using this share.
        """
        if not self._seeds:
            raise StageError("the seeds of this noise were asked for before: another sum needs another NoiseShare")
        total = np.zeros(self._plan.dimension, np.int64)
        for layer, seed in enumerate(self._seeds):
            total += layer_of_noise(self._plan, layer, seed)
        return total

    @refused_while_busy
    def receive(self, data: bytes, survivors: int) -> bytes:
        """Answer a SurplusNoiseRequest with the seeds of the layers that the server may remove; forget all seeds.

        Args:
            data: The request.
            survivors: How many clients are in the sum. This client must know it from the unmasking; under Paillier
                encryption only the server or the key holder can say it.

        Returns:
            The SurplusNoiseResponse.

        Raises:
            MalformedMessageError: N1, this is not such a request; nothing has changed.
            FaultyServerError: N2, it is about another sum; N3, this number of survivors needs more layers than the
                server would keep. Nothing is ever revealed.
            StageError: The seeds were revealed or dropped before, or another thread is asking.
            TooFewSurvivorsError: A sum of so few survivors should not have been unmasked.
        """
        request = SurplusNoiseRequest.from_bytes(data)
        if not self._seeds:
            raise StageError("the seeds of this noise were asked for before", "N4")
        seeds, self._seeds = self._seeds, []
        if request.transform_hash != self._hash:  # N2
            raise FaultyServerError("the server asks for the noise of another sum", "N2")
        kept, needed = int.from_bytes(request.kept, "little"), self._plan.noise.kept(survivors - self._plan.colluders)
        if kept < needed:  # N3
            found = f"the server would keep {kept} layers of noise"
            raise FaultyServerError(f"{found}, {survivors} survivors need {needed}", "N3")
        return SurplusNoiseResponse(self._hash, b"".join(seeds[kept:])).to_bytes()


def layer_of_noise(plan: NoisePlan, layer: int, seed: bytes) -> Steps:
    """Draw one layer of one client's noise, in steps; shape `(dimension,)`."""
    sampler = samplers.discrete_gaussian if plan.mechanism == "discrete_gaussian" else samplers.skellam
    return sampler(plan.noise.variances[layer], plan.dimension, seed)
