"""Three ways to the same mean: in the clear, under secure aggregation, (later) encrypted."""

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from secfed.aggregation.aggregate import NO_MODEL, Aggregate
from secfed.aggregation.cohort import Updates, Weights, arrived, by_client, checked_dropouts, naming, positions
from secfed.aggregation.cohort_sizes import sizes_that_run
from secfed.aggregation.noise_shares import NoiseShare, surplus
from secfed.aggregation.pipeline import Pipeline
from secfed.aggregation.privacy import CentralGaussian, DistributedGaussian, Privacy
from secfed.aggregation.private_pipeline import ANY_COHORT, PrivatePipeline
from secfed.aggregation.transcript import Transcript
from secfed.encoding.flatten import Update, flatten, unflatten
from secfed.errors import ConfigError, FaultyClientError, FaultyServerError, TooFewSurvivorsError
from secfed.secagg.config import Adversary, Config, Policy
from secfed.secagg.session import Observer, Result, run_session
from secfed.secagg.stages import Stage


class ClippingWarning(UserWarning):
    """Values beyond `clip` were clipped: the mean is not the mean of what came in."""


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
        model_hash: bytes = NO_MODEL,
        record: bool = False,
        privacy: Privacy | None = None,
        example: Update | None = None,
    ) -> Aggregate:
        """Return the weighted mean in float64; see `Aggregator.aggregate`."""
        if privacy is not None and example is not None and not updates:
            return self._private(privacy, {}, {}, {}, record, example)
        by_id, weight_of = by_client(updates, weights)
        silent = checked_dropouts(by_id, dropouts)
        if privacy is not None:
            return self._private(privacy, by_id, weight_of, silent, record, next(iter(by_id.values())))
        pipeline = Pipeline.of(next(iter(by_id.values())), clip=1.0, clients=len(by_id))
        transcript = Transcript("plain", pipeline) if record else None
        sent: dict[int, int] = dict.fromkeys(by_id, 0)
        survivors = arrived(by_id, silent)
        values_of = pipeline.structure.values
        checked = {client_id: naming(client_id, values_of, update) for client_id, update in by_id.items()}
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

    def private_pipeline(self, privacy: Privacy, example: Update, clients: int) -> PrivatePipeline:
        """Return how a private sum is made; see `Aggregator.private_pipeline`.

        Raises:
            ConfigError: The privacy is not central: each update would be in the clear but for its share of the noise.
        """
        if not isinstance(privacy, CentralGaussian):
            raise ConfigError(
                f"Plain shows the server every update, {type(privacy).__name__} needs secure aggregation: "
                "secfed.SecAgg, or secfed.CentralGaussian"
            )
        return PrivatePipeline.of(privacy, example, clients=clients)

    def _private(
        self,
        privacy: Privacy,
        by_id: Mapping[int, Update],
        weight_of: Mapping[int, Any],
        silent: Mapping[int, Stage],
        record: bool,
        example: Update,
    ) -> Aggregate:
        pipeline = self.private_pipeline(privacy, example, len(by_id))
        transcript = Transcript("plain", pipeline) if record else None
        sent: dict[int, int] = dict.fromkeys(by_id, 0)
        vectors = {
            client_id: naming(client_id, pipeline.encode, update, weight_of[client_id])
            for client_id, update in by_id.items()
        }
        survivors = arrived(by_id, silent)  # perhaps nobody: the noise is then released all the same
        total = np.zeros(pipeline.length, np.uint64)
        for client_id in survivors:
            vector = vectors[client_id]
            total += vector
            sent[client_id] = vector.nbytes
            if transcript:
                data = vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
                transcript.record(Stage.MASKED_INPUT_COLLECTION, "to_server", client_id, data)
        total = pipeline.wrap(total.view(np.int64))
        if transcript:
            transcript.total, transcript.survivors = total, tuple(survivors)
        decoded = pipeline.decode(pipeline.release(total))
        return Aggregate(
            decoded.mean,
            tuple(survivors),
            tuple(client_id for client_id in by_id if client_id not in set(survivors)),
            pipeline.expected,
            sent,
            dict.fromkeys(by_id, 0),
            {},
            transcript,
            pipeline.event(len(survivors)),
            decoded.within_clip,
        )


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
        session_colluders: Most clients of the whole session that may collude with a malicious server; makes the sum of
            a k-regular graph indivisible, see `secagg.Config`.
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
    session_colluders: int | None = None
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
        if self.session_colluders is not None and (self.neighbors is None or self.adversary != "malicious_server"):
            raise ConfigError('session_colluders has an effect only with neighbors and adversary="malicious_server"')
        if self.max_weight is not None and self.max_weight < 1:
            raise ConfigError(f"max_weight {self.max_weight} must be at least 1")

    def config(
        self,
        client_ids: Iterable[int],
        pipeline: Pipeline | PrivatePipeline,
        *,
        round: int = 0,
        model_hash: bytes = NO_MODEL,
    ) -> Config:
        """Return the session's configuration for a cohort; `aggregate` numbers its clients from 1, by ascending id."""
        client_ids = list(client_ids)
        neighbors = self._regular(len(client_ids))
        return Config(
            client_ids,
            self._threshold(len(client_ids) if neighbors is None else neighbors, neighbors is None),
            pipeline.length,
            pipeline.modulus_bits,
            neighbors=neighbors,
            colluders=self.colluders,
            session_colluders=None if neighbors is None else self.session_colluders,
            adversary=self.adversary,
            round=round,
            model_hash=model_hash,
            context=pipeline.context,
        )

    def private_pipeline(self, privacy: Privacy, example: Update, clients: int) -> PrivatePipeline:
        """Return how a private sum is made; see `Aggregator.private_pipeline`.

        Raises:
            ConfigError: The noise is the clients', and how many of them must arrive is not said.
        """
        if not isinstance(privacy, DistributedGaussian):
            return PrivatePipeline.of(privacy, example, clients=clients, cohorts=self._cohorts(privacy, 2))
        fewest = privacy.minimum_survivors
        if fewest is None:
            if self._regular(clients) is not None:
                raise ConfigError(
                    f"with neighbors {self.neighbors} the threshold counts a client's neighbors: DistributedGaussian "
                    "needs minimum_survivors, the fewest clients in a sum"
                )
            fewest = self._threshold(clients, True)
        privacy = replace(privacy, colluders=max(privacy.colluders, self.colluders))
        cohorts = self._cohorts(privacy, fewest) if privacy.secret_cohort else ANY_COHORT
        return PrivatePipeline.of(privacy, example, clients=clients, survivors=fewest, cohorts=cohorts)

    def _cohorts(self, privacy: Privacy, fewest: int) -> tuple[int, int]:
        """Return the smallest and the largest Poisson cohort that can run a session with at least `fewest` clients."""
        if privacy.sampling_rate == 1 or privacy.population is None:
            return ANY_COHORT
        return _cohorts(self, privacy.population, round(privacy.sampling_rate * privacy.population), fewest)

    def _refusal(self, clients: int, fewest: int) -> str:
        """Say why a cohort of so many clients cannot run a session, or nothing ("")."""
        if clients < fewest:
            return f"{clients} clients, needed {fewest}"
        neighbors = self._regular(clients)
        threshold = self._threshold(clients if neighbors is None else neighbors, neighbors is None)
        try:
            config = Config(
                range(1, clients + 1),
                threshold,
                1,
                neighbors=neighbors,
                colluders=self.colluders,
                adversary=self.adversary,
            )
        except ConfigError as error:
            return str(error)
        return (self.policy or Policy()).objection(config)

    def _regular(self, clients: int) -> int | None:
        """Return the number of neighbors on a k-regular graph; None on the complete one."""
        return None if self.neighbors is None or self.neighbors >= clients - 1 else self.neighbors

    def _threshold(self, holders: int, complete: bool) -> int:
        """Turn a fraction into a number of clients."""
        if isinstance(self.threshold, int | np.integer):
            return int(self.threshold)
        least = max(2, self.colluders + 1)
        if self.adversary == "malicious_server":
            least = (holders + self.colluders) // 2 + 1
            if self.session_colluders is not None:
                least = max(least, holders // 2 + self.colluders + 1)
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
        model_hash: bytes = NO_MODEL,
        record: bool = False,
        privacy: Privacy | None = None,
        example: Update | None = None,
    ) -> Aggregate:
        """Return the weighted mean of the rounded updates; see `Aggregator.aggregate`."""
        by_id, weight_of = by_client(updates, weights)
        silent = checked_dropouts(by_id, dropouts)
        if privacy is not None:
            return self._private(privacy, by_id, weight_of, silent, round, model_hash, record)
        max_weight = self.max_weight or _next_power_of_two(max(weight_of.values()))
        example = next(iter(by_id.values()))
        pipeline = Pipeline.of(example, clip=self.clip, clients=len(by_id), max_weight=max_weight, bits=self.bits)
        config = self.config(positions(by_id).values(), pipeline, round=round, model_hash=model_hash)
        vectors = {}
        beyond = 0
        for client_id, update in by_id.items():
            seed = self._rounding(round, client_id)
            vectors[client_id] = naming(client_id, partial(pipeline.encode, seed=seed), update, weight_of[client_id])
            beyond += pipeline.fixed_point.clipped(flatten(update))
        if beyond:
            share = f"{beyond} of {pipeline.structure.size * len(by_id)} values"
            warnings.warn(f"{share} were beyond clip {self.clip} and were clipped", ClippingWarning, stacklevel=2)
        transcript = Transcript("secagg", pipeline, config) if record else None
        observer = transcript.record if transcript else None
        result = self._session(config, vectors, silent, observer, 0)
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

    def _private(
        self,
        privacy: Privacy,
        by_id: Mapping[int, Update],
        weight_of: Mapping[int, Any],
        silent: Mapping[int, Stage],
        round: int,
        model_hash: bytes,
        record: bool,
    ) -> Aggregate:
        pipeline = self.private_pipeline(privacy, next(iter(by_id.values())), len(by_id))
        if len(by_id) > pipeline.cohorts[1]:
            raise ConfigError(f"the cohort has {len(by_id)} clients, needed at most {pipeline.cohorts[1]}")
        config = self.config(positions(by_id).values(), pipeline, round=round, model_hash=model_hash)
        plan = pipeline.plan
        shares = {client_id: NoiseShare(plan) for client_id in by_id} if plan else {}
        vectors = {}
        for client_id, update in by_id.items():
            encode = partial(pipeline.encode, seed=self._rounding(round, client_id), noise=shares.get(client_id))
            vectors[client_id] = naming(client_id, encode, update, weight_of[client_id])
        transcript = Transcript("secagg", pipeline, config) if record else None
        observer = transcript.record if transcript else None
        result = self._session(config, vectors, silent, observer, plan.threshold if plan else 0)
        total, survivors = result.sum, result.survivors
        layers = plan.noise.kept(len(survivors) - plan.colluders) if plan else 0
        if plan and layers < len(plan.noise.honest):  # more survivors than the noise was made for
            replies = {
                client_id: shares[client_id].reveal(layers, len(survivors))
                for client_id in survivors
                if client_id not in silent
            }
            if pipeline.noise_is_fixed and len(replies) < len(survivors):
                raise TooFewSurvivorsError(
                    f"{len(replies)} of {len(survivors)} survivors revealed surplus noise, needed all: what the others "
                    "leave would tell how many joined a secret cohort",
                    len(replies),
                    len(survivors),
                )
            for client_id, reply in replies.items():
                result.bytes_up[client_id] += len(reply)
                if transcript:
                    transcript.record(Stage.UNMASKING, "to_server", client_id, reply)
            total = pipeline.wrap(pipeline.centre(total) - surplus(plan, len(survivors), replies))
        if transcript:
            transcript.total, transcript.survivors = total, survivors
        decoded = pipeline.decode(pipeline.release(total))
        return Aggregate(
            decoded.mean,
            survivors,
            result.dropouts,
            pipeline.expected,
            result.bytes_up,
            result.bytes_down,
            result.seconds,
            transcript,
            pipeline.event(len(survivors)),
            decoded.within_clip,
        )

    def _session(
        self,
        config: Config,
        vectors: Mapping[int, Any],
        silent: Mapping[int, Stage],
        observer: Observer | None,
        fewest: int,
    ) -> Result:
        """Run a session in which every client insists on so many survivors before it helps to unmask.

        The session knows clients by their positions, for its ids are coordinates of a small field.
        """
        policy = self.policy or Policy()
        position_of = positions(vectors)
        ids = {position: client_id for client_id, position in position_of.items()}
        if len(config.client_ids) < fewest:
            raise TooFewSurvivorsError(
                f"the cohort has {len(config.client_ids)} clients, needed {fewest} for enough noise",
                len(config.client_ids),
                fewest,
            )
        if objection := policy.objection(config):  # no server is at fault: the caller wrote both
            raise ConfigError(f"the policy of this aggregator does not allow this session: {objection}")
        policy = replace(policy, minimum_cohort=max(policy.minimum_cohort, fewest))
        try:
            result = run_session(
                config,
                {position_of[client_id]: vector for client_id, vector in vectors.items()},
                dropouts={position_of[client_id]: stage for client_id, stage in silent.items()},
                policy=policy,
                observer=observer
                and (lambda stage, direction, position, data: observer(stage, direction, ids[position], data)),
            )
        except FaultyClientError as error:
            client_id = ids[error.client_id]
            text = f"client {client_id}, number {error.client_id} of the session, ended it: {error.args[0]}"
            raise FaultyClientError(text, client_id, error.check) from None
        except FaultyServerError as error:
            count = len(arrived(vectors, silent))
            if error.check in ("C9", "C11", "C17") and count < policy.minimum_cohort:
                least = policy.minimum_cohort
                why = "would bring too little noise" if count < fewest else "are fewer than the policy allows"
                text = f"{count} survivors {why}, needed {least}: the clients did not unmask"
                raise TooFewSurvivorsError(text, count, least) from None
            raise
        return replace(
            result,
            survivors=tuple(ids[position] for position in result.survivors),
            dropouts=tuple(ids[position] for position in result.dropouts),
            bytes_up={ids[position]: sent for position, sent in result.bytes_up.items()},
            bytes_down={ids[position]: sent for position, sent in result.bytes_down.items()},
        )


def _next_power_of_two(number: float) -> int:
    return 1 << (math.ceil(number) - 1).bit_length()


@lru_cache(64)
def _cohorts(aggregator: SecAgg, population: int, expected: int, fewest: int) -> tuple[int, int]:
    refusal = partial(aggregator._refusal, fewest=fewest)
    return sizes_that_run(refusal, population=population, expected=expected, neighbors=aggregator.neighbors)
