"""What a round costs one client and the server: bytes from the layouts of the messages, seconds by doing the work."""

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
from secfed.encoding.flatten import structure
from secfed.secagg.config import Config
from secfed.secagg.rehearsal import client_times
from secfed.secagg.stages import Stage, following, sizes_without_dropouts

ENCODING = "ENCODING"
# Values that one client's work is tried on, times its masks; and clients of a rehearsed session.
_MASK_VALUES, _MOST_VALUES, _MOST_CLIENTS = 20_000_000, 200_000, 2048


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage costs one client.

    Attributes:
        bytes_up: What it sends.
        bytes_down: What it is sent.
        seconds: Processor time of one thread on this machine; None if that was not measured.
    """

    bytes_up: int
    bytes_down: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Costs:
    """What a round without dropouts costs.

    Attributes:
        stages: What each stage costs one client, by name, in order; `ENCODING` is what it does before anything is sent.
        clients: How many clients there are.
        key_holder_bytes: What the server sends to key holders and gets back, together; 0 without key holders.
        measured: What the seconds were measured on; empty if they were not.
    """

    stages: Mapping[str, StageCost]
    clients: int
    key_holder_bytes: int = 0
    measured: str = ""

    @property
    def bytes_up(self) -> int:
        """What one client sends in a round, as `Aggregate.bytes_up` counts it."""
        return sum(stage.bytes_up for stage in self.stages.values())

    @property
    def bytes_down(self) -> int:
        """What one client is sent in a round, as `Aggregate.bytes_down` counts it: without the model."""
        return sum(stage.bytes_down for stage in self.stages.values())

    @property
    def seconds(self) -> float | None:
        """Processor time of one client in a round; None if that was not measured."""
        found = [stage.seconds for stage in self.stages.values() if stage.seconds is not None]
        return sum(found) if found else None

    @property
    def server_bytes(self) -> int:
        """What the server sends and is sent in a round, by and to all clients and key holders."""
        return self.clients * (self.bytes_up + self.bytes_down) + self.key_holder_bytes


def costs_of(prepared: Prepared, *, measure: bool) -> Costs:
    """Return what a round costs.

    Args:
        prepared: The aggregation.
        measure: Whether to do one client's work and time it, which takes up to two seconds.
    """
    config = prepared.channel.config
    costs = _of_secagg(config, measure) if isinstance(config, Config) else _in_the_clear(prepared)
    return _with_encoding(costs, prepared) if measure else costs


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


def _rehearsed(costs: Costs, config: Config) -> Costs:
    """Time one client's answers on few values; only what grows with the vector is scaled by its length."""
    clients, length = len(config.client_ids), config.length
    tried = min(clients, _MOST_CLIENTS if config.complete else max(_MOST_CLIENTS, config.neighbors + 2))
    masks = min(config.neighbors, tried - 1) + 1
    few = min(length, max(1000, min(_MOST_VALUES, _MASK_VALUES // masks)))
    fixed, whole = (client_times(_smaller(config, tried, each), time.process_time) for each in (1, few))
    more_clients, stages = clients / tried, {}
    for stage, seconds in whole.items():
        if stage is Stage.MASKED_INPUT_COLLECTION:
            keys = min(seconds, fixed[stage])
            vector = (seconds - keys) * length / few
            more_peers = more_clients if config.complete else 1.0  # on a k-regular graph they stay as many
            seconds = (keys + vector) * more_peers
        else:
            seconds *= more_clients
        stages[str(stage)] = replace(costs.stages[str(stage)], seconds=seconds)
    measured = _words(few, length) + (f", in a cohort of {tried:,}, scaled" if tried < clients else "")
    return replace(costs, stages=stages, measured=measured)


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
    few = min(size, _MOST_VALUES)
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
        if isinstance(privacy, DistributedGaussian):  # as many bits as so few values need
            privacy = replace(privacy, bits=None)
        survivors = transform.fewest or 1
        return PrivateSum.of(privacy, example, clients=clients, survivors=survivors).encode
    return partial(replace(transform, structure=structure(example)).encode, weight=1)


def _timed(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
