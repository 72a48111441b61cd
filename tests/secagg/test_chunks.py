"""Long vectors in chunks: the same bytes as whole messages, and nothing half done when one breaks off."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed import errors, secagg, staging
from secfed.crypto import packing, prg
from secfed.crypto.entropy import predictable_secrets
from secfed.secagg import Client, Config, Server, Stage, masking
from tests.secagg import test_vectors
from tests.secagg.forge import (
    Session,
    assert_forgot,
    assert_silent,
    complete,
    edit,
    flipped,
    held,
    ring,
    secrets_of,
    seen,
    state,
)
from tests.secagg.test_threads import in_thread

ME, OTHER = 5, 8
STAGES = [stage for stage in Stage if stage < Stage.DONE]
BLOCK = 256  # bytes: short vectors have several blocks


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "BLOCK_BYTES", BLOCK)


def masking_session(**fields: Any) -> Session:
    """A session in which a masked vector of several blocks is asked for."""
    return Session(complete(**{"length": 500, "modulus_bits": 13} | fields)).to(Stage.MASKED_INPUT_COLLECTION)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def twins(config: Config, vector: Any) -> list[tuple[Client, bytes]]:
    """Twice the same client with the same secrets, and the request that asks both for their masked vector."""
    with predictable_secrets():
        session = Session(config, dict.fromkeys(config.client_ids, vector), seed=4).to(Stage.MASKED_INPUT_COLLECTION)
    saved, request = session.clients[ME].to_bytes(), session.outbox[ME]
    keys = {"signing_key": session.identities.get(ME), "directory": session.directory}
    return [(Client.from_bytes(saved, **keys), request) for _ in range(2)]


@given(st.integers(1, 700), st.integers(1, 64), st.sampled_from(["semi_honest", "malicious_server"]), st.data())
def test_chunks_are_the_bytes_of_the_whole_answer(length: int, bits: int, adversary: str, data: Any) -> None:
    if data.draw(st.booleans(), "at a block's end"):  # an entry less, none, and one more than whole blocks
        entries = BLOCK // Config([1, 2], 2, length=1, modulus_bits=bits).dtype.itemsize
        length = max(1, entries * data.draw(st.integers(1, 3)) + data.draw(st.integers(-1, 1)))
    config = complete(length=length, modulus_bits=bits, adversary=adversary)
    vector = np.random.default_rng(length).integers(0, (1 << bits) - 1, length, np.uint64, endpoint=True)
    (one, request), (other, _) = twins(config, vector)
    answer = other.receive_chunks(request)
    chunks = list(answer)
    whole = one.receive(request)
    assert b"".join(chunks) == whole
    assert answer.size == len(whole)
    assert len(chunks) == 1 + -(-length * config.dtype.itemsize // BLOCK)
    assert state(one) == state(other)


@pytest.mark.parametrize("bits", [8, 26, 32, 64])
def test_a_part_of_a_mask_is_that_part_of_the_whole(bits: int) -> None:
    dtype, seeds = np.dtype(f"u{-(-bits // 32) * 4 if bits > 8 else 1}"), [bytes([i] * 32) for i in range(3)]
    whole = np.zeros(3 << 17, dtype)
    prg.accumulate(whole, seeds[:2], seeds[2:], threads=1)
    for threads in (1, 2):
        part = np.zeros(1 << 17, dtype)
        prg.accumulate(part, seeds[:2], seeds[2:], threads, start=(1 << 17) * dtype.itemsize)
        assert part.tobytes() == whole[1 << 17 : 2 << 17].tobytes()
    with pytest.raises(ValueError, match="multiple of 16"):
        prg.accumulate(whole, seeds, [], 1, start=8)


@pytest.mark.parametrize("config", [complete(length=300), ring(length=300), complete(adversary="semi_honest")])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_session_in_chunks_of_any_size_gives_the_sum(config: Config, size: int) -> None:
    session = Session(config)
    while session.stage < Stage.DONE:
        for client_id, request in session.outbox.items():
            answer = b"".join(session.clients[client_id].receive_chunks(request))
            assert session.server.receive_chunks(client_id, cut(answer, size))
        session.close()
    session.assert_sum()


@pytest.mark.parametrize("path", test_vectors.SESSIONS, ids=lambda path: path.stem)
def test_vector_replays_in_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def receive(client: Client, data: bytes) -> bytes:
        return b"".join(client.receive_chunks(data))

    def take(server: Server, client_id: int, data: bytes) -> bool:
        return server.receive_chunks(client_id, [data[:1], b"", data[1:5], data[5:]])

    whole = Server.receive
    monkeypatch.setattr(test_vectors.secagg.Client, "receive", receive)

    def outermost(server: Server, client_id: int, data: Any) -> bool:
        return (
            take(server, client_id, data)
            if isinstance(data, bytes) and len(data) > 2
            else whole(server, client_id, data)
        )

    monkeypatch.setattr(test_vectors.secagg.Server, "receive", outermost)
    test_vectors.test_vector_replays_byte_for_byte(path)


# A client whose answer is not read to its end.


def test_stage_moves_with_the_last_chunk_and_not_before() -> None:
    session = masking_session()
    client = session.clients[ME]
    answer = client.receive_chunks(session.outbox[ME])
    left = answer.size
    for chunk in answer:
        left -= len(chunk)
        assert client.stage is (Stage.ABORTED if left else Stage.CONSISTENCY_CHECK)
    with pytest.raises(StopIteration):
        next(answer)


@pytest.mark.parametrize("read", [0, 1, 2])
@pytest.mark.parametrize("how", ["forgotten", "closed", "aborted"])
def test_an_answer_given_up_ends_the_session(how: str, read: int) -> None:
    session = masking_session()
    client, request = session.clients[ME], session.outbox[ME]
    secrets = secrets_of(client)
    answer = client.receive_chunks(request)
    for _ in range(read):
        next(answer)
    with pytest.raises(errors.StageError) as caught:
        client.receive(request)
    assert caught.value.check == "C2"
    if how == "aborted":
        assert client.abort()
    if how == "closed":
        answer.close()
    if how != "forgotten":
        with pytest.raises(errors.StageError, match="given up"):
            next(answer)
    del answer
    gc.collect()
    assert client.stage is Stage.ABORTED
    assert_forgot(client, secrets)
    assert_silent(client, request)


def test_an_answer_that_fails_half_way_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    session = masking_session()
    client, request = session.clients[ME], session.outbox[ME]
    answer, calls = client.receive_chunks(request), iter([None])

    def failing(*arguments: Any) -> None:
        next(calls, None)
        raise MemoryError

    next(answer)
    monkeypatch.setattr(masking.prg, "accumulate", failing)
    with pytest.raises(MemoryError):
        next(answer)
    with pytest.raises(errors.StageError):
        next(answer)
    assert_silent(client, request)


def test_client_saved_while_its_answer_is_read_does_not_answer_again() -> None:
    session = masking_session()
    client, request = session.clients[ME], session.outbox[ME]
    answer = client.receive_chunks(request)
    next(answer)
    saved = client.to_bytes()
    rest = b"".join(answer)
    assert rest
    assert client.to_bytes() == saved
    resumed = Client.from_bytes(saved, signing_key=session.identities[ME], directory=session.directory)
    assert resumed.stage is Stage.CONSISTENCY_CHECK
    with pytest.raises(errors.StageError):
        resumed.receive(request)


def test_reading_an_answer_is_a_call_on_its_client() -> None:
    session = masking_session()
    client = session.clients[ME]
    answer = client.receive_chunks(session.outbox[ME])
    with vars(client)["_busy"], pytest.raises(errors.StageError, match="another") as caught:
        next(answer)
    assert caught.value.check == "C2"
    assert len(b"".join(answer)) == answer.size  # nothing was lost


@pytest.mark.parametrize("copy", [True, False])
def test_vector_is_copied_unless_the_caller_says_otherwise(copy: bool) -> None:
    config = Config([1, 2, 3], 2, length=200)
    mine = np.arange(200, dtype=config.dtype)
    mine.setflags(write=copy)
    clients = {i: Client(config, i, mine if i == 1 else np.zeros(200, np.uint8), copy=copy) for i in config.client_ids}
    assert np.shares_memory(held(clients[1]).vector, mine) is not copy
    if copy:
        mine[:] = 7
    server = Server(config)
    outbox = server.open()
    while not server.done:
        for i, request in outbox.items():
            server.receive_chunks(i, clients[i].receive_chunks(request))
        outbox = server.close_stage()
    assert server.sum.tolist() == list(range(200))
    assert mine.tolist() == ([7] * 200 if copy else list(range(200)))


def test_vector_may_be_a_memory_mapped_file(tmp_path: Path) -> None:
    config = Config([1, 2, 3], 2, length=200)
    np.arange(200, dtype=config.dtype).tofile(tmp_path / "vector")
    mapped = np.memmap(tmp_path / "vector", config.dtype, "r")
    assert np.shares_memory(held(Client(config, 1, mapped, copy=False)).vector, mapped)
    found = secagg.run_session(config, dict.fromkeys(config.client_ids, mapped))
    assert found.sum.tolist() == [3 * i for i in range(200)]


# A server whose upload does not arrive whole.


class BrokenError(Exception):
    """What a transport raises."""


def broken(chunks: list[bytes]) -> Iterator[bytes]:
    yield from chunks
    raise BrokenError


def test_a_broken_upload_changes_nothing() -> None:
    session = masking_session()
    data = session.reply(ME)
    before = state(session.server)
    for count in range(5):
        with pytest.raises(BrokenError):
            session.server.receive_chunks(ME, broken(cut(data, 200)[:count]))
    assert state(session.server) == before
    assert ME in session.server.awaited
    assert session.server.receive_chunks(ME, cut(data, 200))


def test_uploads_of_two_clients_may_interleave() -> None:
    session = masking_session()
    pieces = {i: cut(session.reply(i), 100) for i in (ME, OTHER)}
    uploads = {i: session.server.upload(i) for i in pieces}
    for parts in zip(*pieces.values(), strict=True):
        for upload, part in zip(uploads.values(), parts, strict=True):
            assert upload.write(part)
    assert [upload.finish() for upload in uploads.values()] == [True, True]
    for client_id in set(session.outbox) - set(pieces):
        session.server.receive(client_id, session.reply(client_id))
    session.close()
    session.finish().assert_sum()


def test_of_two_uploads_of_one_client_the_first_whole_one_counts() -> None:
    session = masking_session()
    data = session.reply(ME)
    first, second = session.server.upload(ME), session.server.upload(ME)
    for part in cut(data, 300):
        first.write(part)
        second.write(part)
    assert second.finish()
    before = state(session.server, without=["faults"])
    with pytest.raises(errors.FaultyClientError) as caught:
        first.finish()
    assert caught.value.check == "S4"
    assert state(session.server, without=["faults"]) == before


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda data: b"", "S2"),
        (lambda data: data[:1], "S2"),
        (lambda data: data[:-1], "S2"),
        (lambda data: data + b"x", "S2"),
        (lambda data: b"\2" + data[1:], "S2"),
        (lambda data: data[:1] + b"\12" + data[2:], "S3"),
        (lambda data: edit(data, masked=lambda old: old[:-1]), "S9"),
        (lambda data: edit(data, masked=lambda old: old[:-1] + b"\xff"), "S9"),
        (lambda data: flipped(data, 2), "S14"),
    ],
)
def test_a_faulty_upload_is_refused_and_listed_once(change: Any, check: str) -> None:
    session = masking_session()
    data = session.reply(ME)
    server, bad = session.server, change(data)
    before = state(server, without=["faults"])
    for size in (1, 64, 10_000):
        server.faults.clear()
        with pytest.raises(errors.FaultyClientError) as caught:
            server.receive_chunks(ME, cut(bad, size))
        assert caught.value.check == check
        assert [(fault.client_id, fault.check) for fault in server.faults] == [(ME, check)]
        assert state(server, without=["faults"]) == before
    server.receive_chunks(ME, cut(data, 64))


@pytest.mark.parametrize(("sender", "check"), [(1, "S1"), (ME, "S4")])
def test_who_may_not_send_is_refused_at_the_first_chunk(sender: int, check: str) -> None:
    session = masking_session()
    data = session.reply(ME)
    session.server.receive(ME, data)
    upload = session.server.upload(sender)
    with pytest.raises(errors.FaultyClientError) as caught:
        upload.write(data[:10])
    assert caught.value.check == check
    for call in (upload.finish, lambda: upload.write(b"x")):
        with pytest.raises(errors.StageError, match="is over"):
            call()


def test_an_upload_that_is_too_long_is_refused_before_its_end() -> None:
    session = masking_session()
    upload = session.server.upload(ME)
    limit = session.server.message_bytes
    upload.write(session.reply(ME))
    upload.write(bytes(limit - upload.size))
    with pytest.raises(errors.FaultyClientError, match="at most") as caught:
        upload.write(b"x")
    assert caught.value.check == "S2"
    assert upload.size <= limit


def test_an_upload_that_is_late_is_ignored() -> None:
    session = masking_session()
    data = session.reply(ME)
    upload = session.server.upload(ME)
    assert upload.write(data[:100])
    session.answer(silent=[ME])
    session.close()
    assert upload.write(data[100:])  # nobody has looked
    assert upload.finish() is False
    assert session.server.receive_chunks(ME, iter([data[:50], data[50:]])) is False
    late = session.server.upload(ME)
    assert not late.write(data[:50])
    assert not late.write(data[50:])
    assert late.finish() is False
    assert session.server.faults == []
    session.finish().assert_sum()


def test_a_client_may_abort_in_chunks() -> None:
    session = masking_session()
    assert session.server.receive_chunks(ME, cut(session.clients[ME].abort("left"), 1))
    assert session.server.aborts == {ME: "left"}


def test_an_abort_of_the_server_has_no_answer_in_chunks() -> None:
    session = masking_session()
    answer = session.clients[ME].receive_chunks(session.server.abort()[ME])
    assert (answer.size, list(answer)) == (0, [])
    assert session.clients[ME].stage is Stage.ABORTED


def test_chunks_must_be_bytes_and_the_session_open() -> None:
    config = complete(length=4, adversary="semi_honest")
    server = Server(config)
    with pytest.raises(errors.StageError, match="not open"):
        server.upload(ME)
    server.open()
    with pytest.raises(errors.ConfigError, match="str"):
        server.receive_chunks(ME, ["text"])  # type: ignore[list-item]


def test_server_waits_for_a_chunk_without_blocking_others() -> None:
    session = masking_session()
    mine, other = session.reply(ME), session.reply(OTHER)

    def slow() -> Iterator[bytes]:
        yield mine[:100]
        assert in_thread(lambda: session.server.receive(OTHER, other)) is True
        yield mine[100:]

    assert session.server.receive_chunks(ME, slow())
    assert set(session.server.awaited).isdisjoint({ME, OTHER})


def test_sum_is_the_vector_that_was_added_up() -> None:
    session = masking_session().to(Stage.UNMASKING)
    added_up = seen(session.server).accumulator._total
    session.finish().assert_sum()
    assert np.shares_memory(session.server.sum, added_up)


def test_kind_whose_pieces_are_too_short_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    session = masking_session()
    mask = masking.AesCtr.mask
    monkeypatch.setattr(masking.AesCtr, "mask", lambda *arguments: list(mask(*arguments))[:-1])
    client, request = session.clients[ME], session.outbox[ME]
    with pytest.raises(ValueError, match="announced"):
        list(client.receive_chunks(request))
    assert_silent(client, request)


def test_what_is_under_way_shows_no_contents() -> None:
    session = masking_session()
    answer = session.clients[ME].receive_chunks(session.outbox[ME])
    assert repr(answer) == f"Answer(size={answer.size})"
    upload = session.server.upload(ME)
    upload.write(next(answer))
    assert repr(upload) == f"Upload(client_id={ME}, size={upload.size})"
    upload.close()
    with pytest.raises(errors.StageError, match="is over"):
        upload.finish()
    assert ME in session.server.awaited


@pytest.fixture
def in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every upload of more than 8 bytes is kept in a file."""
    monkeypatch.setattr(staging, "LONG", 8)


def test_sum_of_uploads_from_files(in_a_file: None) -> None:
    for adversary in ("semi_honest", "malicious_server"):
        session = Session(complete(length=70_000 if adversary == "semi_honest" else 11, adversary=adversary))
        while session.server.stage is not Stage.DONE:
            for client_id in session.outbox:
                session.server.receive_chunks(client_id, cut(session.reply(client_id), 1_000))
            session.close()
        session.assert_sum()


def test_faulty_upload_from_a_file_changes_nothing(in_a_file: None) -> None:
    session = masking_session()
    data = session.reply(ME)
    before = state(session.server, without=["faults"])
    for bad, check in ((data[:-1], "S2"), (edit(data, masked=lambda old: old[:-1] + b"\xff"), "S9")):
        with pytest.raises(errors.FaultyClientError) as caught:
            session.server.receive_chunks(ME, cut(bad, 100))
        assert caught.value.check == check
        assert state(session.server, without=["faults"]) == before
    assert session.server.receive_chunks(ME, cut(data, 100))


def test_file_that_cannot_be_written_ends_the_upload_only(in_a_file: None, monkeypatch: pytest.MonkeyPatch) -> None:
    session = masking_session()
    data, before = session.reply(ME), state(session.server)
    upload = session.server.upload(ME)
    upload.write(data[:50])
    with monkeypatch.context() as patch:
        patch.setattr(upload._staging._file, "write", full_disk)
        with pytest.raises(errors.SecFedError, match="after 50 bytes: No space left"):
            upload.write(data[50:])
    with pytest.raises(errors.StageError, match="is over"):
        upload.finish()
    assert state(session.server) == before
    assert session.server.receive_chunks(ME, cut(data, 100))


def test_file_that_cannot_be_read_back_ends_the_session(in_a_file: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK_ENTRIES", 64)
    session = Session(complete(length=1_000, adversary="semi_honest")).to(Stage.MASKED_INPUT_COLLECTION)
    upload = session.server.upload(ME)
    upload.write(session.reply(ME))
    upload._staging._file.truncate(2_000)  # some blocks are added before the end is missed
    with pytest.raises(OSError, match="a temporary file has"):
        upload.finish()
    assert session.server.stage is Stage.ABORTED
    with pytest.raises(errors.StageError):
        session.server.close_stage()
    with pytest.raises(errors.StageError, match="no sum"):
        session.server.sum  # noqa: B018


def full_disk(data: bytes) -> int:
    raise OSError(28, "No space left on device")
