"""What each part of a mask is for: the protocol with one part weakened at a time, and the attack that then succeeds.

Threat model: an honest, curious server. An attack is given the messages that passed the server, and nothing else.

Each attack fails if the part that was weakened has its full strength. The control shows it: the same attack, with as
many tries, on the real protocol.

Source: Bonawitz et al., *Practical Secure Aggregation for Privacy-Preserving Machine Learning*, CCS 2017, sections 4 to
6; Bell et al., *Secure Single-Server Aggregation with (Poly)Logarithmic Overhead*, CCS 2020, section 3.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import Like, SeedSearch, Uniformity, Unmasked, reused_mask, uniformity, weak_seed, without_self_mask
from secfed.cli.leakage.weak_sessions import Repeating, Seen, Signed, Vector, self_mask_seed, session
from secfed.cli.simulation.random import generator
from secfed.crypto import prg
from secfed.errors import ConfigError
from secfed.secagg import Client, Config, binding
from secfed.secagg.states import Shared

RING_BITS = 32
# Standard deviation of the entries of an update: they have 12 bits and a sign, in a ring of 32 bits.
_SPREAD = 1000.0
# So the first 8 bits of an entry are surely equal. The last entry is the weight, which is 1.
_EQUAL_BITS = 8
_WEIGHT = 1
_MOST_SEED_BITS = 32
_LATE = 2
_LEAST_LUCK = 1e-99  # what the summary distinguishes from 0
# Sessions of the real protocol of which the masked vectors are tested.
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        clients: Number of clients, 3 to 100. Sessions with a weak pair seed have two, which have one pair mask.
        length: Entries of a vector, 64 to 2^20.
        self_bits: Bits of the weak self seed, 1 to 32. They are in the AES key, so each try sets up a cipher.
        pair_bits: Bits of the weak pair seed, 1 to 32. They are in the counter block, so one cipher makes the
            masks of all seeds.
        seed: Decides updates and weak seeds; the secrets of the real protocol never come from it.
    """

    clients: int = 8
    length: int = 256
    self_bits: int = 16
    pair_bits: int = 26
    seed: int = 0

    def __post_init__(self) -> None:
        if not 3 <= self.clients <= 100:
            raise ConfigError(f"{self.clients} clients: needed 3 to 100")
        if not 64 <= self.length <= 1 << 20:
            raise ConfigError(f"vectors of {self.length} entries: needed 64 to {1 << 20}")
        for name in ("self_bits", "pair_bits"):
            if not 1 <= getattr(self, name) <= _MOST_SEED_BITS:
                raise ConfigError(f"{name} is {getattr(self, name)}: needed 1 to {_MOST_SEED_BITS}")

    def config(self, clients: int) -> Config:
        """Return the parameters of a session of this many clients, of which one may drop out if there are three."""
        return Config(range(1, clients + 1), max(2, clients - 1), self.length, RING_BITS)

    def updates(self, clients: int, number: int = 0) -> dict[int, Signed]:
        """Draw updates as the fixed-point encoding writes them, each with the weight at its end."""
        random = generator(self.seed, "updates", number)
        drawn = np.rint(random.normal(0, _SPREAD, (clients, self.length))).astype(np.int64)
        drawn[:, -1] = _WEIGHT
        return {client_id: drawn[client_id - 1] for client_id in range(1, clients + 1)}

    def weak_seed(self, bits: int) -> int:
        """Draw a weak seed, which is no secret of the protocol."""
        return int(generator(self.seed, "weak seed", bits).integers(1 << bits))


@dataclass(frozen=True, slots=True)
class Attempt:
    """How one attack went.

    Attributes:
        success: Whether the attack says that it found what it is after.
        recovered: Fraction of the entries that it found exactly; 0 if a search found no seed.
        tries: Seeds tried; None where there is nothing to search.
        seconds: Processor time of the attack.
        luck: An upper bound on the probability that noise would give as much; for a search that found a seed, that any
            of its seeds fits noise. None for a search that found none.
    """

    success: bool
    recovered: float
    tries: int | None
    seconds: float
    luck: float | None

    def __str__(self) -> str:
        found = f"{100 * self.recovered:.0f} % of the entries exact" if self.success else "finds nothing"
        search = "" if self.tries is None else f", {self.tries:,} seeds in {self.seconds:.2g} s"
        if self.luck is None:
            return found + search
        luck = f"{self.luck:.2g}" if self.luck > _LEAST_LUCK else f"below {_LEAST_LUCK:.0e}"
        return f"{found}{search} (luck {luck})"


@dataclass(frozen=True, slots=True)
class Variant:
    """One weakness, the attack on it, and the same attack on the real protocol.

    Attributes:
        name: The variant.
        weakened: What is weak.
        attack: What the attack does.
        looks_uniform: Whether the masked vectors of the weak sessions pass the tests of uniformity.
        weak: How the attack went.
        control: How it went on the real protocol.
    """

    name: str
    weakened: str
    attack: str
    looks_uniform: bool
    weak: Attempt
    control: Attempt


@dataclass(frozen=True, slots=True)
class WeakMasks:
    """What was found.

    Attributes:
        settings: What was run.
        uniformity: Of the masked vectors of three sessions of the real protocol.
        variants: Each weakness.
    """

    settings: Settings
    uniformity: Uniformity
    variants: tuple[Variant, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as the command line prints it."""
        found = self.uniformity
        return {
            "attack": "masks",
            "adversary": "server",
            **asdict(self.settings),
            "uniformity": {"passed": found.passed, "p_value": found.p_value, **asdict(found)},
            "variants": [asdict(variant) for variant in self.variants],
        }

    def summary(self) -> list[str]:
        """Say in a few lines what was found."""
        settings, found = self.settings, self.uniformity
        verdict = "cannot be told from uniform numbers" if found.passed else "are not uniform"
        worst = min(found.tests, key=lambda test: test.p_value)
        lines = [
            f"masks attack, honest server, {settings.clients} clients, {settings.length} entries modulo 2**{RING_BITS}",
            f"real protocol: {found.vectors} masked vectors of {_ROUNDS} rounds {verdict}: {len(found.tests)} tests, "
            f"smallest p-value {worst.p_value:.2g} ({worst.name}), for all tests together {found.p_value:.2g}",
            "luck: the probability that noise gives as much as the attack found, at most",
        ]
        for each in self.variants:
            looks = "look" if each.looks_uniform else "do not look"
            lines += [
                f"{each.name}: {each.weakened}. The attack {each.attack}.",
                f"  weakened: {each.weak}; its masked vectors {looks} uniform",
                f"  real protocol: {each.control}",
            ]
        return lines


def run(settings: Settings) -> WeakMasks:
    """Test the masked vectors of real sessions, and run every variant and its control."""
    rounds = [
        session(settings.config(settings.clients), settings.updates(settings.clients, number)).all_masked()
        for number in range(_ROUNDS)
    ]
    variants = (weak_self_seed(settings), weak_pair_seed(settings), mask_reused(settings), no_self_mask(settings))
    return WeakMasks(settings, uniformity(rounds, RING_BITS), variants)


def weak_self_seed(settings: Settings) -> Variant:
    """Attack a late vector whose self mask has a seed of few bits; the holders have opened its pair masks."""
    bits = settings.self_bits
    weak = settings.weak_seed(bits).to_bytes(prg.SEED_BYTES, "little")
    update = settings.updates(settings.clients)[_LATE]

    def attack(seen: Seen) -> Attempt:
        started = time.process_time()
        rest = without_self_mask(seen.masked(_LATE), *seen.pair_masks(_LATE), RING_BITS).values
        return _attempt(_search(rest.astype(np.uint32), in_key, bits), update, started)

    weakened, real = _late_sessions(settings, [weak])
    return Variant(
        "weak self seed",
        f"client {_LATE}'s self mask has a seed of {bits} bits, and its vector comes when the server has given it up",
        "takes off the pair masks that the holders opened, then tries every seed of a self mask",
        _looks_uniform(weakened),
        attack(weakened),
        attack(real),
    )


def weak_pair_seed(settings: Settings) -> Variant:
    """Attack two clients whose pair mask has a seed of few bits; the holders have opened their self masks."""
    updates, config, bits = settings.updates(2), settings.config(2), settings.pair_bits
    weak = settings.weak_seed(bits).to_bytes(prg.SEED_BYTES, "big")

    def swap(client: Client, state: Shared) -> tuple[list[bytes], list[bytes]]:
        other = 3 - client.client_id
        (key,) = state.mask_keys.values()
        real = binding.pair_seed(state.mask, key, state.session_id, client.client_id, other)
        return ([weak], [real]) if client.client_id < other else ([real], [weak])

    def attack(seen: Seen) -> Attempt:
        started = time.process_time()
        return _attempt(_search(seen.masked(1) - seen.self_mask(1), in_counter, bits), updates[1], started)

    weakened = session(config, updates, swap=swap)
    return Variant(
        "weak pair seed",
        f"the mask that two clients have in common has a seed of {bits} bits",
        "takes off the self mask that the holders opened, then tries every seed of a pair mask",
        _looks_uniform(weakened),
        attack(weakened),
        attack(session(config, updates)),
    )


def mask_reused(settings: Settings) -> Variant:
    """Attack two sessions in which every party, the server too, drew the same secrets."""
    rounds = [settings.updates(settings.clients, number) for number in (0, 1)]
    config = settings.config(settings.clients)

    def attack(first: Seen, second: Seen) -> Attempt:
        started = time.process_time()
        found = reused_mask(first.masked(1), second.masked(1), RING_BITS)
        return _attempt(found, rounds[0][1] - rounds[1][1], started)

    entropies = {party: Repeating() for party in (0, *config.client_ids)}
    repeated = [session(config, updates, entropies=entropies) for updates in rounds]
    return Variant(
        "mask reused",
        "all parties, the server too, draw the same secrets in two sessions with the same round number",
        "subtracts a client's two masked vectors, which leaves the difference of its updates",
        _looks_uniform(*repeated),
        attack(*repeated),
        attack(*[session(config, updates) for updates in rounds]),
    )


def no_self_mask(settings: Settings) -> Variant:
    """Attack a late vector that has no self mask; the holders have opened its pair masks."""
    update = settings.updates(settings.clients)[_LATE]

    def attack(seen: Seen) -> Attempt:
        started = time.process_time()
        found = without_self_mask(seen.masked(_LATE), *seen.pair_masks(_LATE), RING_BITS)
        return _attempt(found, update, started)

    weakened, real = _late_sessions(settings, [])
    return Variant(
        "no self mask",
        f"client {_LATE} has pair masks only, and its vector comes when the server has given it up",
        "takes off the pair masks that the holders opened",
        _looks_uniform(weakened),
        attack(weakened),
        attack(real),
    )


def in_key(seeds: npt.NDArray[np.uint64], entries: int) -> Vector:
    """Expand seeds whose few bits are the first ones of 32 bytes, in the AES key; the rest is zero.

    Returns:
        Masks, uint32, shape `(seeds, entries)`.
    """
    size = entries * (RING_BITS // 8)
    streams = [prg.keystream(seed.to_bytes(prg.SEED_BYTES, "little"), size) for seed in seeds.tolist()]
    return np.frombuffer(b"".join(streams), "<u4").reshape(len(seeds), entries)


def in_counter(seeds: npt.NDArray[np.uint64], entries: int) -> Vector:
    """Expand a range of seeds whose few bits are the last ones of 32 bytes, in the counter block; the rest is zero.

    The mask of seed n begins n blocks after that of seed 0 in one keystream, so a range of seeds takes one cipher.

    Returns:
        Masks, uint32, shape `(seeds, entries)`.
    """
    words = prg.BLOCK_BYTES // (RING_BITS // 8)
    size = (len(seeds) - 1) * prg.BLOCK_BYTES + entries * (RING_BITS // 8)
    stream = prg.keystream(bytes(prg.SEED_BYTES), size, int(seeds[0]) * prg.BLOCK_BYTES)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(stream, "<u4"), entries)
    return windows[::words]


def _late_sessions(settings: Settings, instead: list[bytes]) -> tuple[Seen, Seen]:
    """Run two sessions with a late client: one with masks of other seeds instead of its self mask, and a real one."""

    def swap(client: Client, state: Shared) -> tuple[list[bytes], list[bytes]]:
        return (instead, [self_mask_seed(client, state)]) if client.client_id == _LATE else ([], [])

    updates, config = settings.updates(settings.clients), settings.config(settings.clients)
    return session(config, updates, swap=swap, late=_LATE), session(config, updates, late=_LATE)


def _search(rest: Vector, expand: Any, bits: int) -> SeedSearch:
    return weak_seed(rest, expand, bits, Like(RING_BITS, _EQUAL_BITS, {len(rest) - 1: _WEIGHT}))


def _attempt(found: SeedSearch | Unmasked, wanted: Signed, started: float) -> Attempt:
    seconds = time.process_time() - started
    recovered = 0.0 if found.values is None else float(np.mean(found.values == wanted))
    if isinstance(found, SeedSearch):
        luck = found.luck if found.found else None  # the luck of a search is that of a find
        return Attempt(found.found, recovered, found.tries, seconds, luck)
    return Attempt(found.found, recovered, None, seconds, found.false_alarm)


def _looks_uniform(*rounds: Seen) -> bool:
    return uniformity([each.all_masked() for each in rounds], RING_BITS).passed
