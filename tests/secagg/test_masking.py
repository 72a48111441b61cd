"""The seam for other kinds of masking: two toys run through unchanged clients, servers, messages and snapshots."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from secfed import errors
from secfed.crypto.entropy import Entropy, predictable_secrets
from secfed.secagg import Config, Server, Stage, masking
from secfed.secagg import config as config_module
from tests.secagg.forge import IDS, Session, assert_server_refuses, complete, edit, opened, ring, session_id

TOYS: dict[str, Any] = {}
CODES = {"words": 200, "own_key": 201}


@pytest.fixture(autouse=True)
def _kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in CODES.items():
        monkeypatch.setitem(masking._KINDS, name, TOYS[name])
        monkeypatch.setitem(config_module._MASKINGS, name, code)  # type: ignore[misc]


def stream(seed: bytes, words: int) -> Any:
    """An expansion that is not AES: SHAKE-256."""
    return np.frombuffer(hashlib.shake_256(seed).digest(8 * words), "<u8")


class Words:
    """Another expansion and another payload: whole 64-bit words."""

    def __init__(self, config: Config, session_id: bytes, threads: int | None) -> None:
        self.length, self.modulus = config.length, np.uint64((1 << config.modulus_bits) - 1)
        self.dtype = config.dtype
        self.payload_bytes = 8 * self.length

    def masks(self, added: Sequence[bytes], subtracted: Sequence[bytes]) -> Any:
        total = np.zeros(self.length, np.uint64)
        for seed in added:
            total += stream(seed, self.length)
        for seed in subtracted:
            total -= stream(seed, self.length)
        return total

    def mask(
        self, vector: Any, added: Sequence[bytes], subtracted: Sequence[bytes], entropy: Entropy
    ) -> Iterator[bytes]:
        yield (vector.astype(np.uint64) + self.masks(added, subtracted)).tobytes()

    def accumulator(self, saved: bytes | None = None) -> "WordsSum":
        return WordsSum(self, saved)


class WordsSum:
    def __init__(self, kind: Any, saved: bytes | None) -> None:
        self.kind = kind
        words = kind.payload_bytes // 8
        self.total = np.zeros(words, np.uint64) if saved is None else np.frombuffer(saved, "<u8").copy()

    def add(self, payload: bytes | memoryview) -> None:
        if len(payload) != self.kind.payload_bytes:
            raise errors.MalformedMessageError(f"{len(payload)} bytes", 0)
        self.total += np.frombuffer(payload, "<u8")

    def remove(self, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
        self.total -= self.kind.masks(added, subtracted)

    def sum(self) -> Any:
        return (self.total & self.kind.modulus).astype(self.kind.dtype)

    def to_bytes(self) -> bytes:
        return self.total.tobytes()


class OwnKey(Words):
    """Key-homomorphic: a long mask that is linear in a short key of the client's own; only the key gets pair masks.

    The masks are M k modulo 2^64 with a public matrix M of the session: linear as a ring-LWE one, without its noise and
    without its security.
    """

    KEY_WORDS = 4
    made: ClassVar[list[bytes]] = []

    def __init__(self, config: Config, session_id: bytes, threads: int | None) -> None:
        super().__init__(config, session_id, threads)
        OwnKey.made.append(session_id)
        self.session_id = session_id
        self.payload_bytes = 8 * (self.length + self.KEY_WORDS)

    def expand(self, key: Any) -> Any:
        matrix = stream(self.session_id, self.length * self.KEY_WORDS).reshape(self.length, self.KEY_WORDS)
        return (matrix * key).sum(axis=1, dtype=np.uint64)

    def key_masks(self, added: Sequence[bytes], subtracted: Sequence[bytes]) -> Any:
        total = np.zeros(self.KEY_WORDS, np.uint64)
        for seed in added:
            total += stream(seed, self.KEY_WORDS)
        for seed in subtracted:
            total -= stream(seed, self.KEY_WORDS)
        return total

    def mask(
        self, vector: Any, added: Sequence[bytes], subtracted: Sequence[bytes], entropy: Entropy
    ) -> Iterator[bytes]:
        key = np.frombuffer(entropy.draw("own_key", 8 * self.KEY_WORDS), "<u8")
        long = vector.astype(np.uint64) + self.expand(key)
        yield long.tobytes()
        yield (key + self.key_masks(added, subtracted)).tobytes()

    def accumulator(self, saved: bytes | None = None) -> "OwnKeySum":
        return OwnKeySum(self, saved)


class OwnKeySum(WordsSum):
    def remove(self, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
        self.total[self.kind.length :] -= self.kind.key_masks(added, subtracted)

    def sum(self) -> Any:
        summed = self.total[: self.kind.length] - self.kind.expand(self.total[self.kind.length :])
        return (summed & self.kind.modulus).astype(self.kind.dtype)


TOYS.update(words=Words, own_key=OwnKey)
BY_TOY = pytest.mark.parametrize("name", CODES)


@pytest.mark.sampled(2)
@BY_TOY
@pytest.mark.parametrize("bits", [5, 16, 64])
def test_another_kind_runs_a_whole_session_with_dropouts_in_every_stage(name: Any, bits: int) -> None:
    ids = range(1, 13)
    config = complete(ids, 7, masking=name, modulus_bits=bits, length=33)
    dropouts = {2: Stage(1), 4: Stage(2), 6: Stage(3), 8: Stage(4), 10: Stage(5)}
    session = Session(config).finish(dropouts)
    session.assert_sum()
    assert set(session.server.survivors) == set(ids) - {2, 4, 6}
    masked = opened(session.responses[Stage.MASKED_INPUT_COLLECTION][1]).masked
    assert len(masked) == 8 * (33 + (4 if name == "own_key" else 0))


@BY_TOY
def test_another_kind_runs_on_a_ring(name: Any) -> None:
    session = Session(ring(masking=name)).to(Stage.MASKED_INPUT_COLLECTION)
    session.answer(silent=[5])
    session.close()
    session.finish().assert_sum()


@BY_TOY
def test_another_kind_is_saved_and_resumed(name: Any) -> None:
    session = Session(complete(masking=name))
    while session.stage < Stage.DONE:
        session.answer(silent=[3] if session.stage is Stage.MASKED_INPUT_COLLECTION else [])
        session.server = Server.from_bytes(session.server.to_bytes(), directory=session.directory)
        session.close()
    session.assert_sum()
    assert session.server.survivors == (2, 5, 8, 13)


@BY_TOY
def test_another_kind_refuses_a_payload_of_another_length_under_s9(name: Any) -> None:
    session = Session(complete(masking=name)).to(Stage.MASKED_INPUT_COLLECTION)
    good = session.reply(5)
    assert session.server.message_bytes >= len(good)
    assert_server_refuses(session.server, 5, edit(good, masked=lambda old: old[:-1]), "S9")
    session.server.receive(5, good)
    session.answer(silent=[5])
    session.close()
    session.finish().assert_sum()


@BY_TOY
def test_another_kind_is_another_configuration(name: Any) -> None:
    config = complete(masking=name)
    assert config.hash != complete().hash
    assert Config.from_bytes(config.to_bytes()) == config
    with pytest.raises(errors.ConfigError):
        complete(masking="unknown")


def test_a_kind_is_made_for_the_session_that_it_serves() -> None:
    OwnKey.made.clear()
    session = Session(complete(masking="own_key")).finish()
    session.assert_sum()
    assert set(OwnKey.made) == {session_id(session)}
    assert len(OwnKey.made) >= len(IDS)


def test_a_kind_that_draws_a_key_of_its_own_is_repeatable() -> None:
    # Vectors and replays need it: two sessions from the same seeds must send the same bytes.
    with predictable_secrets():
        one, two = (Session(complete(masking="own_key"), seed=4).finish() for _ in range(2))
    assert one.responses == two.responses
