"""Three ways to the same mean: in the clear, under secure aggregation, (later) encrypted."""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from secfed.aggregation.pipeline import Pipeline
from secfed.aggregation.transcript import Transcript
from secfed.encoding.flatten import Update, flatten, unflatten
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.secagg.config import HASH_BYTES, Adversary, Config, Policy
from secfed.secagg.session import run_session
from secfed.secagg.stages import Stage

Updates = Sequence[Update] | Mapping[int, Update]
Weights = Sequence[float] | Mapping[int, float] | None
_NO_MODEL = bytes(HASH_BYTES)


class ClippingWarning(UserWarning):
    """Values beyond `clip` were clipped: the mean is not the mean of what came in."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The outcome of one aggregation.

    Attributes:
        mean: Weighted mean of the survivors' updates, with the structure of one update.
        survivors: Ids of the clients in the mean.
        dropouts: Ids of the others.
        weight: Sum of the survivors' weights.
        bytes_up: What each client sent, by id.
        bytes_down: What each client was sent, by id (without the model).
        seconds: Wall time of each stage, all parties together.
        transcript: What the server saw, if that was asked for.
    """

    mean: Update
    survivors: tuple[int, ...]
    dropouts: tuple[int, ...]
    weight: float
    bytes_up: dict[int, int] = field(repr=False)
    bytes_down: dict[int, int] = field(repr=False)
    seconds: dict[Stage, float] = field(repr=False)
    transcript: Transcript | None = field(default=None, repr=False)


class Aggregator(Protocol):
    """What a federated algorithm sees of any protection."""

    def aggregate(
        self,
        updates: Updates,
        weights: Weights = None,
        *,
        dropouts: Mapping[int, Stage] | None = None,
        round: int = 0,
        model_hash: bytes = _NO_MODEL,
        record: bool = False,
    ) -> Aggregate:
        """Return the weighted mean of the updates of those clients that do not drop out.

        Args:
            updates: One update per client: a list (ids from 1) or a dictionary by client id. An update is an array, or
                a list or dictionary of arrays, of any float dtype; all alike.
            weights: One positive weight per client (its number of examples), in the same form; by default all 1.
            dropouts: Clients that fall silent, and the first stage that they do not answer.
            round: The training round.
            model_hash: Hash of the model being trained.
            record: Whether to keep a transcript of what the server saw.

        Raises:
            ConfigError: Parameters that do not fit the cohort.
            EncodingError: An update or weight that does not fit; nothing has been sent.
            TooFewSurvivorsError: Too many dropouts.
        """


@dataclass(frozen=True)
class Plain:
    """No protection: the server sees every update. The float reference for the others."""

    def aggregate(
        self,
        updates: Updates,
        weights: Weights = None,
        *,
        dropouts: Mapping[int, Stage] | None = None,
        round: int = 0,
        model_hash: bytes = _NO_MODEL,
        record: bool = False,
    ) -> Aggregate:
        """Return the weighted mean in float64; see `Aggregator.aggregate`."""
        by_id, weight_of = _cohort(updates, weights)
        silent = _checked_dropouts(by_id, dropouts)
        pipeline = Pipeline.of(next(iter(by_id.values())), clip=1.0, clients=len(by_id))
        transcript = Transcript("plain", pipeline) if record else None
        sent: dict[int, int] = dict.fromkeys(by_id, 0)
        survivors = [
            client_id for client_id in by_id if silent.get(client_id, Stage.DONE) > Stage.MASKED_INPUT_COLLECTION
        ]
        checked = {client_id: _named(client_id, pipeline.check, update) for client_id, update in by_id.items()}
        if not survivors:
            raise TooFewSurvivorsError("no client is left", 0, 1)
        total = np.zeros(pipeline.structure.size)
        for client_id in survivors:
            values = checked[client_id]
            total += values.astype(np.float64) * weight_of[client_id]
            sent[client_id] = values.nbytes + 8
            if transcript:
                weighed = np.array([weight_of[client_id]], "<f8").tobytes()
                data = weighed + values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
                transcript.record(Stage.MASKED_INPUT_COLLECTION, "to_server", client_id, data)
        weight = math.fsum(weight_of[client_id] for client_id in survivors)
        total /= weight
        if transcript:
            transcript.total, transcript.survivors = total, tuple(survivors)
        dropped = tuple(client_id for client_id in by_id if client_id not in set(survivors))
        mean = unflatten(total, pipeline.structure)
        return Aggregate(mean, tuple(survivors), dropped, weight, sent, dict.fromkeys(by_id, 0), {}, transcript)


@dataclass(frozen=True)
class SecAgg:
    """Secure aggregation: the server sees the sum of the survivors' weighted updates, and the sum of their weights.

    Args:
        threshold: Fewest clients (with `neighbors`: of a client's neighbors) that can unmask: a number, or a fraction
            of them (rounded up, and never below what the adversary demands). 1.0 is all of them, 1 is refused.
        clip: Values are clipped to [-clip, clip].
        bits: Bits of a rounded value; None takes 16, or as few as 12 where that keeps the sum within 32 bits.
        max_weight: Largest weight, public; None takes the next power of two above the largest weight of each cohort.
        neighbors: Clients that share pair masks with one client; None is all (Bonawitz et al. 2017), see
            `secagg.parameters`.
        adversary: `"semi_honest"` or `"malicious_server"`.
        colluders: Most clients among one client's holders that may collude with the server.
        policy: What every client insists on.
        rounding_seed: Makes the random rounding repeatable, for simulations; keys and masks never come from it.

    Raises:
        ConfigError: A parameter is out of range.

    Security:
        In this class all parties live in one process: it is for simulation and tests. A deployment puts `secagg.Client`
        and `secagg.Server` on its own network and gets the same sum.
    """

    threshold: float = 2 / 3
    clip: float = 4.0
    bits: int | None = None
    max_weight: int | None = None
    neighbors: int | None = None
    adversary: Adversary = "semi_honest"
    colluders: int = 0
    policy: Policy | None = None
    rounding_seed: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threshold, str):
            raise ConfigError(f"threshold {self.threshold!r} must be a number of clients, or a fraction such as 2/3")
        fraction = isinstance(self.threshold, float)
        if not self.threshold > 0 or (fraction and self.threshold > 1):
            raise ConfigError(
                f"threshold {self.threshold} must be a number of clients, or a fraction above 0 and up to 1"
            )
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"clip {self.clip} must be a positive finite number")
        if self.max_weight is not None and self.max_weight < 1:
            raise ConfigError(f"max_weight {self.max_weight} must be at least 1")

    def config(
        self, client_ids: Sequence[int], pipeline: Pipeline, *, round: int = 0, model_hash: bytes = _NO_MODEL
    ) -> Config:
        """Return the session's configuration for a cohort."""
        neighbors = None if self.neighbors is None or self.neighbors >= len(client_ids) - 1 else self.neighbors
        return Config(
            client_ids,
            self._threshold(len(client_ids) if neighbors is None else neighbors, neighbors is None),
            pipeline.length,
            pipeline.modulus_bits,
            neighbors=neighbors,
            colluders=self.colluders,
            adversary=self.adversary,
            round=round,
            model_hash=model_hash,
            context=pipeline.context,
        )

    def _threshold(self, holders: int, complete: bool) -> int:
        """Turn a fraction into a number of clients."""
        if isinstance(self.threshold, int | np.integer):
            return int(self.threshold)
        least = max(2, self.colluders + 1)
        if self.adversary == "malicious_server":
            least = (holders + self.colluders) // 2 + 1
        elif complete:
            least = max(least, holders // 2 + 1)
        # The fraction's own rounding error must not cost a client: 2/3 of 30 is 20.
        return max(least, math.ceil(self.threshold * holders - 1e-9))

    def _rounding(self, round: int, client_id: int) -> bytes | None:
        """Return what decides one client's rounding in one round; None is the operating system's choice."""
        if self.rounding_seed is None:
            return None
        return hashlib.sha256(f"secfed rounding {self.rounding_seed} {round} {client_id}".encode()).digest()

    def aggregate(
        self,
        updates: Updates,
        weights: Weights = None,
        *,
        dropouts: Mapping[int, Stage] | None = None,
        round: int = 0,
        model_hash: bytes = _NO_MODEL,
        record: bool = False,
    ) -> Aggregate:
        """Return the weighted mean of the rounded updates; see `Aggregator.aggregate`."""
        by_id, weight_of = _cohort(updates, weights)
        silent = _checked_dropouts(by_id, dropouts)
        max_weight = self.max_weight or 1 << (math.ceil(max(weight_of.values())) - 1).bit_length()
        example = next(iter(by_id.values()))
        pipeline = Pipeline.of(example, clip=self.clip, clients=len(by_id), max_weight=max_weight, bits=self.bits)
        config = self.config(list(by_id), pipeline, round=round, model_hash=model_hash)
        vectors = {}
        beyond = 0
        for client_id, update in by_id.items():
            seed = self._rounding(round, client_id)
            vectors[client_id] = _named(client_id, partial(pipeline.encode, seed=seed), update, weight_of[client_id])
            beyond += pipeline.fixed_point.clipped(flatten(update))
        if beyond:
            share = f"{beyond} of {pipeline.structure.size * len(by_id)} values"
            warnings.warn(f"{share} were beyond clip {self.clip} and were clipped", ClippingWarning, stacklevel=2)
        transcript = Transcript("secagg", pipeline, config) if record else None
        observer = transcript.record if transcript else None
        result = run_session(config, vectors, dropouts=silent, policy=self.policy, observer=observer)
        mean, weight = pipeline.decode(result.sum)
        if transcript:
            transcript.total, transcript.survivors = result.sum, result.survivors
        return Aggregate(
            mean,
            result.survivors,
            result.dropouts,
            weight,
            result.bytes_up,
            result.bytes_down,
            result.seconds,
            transcript,
        )


def _cohort(updates: Updates, weights: Weights) -> tuple[dict[int, Update], dict[int, Any]]:
    """Bring updates and weights to one form: by client id, ascending."""
    by_id = dict(updates) if isinstance(updates, Mapping) else dict(enumerate(updates, start=1))
    if not by_id:
        raise EncodingError("found no update, needed at least one")
    if weights is None:
        weight_of: dict[int, Any] = dict.fromkeys(by_id, 1)
    elif isinstance(weights, Mapping):
        weight_of = dict(weights)
    else:
        weight_of = (
            dict(enumerate(weights, start=1))
            if not isinstance(updates, Mapping)
            else dict(zip(by_id, weights, strict=False))
        )
        if len(weights) != len(by_id):
            raise EncodingError(f"{len(weights)} weights for {len(by_id)} updates")
    if odd := set(weight_of) ^ set(by_id):
        raise EncodingError(f"clients {sorted(odd)[:5]} have an update or a weight, but not both")
    for client_id, weight in weight_of.items():
        if not (math.isfinite(weight) and weight > 0):
            raise EncodingError(f"weight {weight} of client {client_id} must be positive and finite")
    return {client_id: by_id[client_id] for client_id in sorted(by_id)}, weight_of


def _checked_dropouts(by_id: Mapping[int, Update], dropouts: Mapping[int, Stage] | None) -> dict[int, Stage]:
    silent = dict(dropouts or {})
    if odd := [stage for stage in silent.values() if not isinstance(stage, Stage)]:
        raise ConfigError(f"dropouts must lead from a client id to a secagg.Stage, found {odd[0]!r}")
    if unknown := set(silent) - set(by_id):
        raise ConfigError(f"dropouts {sorted(unknown)[:5]} are not among the {len(by_id)} clients")
    return silent


def _named(client_id: int, function: Any, *arguments: Any) -> Any:
    """Call a check on one client's update; an error says whose it was."""
    try:
        return function(*arguments)
    except EncodingError as error:
        raise EncodingError(f"client {client_id}: {error}") from None
