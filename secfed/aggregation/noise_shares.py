"""One client's noise in layers, and how the server takes off those that turn out not to be needed; no socket, no clock.

After the unmasking the server asks the survivors for the seeds of the layers that so many survivors do not need, draws
the same noise again and subtracts it. A client reveals only what *its own* count of the survivors allows, once. Whoever
does not answer leaves more noise in the sum, never less.

Source: Jiang, Wang, Chen: Efficient Federated Learning with Dropout-Resilient Differential Privacy, EuroSys 2024; there
seeds are also shared among the clients, so that even a silent client's surplus can be removed.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.crypto.entropy import Entropy, SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.dp import samplers
from secfed.dp.distributed import Plan
from secfed.errors import FaultyServerError, MalformedMessageError, StageError
from secfed.secagg.concurrency import refused_while_busy

Steps = npt.NDArray[np.int64]


class NoiseShare:
    """The noise of one client for one sum: a fresh seed for each layer.

    Args:
        plan: The public parameters of the sum.
        entropy: Source of the seeds; by default the operating system's.
    """

    def __init__(self, plan: Plan, *, entropy: Entropy | None = None) -> None:
        source = entropy or SystemEntropy()
        self._plan = plan
        self._busy = threading.Lock()
        self._seeds = [source.draw(f"noise {layer}", SEED_BYTES) for layer in range(len(plan.noise.honest))]

    def __repr__(self) -> str:
        return f"NoiseShare(layers={len(self._plan.noise.honest)})"

    def __reduce__(self) -> str:
        raise TypeError("a NoiseShare holds secrets and cannot be pickled")

    def draw(self) -> Steps:
        """Return the noise of all layers together, in steps; shape `(dimension,)`."""
        total = np.zeros(self._plan.dimension, np.int64)
        for layer, seed in enumerate(self._seeds):
            total += _layer(self._plan, layer, seed)
        return total

    @refused_while_busy
    def reveal(self, kept: int, survivors: int) -> bytes:
        """Hand out the seeds of the layers that the server may remove, and forget all seeds.

        Args:
            kept: How many layers, from the first, the server says that it keeps.
            survivors: How many clients are in the sum, as this client knows from the unmasking itself.

        Returns:
            The seeds of the other layers, 32 bytes each.

        Raises:
            FaultyServerError: So many survivors need more layers than the server would keep; nothing is ever revealed.
            StageError: The seeds have been handed out, or refused, before, or another thread is asking.
            TooFewSurvivorsError: So few survivors must not have been unmasked at all.
        """
        if not self._seeds:
            raise StageError("the seeds of this noise were asked for before")
        seeds, self._seeds = self._seeds, []
        needed = self._plan.noise.kept(survivors - self._plan.colluders)
        if kept < needed:
            found = f"the server would keep {kept} layers of noise"
            raise FaultyServerError(f"{found}, {survivors} survivors need {needed}", "")
        return b"".join(seeds[kept:])


def surplus(plan: Plan, survivors: int, replies: Mapping[int, bytes]) -> Steps:
    """Draw again the noise that is to be subtracted from the sum.

    Args:
        plan: The public parameters of the sum.
        survivors: How many clients are in the sum.
        replies: What `NoiseShare.reveal` gave, by client id, of those that answered.

    Returns:
        Steps, shape `(dimension,)`.

    Raises:
        MalformedMessageError: A reply has not one seed for each surplus layer.
        TooFewSurvivorsError: They are too few for any sum.
    """
    kept = plan.noise.kept(survivors - plan.colluders)
    needed = SEED_BYTES * (len(plan.noise.honest) - kept)
    total = np.zeros(plan.dimension, np.int64)
    for client_id, reply in replies.items():
        if len(reply) != needed:
            raise MalformedMessageError(f"{len(reply)} bytes of seeds from client {client_id}, needed {needed}", 0, "")
        for start in range(0, needed, SEED_BYTES):
            total += _layer(plan, kept + start // SEED_BYTES, reply[start : start + SEED_BYTES])
    return total


def _layer(plan: Plan, layer: int, seed: bytes) -> npt.NDArray[Any]:
    sampler = samplers.discrete_gaussian if plan.mechanism == "discrete_gaussian" else samplers.skellam
    return sampler(plan.noise.variances[layer], plan.dimension, seed)
