"""What a round costs one client and the server: bytes from the message layouts, seconds from doing the work."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from secfed.aggregation.prepared import Prepared
from secfed.aggregation.privacy import DistributedGaussian
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.weighted_mean import FloatMean
from secfed.crypto.packing import packed_bytes
from secfed.crypto.prg import SEED_BYTES
from secfed.dp.noise.messages import SurplusNoiseResponse
from secfed.dp.noise.surplus import SURPLUS_NOISE
from secfed.encoding.flatten import structure
from secfed.paillier import Config as PaillierConfig
from secfed.paillier import messages as encryption
from secfed.paillier.rehearsal import client_times as encryption_times
from secfed.paillier.stages import Stage as PaillierStage
from secfed.secagg.config import Config
from secfed.secagg.rehearsal import client_times, server_time
from secfed.secagg.stages import Stage, following, sizes_without_dropouts

ENCODING = "ENCODING"
# Values times masks for timing one client's work; and clients of a rehearsed session.
_MASK_VALUES, _MOST_VALUES = 20_000_000, 500_000
_NOISY_VALUES, _FEWEST_NOISY = 200_000, 4_096
_MOST_CLIENTS, _MOST_WHO_SIGN = 2048, 512
# Masks of one vector in the sessions that show what a mask costs.
_FEW_MASKS = 2, 34
_TRIES = 2
# Clients of the sessions that show what a server does.
_FEW_CLIENTS = 5, 20


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage costs one client.

    Attributes:
        bytes_up: Bytes that it sends.
        bytes_down: Bytes that it receives.
        seconds: Processor time of one thread on this machine; None if that was not measured.
    """

    bytes_up: int
    bytes_down: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What a round without dropouts costs.

    Attributes:
        stages: What each stage costs one client, by name, in order; `ENCODING` is the work before anything is sent.
        clients: How many clients there are.
        key_holder_bytes: What the server sends to key holders and gets back, together; 0 without key holders.
        measured: What the seconds were measured on; empty if they were not asked for.
        seconds_once: Time that a client spends once for each key, not in every round.
        server_seconds: Processor time of the server in a round, estimated from sessions of a few clients; with `secagg`
            only, else None.
        unmeasurable: Whether measuring would take too long.
    """

    stages: Mapping[str, StageCost]
    clients: int
    key_holder_bytes: int = 0
    measured: str = ""
    seconds_once: float = 0.0
    server_seconds: float | None = None
    unmeasurable: bool = False

    @property
    def bytes_up(self) -> int:
        """What one client sends in a round, as `Aggregate.bytes_up` counts it."""
        return sum(stage.bytes_up for stage in self.stages.values())

    @property
    def bytes_down(self) -> int:
        """What one client receives in a round, as `Aggregate.bytes_down` counts it: without the model."""
        return sum(stage.bytes_down for stage in self.stages.values())

    @property
    def seconds(self) -> float | None:
        """Processor time of one client in a round; None if that was not measured."""
        found = [stage.seconds for stage in self.stages.values() if stage.seconds is not None]
        return sum(found) if found else None

    @property
    def server_bytes(self) -> int:
        """What the server sends and receives in a round, for all clients and key holders together."""
        return self.clients * (self.bytes_up + self.bytes_down) + self.key_holder_bytes


def costs_of(prepared: Prepared, config: Config | PaillierConfig | None, *, measure: bool) -> Costs:
    """Return what a round costs.

    Args:
        prepared: The aggregation.
        config: The session's parameters; None in the clear.
        measure: Whether to do one client's work and time it, which takes up to two seconds.
    """
    if isinstance(config, Config):
        costs = _of_secagg(config, measure)
    elif isinstance(config, PaillierConfig):
        costs = _of_paillier(config, measure)
    else:
        costs = _in_the_clear(prepared)
    costs = _with_surplus(costs, prepared)
    return _with_encoding(costs, prepared) if measure and not costs.unmeasurable else costs


def _in_the_clear(prepared: Prepared) -> Costs:
    transform = prepared.transform
    if isinstance(transform, FloatMean):
        widest = np.result_type(*transform.structure.dtypes)
        sent = 8 + transform.structure.size * widest.itemsize
    else:
        assert isinstance(transform, PrivateSum)
        sent = transform.length * transform.dtype.itemsize
    return Costs({str(Stage.MASKED_INPUT_COLLECTION): StageCost(sent, 0)}, len(prepared.clients))


def _of_secagg(config: Config, measure: bool) -> Costs:
    stages: dict[str, StageCost] = {}
    payload, stage = packed_bytes(config.length, config.modulus_bits), Stage.ADVERTISE_KEYS
    while stage is not Stage.DONE:
        down, up = sizes_without_dropouts(stage, config, payload)
        stages[str(stage)] = StageCost(up, down)
        stage = following(stage, config)
    costs = Costs(stages, len(config.client_ids))
    return _rehearsed(costs, config) if measure else costs


def _of_paillier(config: PaillierConfig, measure: bool) -> Costs:
    key, plaintexts = config.public_key, config.packing.plaintexts
    members = -(-len(config.client_ids) // 8)
    holder = encryption.DecryptionRequest.size(members, config.column_bytes)
    holder += encryption.DecryptionResponse.size(plaintexts * key.plaintext_bytes(config.degree))
    up, down = encryption.EncryptedInputResponse.size(config.column_bytes), encryption.EncryptedInputRequest.size()
    stage = StageCost(up, down)
    costs = Costs({str(PaillierStage.ENCRYPTED_INPUT_COLLECTION): stage}, len(config.client_ids), holder)
    if not measure:
        return costs
    times = encryption_times(config, time.process_time)
    if times is None:
        return replace(costs, measured="not measured: a key this large takes too long", unmeasurable=True)
    each, once = times
    stages = {name: replace(cost, seconds=each * plaintexts) for name, cost in costs.stages.items()}
    measured = f"measured here on a few of {plaintexts:,} plaintexts, scaled"
    return replace(costs, stages=stages, measured=measured, seconds_once=once)


def _with_surplus(costs: Costs, prepared: Prepared) -> Costs:
    """Add the stage in which clients give up the noise that is not needed when all of them survive."""
    transform = prepared.transform
    surplus = prepared.private.surplus_noise(prepared.clients) if prepared.private else None
    if surplus is None or not surplus.request:
        return costs
    assert isinstance(transform, PrivateSum) and transform.plan is not None
    noise = transform.plan.noise
    layers = len(noise.honest) - noise.kept(len(prepared.clients) - transform.plan.colluders)
    stage = StageCost(SurplusNoiseResponse.size(SEED_BYTES * layers), len(surplus.request))
    return replace(costs, stages={**costs.stages, SURPLUS_NOISE: stage})


def _rehearsed(costs: Costs, config: Config) -> Costs:
    """Time one client's answers; in a large session, keys with a vector of one entry, and masks with few keys."""
    clients, length, masks = len(config.client_ids), config.length, config.neighbors + 1
    client_times(Config([1, 2], 2, 1), time.process_time)  # warm up: the first call also loads and sets up things
    most = _MOST_WHO_SIGN if config.malicious_server else _MOST_CLIENTS
    tried = min(clients, most if config.complete else max(most, config.neighbors + 2))
    if tried == clients and length <= _MOST_VALUES and masks * length <= _MASK_VALUES:
        seconds = client_times(config, time.process_time)
        measured = _words(length, length)
    else:
        # The number of peers is the same on any k-regular graph; everything else grows with the cohort.
        seconds = {
            stage: taken * (clients / tried if config.complete or stage is not Stage.MASKED_INPUT_COLLECTION else 1)
            for stage, taken in client_times(_smaller(config, tried, 1), time.process_time).items()
        }
        few = min(length, _MOST_VALUES)
        seconds[Stage.MASKED_INPUT_COLLECTION] += _vector_seconds(config.modulus_bits, few, masks) * length / few
        measured = _words(few, length) + (f", in a cohort of {tried:,}, scaled" if tried < clients else "")
    stages = {name: replace(cost, seconds=seconds[Stage[name]]) for name, cost in costs.stages.items()}
    server = _server_seconds(config, min(length, _MOST_VALUES))
    return replace(costs, stages=stages, measured=measured, server_seconds=server)


def _vector_seconds(modulus_bits: int, length: int, masks: int) -> float:
    """Time what a vector costs beyond the keys: packing it, and each of its masks."""
    few, many = _FEW_MASKS
    taken = []
    for clients in _FEW_MASKS:
        config = Config(range(1, clients + 1), clients, length, modulus_bits)
        tries = [client_times(config, time.process_time)[Stage.MASKED_INPUT_COLLECTION] for _ in range(_TRIES)]
        taken.append(min(tries))
    each = max(0.0, taken[1] - taken[0]) / (many - few)
    return taken[0] + each * max(0, masks - few)


def _server_seconds(config: Config, values: int) -> float:
    """Estimate a server's work from small sessions: a part for each client, one for each share, and one for each value.

    Args:
        config: The session's parameters.
        values: How many entries of the vectors are tried.
    """
    clients, (few, many) = len(config.client_ids), _FEW_CLIENTS

    def seconds(tried: int, length: int) -> float:
        threshold = max(tried // 2 + 1, round(tried * config.threshold / config.holders))
        small = Config(range(1, tried + 1), threshold, length, config.modulus_bits, adversary=config.adversary)
        return server_time(small, time.process_time)

    one, more, whole = seconds(few, 1), seconds(many, 1), seconds(few, values)
    share = max(0.0, more / many - one / few) / (many - few)
    each = max(0.0, one / few - share * few)
    vector = max(0.0, whole - one) / few * config.length / values
    return clients * (each + share * config.holders + vector)


def _smaller(config: Config, clients: int, length: int) -> Config:
    """Return the configuration with fewer clients and values."""
    threshold, neighbors, colluders = config.threshold, config.neighbors, config.colluders
    session_colluders = config.session_colluders
    if clients < len(config.client_ids):
        if config.complete:
            share = clients / len(config.client_ids)
            threshold, neighbors, colluders = max(round(threshold * share), clients // 2 + 1), clients - 1, 0
        elif session_colluders is not None:
            session_colluders = max(colluders, session_colluders * clients // len(config.client_ids))
    return Config(
        range(1, clients + 1),
        threshold,
        length,
        config.modulus_bits,
        neighbors=neighbors,
        colluders=colluders,
        session_colluders=session_colluders,
        adversary=config.adversary,
    )


def _words(few: int, values: int) -> str:
    return f"measured here on {few:,} values" + (", scaled" if few < values else "")


def _with_encoding(costs: Costs, prepared: Prepared) -> Costs:
    """Add the time that encoding takes, with a client's noise, and that scales with the values."""
    transform = prepared.transform
    size = transform.structure.size
    most = _MOST_VALUES
    if isinstance(transform, PrivateSum) and transform.plan:  # noise takes the longest
        most = max(_FEWEST_NOISY, _NOISY_VALUES // len(transform.plan.noise.honest))
    few = min(size, most)
    example = np.zeros(few, np.float32)
    encode = _encoder(transform, example, len(prepared.clients))
    seconds = _timed(lambda: encode(example)) * size / few
    stages = {ENCODING: StageCost(0, 0, seconds), **costs.stages}
    measured = costs.measured or _words(few, size)
    return replace(costs, stages=stages, measured=measured)


def _encoder(transform: Any, example: Any, clients: int) -> Callable[[Any], Any]:
    """Return how a client encodes an example under the same parameters; the step may differ, not the work."""
    if isinstance(transform, PrivateSum):
        privacy = transform.privacy
        if isinstance(privacy, DistributedGaussian):  # as many bits as these few values need
            privacy = replace(privacy, bits=None)
        survivors = transform.fewest or 1
        return PrivateSum.of(privacy, example, clients=clients, survivors=survivors).encode
    return partial(replace(transform, structure=structure(example)).encode, weight=1)


def _timed(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
