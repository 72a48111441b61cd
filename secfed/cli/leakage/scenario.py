"""One recorded round of clients that hold one picture each: the hardest case for a protection of the sum."""

from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from secfed import CentralGaussian, DistributedGaussian, Paillier, Plain, SecAgg, dp
from secfed.aggregation import Aggregate, Aggregator, Privacy
from secfed.attacks import View
from secfed.cli.leakage.tasks import Digits, Task, Update
from secfed.errors import ConfigError
from secfed.paillier import PrivateKey, generate_keypair

Array = npt.NDArray[np.float64]
AggregatorKind = Literal["plain", "secagg", "paillier"]
PrivacyKind = Literal["none", "central", "distributed"]
AdversaryKind = Literal["server", "outsider", "key-holder", "clients", "server-and-clients"]

# Pictures among which an adversary looks for the one that it rebuilt; the clients' are among them.
CANDIDATES = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        clients: Number of clients, each with one picture; at most 100.
        aggregator: `"plain"`, `"secagg"` or `"paillier"`.
        privacy: Who adds noise: `"none"`, `"central"` (the server) or `"distributed"` (the clients).
        epsilon: Budget of this one round.
        delta: Budget of this one round.
        clip_norm: Updates are scaled down to this norm; with privacy only.
        key_bits: Bits of a Paillier key.
        seed: Decides pictures and model; keys and noise never come from it.
        adversary: Who attacks: the server, an outsider who reads the wire, the holder of the Paillier key, or clients
            that work together.
        colluders: How many clients work together; None: all but one.
    """

    clients: int = 8
    aggregator: AggregatorKind = "plain"
    privacy: PrivacyKind = "none"
    epsilon: float = 3.0
    delta: float = 1e-5
    clip_norm: float = 1.0
    key_bits: int = 3072
    seed: int = 0
    adversary: AdversaryKind = "server"
    colluders: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.clients <= CANDIDATES:
            raise ConfigError(f"{self.clients} clients: needed 2 to {CANDIDATES}")
        if self.adversary == "key-holder" and self.aggregator != "paillier":
            raise ConfigError(
                f"--adversary key-holder needs --aggregator paillier: {self.aggregator} has no key holder"
            )
        if self.colluders is not None and not 1 <= self.colluders < self.clients:
            raise ConfigError(f"{self.colluders} colluders of {self.clients} clients: needed 1 to {self.clients - 1}")
        if self.privacy == "distributed" and self.aggregator == "plain":
            raise ConfigError(
                "--privacy distributed needs --aggregator secagg or paillier: with plain the server sees every update"
            )


@dataclass(frozen=True, slots=True)
class RecordedRound:
    """One round, and the pictures that only its clients had.

    Attributes:
        settings: What was run.
        task: What the clients trained; its model and other pictures are public.
        view: What the adversary saw: all that an attack is given.
        released: The mean that the round ends with, noise included; everybody sees it.
        without: Means of further rounds with the same updates, each without one client, as the server saw them, by the
            id of that client.
        labels: Each client's label by id, only for scoring.
        pictures: Each client's picture by id, shape `(pixels,)`, only for scoring.
        candidates: Pictures among which the adversary searches, shape `(100, pixels)`.
        number_of: Which candidate each client's picture is, by id.
        baseline: The mean of other pictures: a guess without any information.
    """

    settings: Settings
    task: Task = field(repr=False)
    view: View = field(repr=False)
    released: Any = field(repr=False)
    without: dict[int, Any] = field(repr=False)
    labels: dict[int, int] = field(repr=False)
    pictures: dict[int, Array] = field(repr=False)
    candidates: Array = field(repr=False)
    number_of: dict[int, int] = field(repr=False)
    baseline: Array = field(repr=False)

    @property
    def colluders(self) -> tuple[int, ...]:
        """Ids of the clients that work together against the others; empty for other adversaries."""
        return tuple(client_id for client_id in self.pictures if client_id not in self.view.clients)


def record_round(settings: Settings, task: Task | None = None, *, left_out: int = 0) -> RecordedRound:
    """Train once on every client's picture, aggregate, and keep what the server saw.

    Args:
        settings: What to run.
        task: What the clients train; by default `Digits`.
        left_out: How many further rounds to run, each without one client; 0 with two clients. Each round costs as much
            as the first one.

    Raises:
        ConfigError: The settings cannot work together.
        MissingExtraError: The data set's package is not installed.
    """
    task = Digits(settings.seed) if task is None else task
    if settings.clients > len(task.pictures):
        raise ConfigError(f"{settings.clients} clients: {task.name} has pictures for {len(task.pictures)}")
    ids = range(1, settings.clients + 1)
    pictures = {client_id: task.pictures[client_id - 1] for client_id in ids}
    labels = {client_id: int(task.labels[client_id - 1]) for client_id in ids}
    updates = {client_id: task.update(pictures[client_id], labels[client_id]) for client_id in ids}
    aggregator = aggregator_of(settings.aggregator, settings.key_bits, 1, settings.seed)
    noise = noise_for(settings.privacy, settings.epsilon, settings.delta, rounds=1)
    private = partial(privacy_of, settings.privacy, settings.clip_norm, noise)
    result = aggregator.aggregate(updates, record=True, privacy=private(settings.clients))
    own = {client_id: clipped(settings, updates[client_id]) for client_id in list(ids)[-_colluders(settings) :]}
    without = {}
    for client_id in range(1, min(left_out, settings.clients if settings.clients > 2 else 0) + 1):
        others = {other: update for other, update in updates.items() if other != client_id}
        again = aggregator.aggregate(others, round=client_id, record=True, privacy=private(len(others)))
        without[client_id] = View.of_server(again.transcript).mean
    return RecordedRound(
        settings,
        task,
        _view(settings, result, own),
        result.mean,
        without,
        labels,
        pictures,
        np.concatenate((task.pictures, task.others[0]))[:CANDIDATES],
        {client_id: client_id - 1 for client_id in ids},
        task.others[0].mean(axis=0),
    )


def _view(settings: Settings, result: Aggregate, own: dict[int, Any]) -> View:
    if settings.adversary == "server":
        return View.of_server(result.transcript)
    if settings.adversary == "outsider":
        return View.of_outsider(result.transcript)
    if settings.adversary == "key-holder":
        return View.of_key_holder(result.transcript)
    released = result.mean if settings.adversary == "clients" else None
    return View.of_clients(result.transcript, own, released=released)


def _colluders(settings: Settings) -> int:
    return settings.clients - 1 if settings.colluders is None else settings.colluders


def clipped(settings: Settings, update: Update) -> Update:
    """Return an update as a client sends it: with privacy, scaled down to the clip."""
    norm = float(np.sqrt(sum(np.vdot(array, array) for array in update.values())))
    factor = 1.0 if settings.privacy == "none" else min(1.0, settings.clip_norm / norm)
    return {name: factor * array for name, array in update.items()}


@cache
def _key(key_bits: int) -> PrivateKey:
    """Make one key for the whole process: it takes a second, and protects nothing here."""
    return generate_keypair(key_bits)[1]


def aggregator_of(kind: AggregatorKind, key_bits: int, max_weight: int, seed: int) -> Aggregator:
    """Return an aggregator that needs all clients; keys do not follow from the seed.

    Paillier uses its fast kind of noise: without the key, an adversary sees only noise in any case.
    """
    if kind == "plain":
        return Plain()
    if kind == "paillier":
        return Paillier(private_key=_key(key_bits), noise="short", max_weight=max_weight, rounding_seed=seed)
    return SecAgg(threshold=1.0, max_weight=max_weight, rounding_seed=seed)


def noise_for(privacy: PrivacyKind, epsilon: float, delta: float, rounds: int) -> float:
    """Return the noise multiplier that spends a budget in this many rounds; 0 without privacy."""
    return 0.0 if privacy == "none" else dp.noise_multiplier(epsilon=epsilon, delta=delta, rounds=rounds)


def privacy_of(privacy: PrivacyKind, clip_norm: float, noise_multiplier: float, clients: int) -> Privacy | None:
    """Return the privacy for an aggregator that requires all of these clients to survive."""
    if privacy == "none":
        return None
    if privacy == "central":
        return CentralGaussian(clip_norm, noise_multiplier)
    return DistributedGaussian(clip_norm, noise_multiplier, minimum_survivors=clients)
