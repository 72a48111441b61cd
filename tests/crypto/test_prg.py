"""Masks: the AES-128-CTR of SP 800-38A, whatever the counter, the dtype, the cuts and the threads."""

from collections.abc import Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto import prg
from tests.examples import examples

# NIST SP 800-38A, appendix F.5.1 (CTR-AES128.Encrypt): key, initial counter block, plaintext, ciphertext.
NIST_KEY = "2b7e151628aed2a6abf7158809cf4f3c"
NIST_COUNTER = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
NIST_PLAINTEXT = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHERTEXT = (
    "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
    "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
)
DTYPES = ["u1", "u2", "u4", "u8"]
# The counter is carried over 32, 64 and 96 bits, over all 128, and over a single byte.
COUNTERS = [2**32 - 3, 2**64 - 2, 2**96 - 1, 2**128 - 2, 255, 0, 0x0123456789ABCDEF_0123456789ABCDEF]


def seed(number: int = 0, counter: int = 0) -> bytes:
    return number.to_bytes(16, "little") + counter.to_bytes(16, "big")


def straight_keystream(seed: bytes, size: int) -> bytes:
    """Encrypt the counter blocks one by one, counting in Python."""
    encryptor = Cipher(algorithms.AES(seed[:16]), modes.ECB()).encryptor()
    start = int.from_bytes(seed[16:], "big")
    blocks = b"".join(((start + i) % 2**128).to_bytes(16, "big") for i in range(-(-size // 16)))
    return encryptor.update(blocks)[:size]


def straight_sum(vector: np.ndarray, added: Sequence[bytes], subtracted: Sequence[bytes]) -> list[int]:
    little = vector.dtype.newbyteorder("<")
    total = vector.astype(object)
    for seeds, sign in ((added, 1), (subtracted, -1)):
        for one in seeds:
            total = total + sign * np.frombuffer(straight_keystream(one, vector.nbytes), little).astype(object)
    return (total % (1 << 8 * vector.itemsize)).tolist()


def test_keystream_is_that_of_nist_sp_800_38a() -> None:
    plaintext = bytes.fromhex(NIST_PLAINTEXT)
    stream = prg.keystream(bytes.fromhex(NIST_KEY + NIST_COUNTER), len(plaintext))
    assert bytes(a ^ b for a, b in zip(plaintext, stream, strict=True)).hex() == NIST_CIPHERTEXT


@pytest.mark.parametrize("dtype", DTYPES)
def test_expansion_reads_the_keystream_of_nist_as_little_endian_numbers(dtype: str) -> None:
    stream = bytes(a ^ b for a, b in zip(bytes.fromhex(NIST_PLAINTEXT), bytes.fromhex(NIST_CIPHERTEXT), strict=True))
    size = np.dtype(dtype).itemsize
    expected = [int.from_bytes(stream[i : i + size], "little") for i in range(0, 64, size)]
    vector = prg.expand(bytes.fromhex(NIST_KEY + NIST_COUNTER), 64 // size, dtype)
    assert vector.dtype == np.dtype(dtype)
    assert vector.tolist() == expected


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100])
def test_keystream_carries_the_counter_over_every_width(counter: int, size: int) -> None:
    assert prg.keystream(seed(1, counter), size) == straight_keystream(seed(1, counter), size)


@pytest.mark.parametrize("counter", COUNTERS)
def test_keystream_that_starts_at_a_later_block_is_a_piece_of_the_straight_one(counter: int) -> None:
    straight = straight_keystream(seed(2, counter), 16 * 40)
    for block in (0, 1, 2, 3, 7, 39):
        assert prg._cipher(seed(2, counter), block).update(bytes(16)) == straight[16 * block : 16 * block + 16]


@pytest.mark.parametrize("blocks", [2**28, 2**32 - 1, 2**32, 2**32 + 1])
def test_keystream_may_start_billions_of_blocks_later(blocks: int) -> None:
    for counter in COUNTERS:
        expected = straight_keystream(seed(3, (counter + blocks) % 2**128), 48)
        assert prg._cipher(seed(3, counter), blocks).update(bytes(48)) == expected


@pytest.mark.sampled(35)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 63, 64, 65, 1000, 1023])
def test_every_cut_into_chunks_and_threads_gives_the_straight_sum(
    dtype: str, counter: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prg, "CHUNK_BYTES", 64)
    monkeypatch.setattr(prg, "_SHARED_CHUNK_BYTES", 64)
    monkeypatch.setattr(prg, "_THREAD_BYTES", 0)
    start = np.arange(1, length + 1).astype(dtype)
    added = [seed(1, counter), seed(2, counter)]
    subtracted = [seed(3, counter), seed(2, 17)]
    expected = straight_sum(start, added, subtracted)
    for threads in (1, 2, 3, 5):
        vector = start.copy()
        prg.accumulate(vector, added, subtracted, threads)
        assert vector.tolist() == expected, threads


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_two_and_three_threads_give_the_same_at_the_real_sizes(dtype: str) -> None:
    """Longer than a chunk, no multiple of it, and enough keystream for threads."""
    itemsize = np.dtype(dtype).itemsize
    length = (3 * prg.CHUNK_BYTES + 16 * 5) // itemsize + 3
    seeds = [seed(i, COUNTERS[i % len(COUNTERS)]) for i in range(12)]
    assert length * itemsize * len(seeds) > prg._THREAD_BYTES
    results = []
    for threads in (1, 2, 3, None):
        vector = np.zeros(length, dtype)
        prg.accumulate(vector, seeds[:7], seeds[7:], threads)
        results.append(vector)
    expected = np.zeros(length, dtype)
    for i, one in enumerate(seeds):
        stream = np.frombuffer(prg.keystream(one, expected.nbytes), np.dtype(dtype).newbyteorder("<"))
        expected = expected + stream if i < 7 else expected - stream
    for result in results:
        assert np.array_equal(result, expected)


@examples(20, 60)
@given(
    st.lists(st.binary(min_size=32, max_size=32), max_size=4),
    st.lists(st.binary(min_size=32, max_size=32), max_size=4),
    st.integers(0, 70),
    st.sampled_from(DTYPES),
)
def test_what_was_added_can_be_subtracted_again(
    added: list[bytes], taken: list[bytes], length: int, dtype: str
) -> None:
    start = np.arange(length).astype(dtype)
    vector = start.copy()
    prg.accumulate(vector, added, taken)
    assert vector.tolist() == straight_sum(start, added, taken)
    prg.accumulate(vector, taken, added)
    assert np.array_equal(vector, start)


def test_nothing_to_do_changes_nothing() -> None:
    vector = np.arange(5, dtype=np.uint16)
    prg.accumulate(vector, [], [])
    assert vector.tolist() == [0, 1, 2, 3, 4]
    prg.accumulate(np.zeros(0, np.uint32), [seed()], [])
    assert prg.expand(seed(), 0, "u4").shape == (0,)


@pytest.mark.parametrize("size", [0, 16, 31, 33, 48, 64])
def test_seed_of_another_length_than_32_bytes_is_refused(size: int) -> None:
    for expand in (lambda seed: prg.keystream(seed, 4), lambda seed: prg.expand(seed, 1, "u4")):
        with pytest.raises(ValueError, match=f"seed has {size} bytes, needed 32"):
            expand(bytes(size))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_error_in_a_thread_comes_out(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prg, "CHUNK_BYTES", 64)
    monkeypatch.setattr(prg, "_SHARED_CHUNK_BYTES", 64)
    monkeypatch.setattr(prg, "_THREAD_BYTES", 0)
    with pytest.raises(ValueError, match="seed has 9 bytes"):
        prg.accumulate(np.zeros(1000, np.uint32), [seed(), b"too short"], [], threads)


def test_error_in_the_last_thread_alone_comes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_late(*arguments: object) -> None:
        if arguments[3] != 0:
            raise MemoryError("in the second thread")

    monkeypatch.setattr(prg, "CHUNK_BYTES", 64)
    monkeypatch.setattr(prg, "_SHARED_CHUNK_BYTES", 64)
    monkeypatch.setattr(prg, "_THREAD_BYTES", 0)
    monkeypatch.setattr(prg, "_accumulate_span", fails_late)
    with pytest.raises(MemoryError, match="second thread"):
        prg.accumulate(np.zeros(1000, np.uint32), [seed()], [], 2)


def test_masks_look_uniform() -> None:
    """Chi-square over bytes; for a fixed seed, so it fails always or never (a good generator: once in a billion)."""
    counts = np.bincount(prg.expand(seed(9, 9), 1 << 18, "u1"), minlength=256)
    expected = (1 << 18) / 256
    assert float(((counts - expected) ** 2 / expected).sum()) < 420  # 255 degrees of freedom: mean 255, deviation 22.6


def test_keystream_may_start_at_any_block() -> None:
    seed = bytes(range(32))
    whole = prg.keystream(seed, 200)
    assert [prg.keystream(seed, 200 - start, start) for start in (0, 16, 96)] == [whole, whole[16:], whole[96:]]
    with pytest.raises(ValueError, match="start 8 must be a multiple of 16"):
        prg.keystream(seed, 1, 8)


def test_keystream_read_in_pieces_is_the_whole_one() -> None:
    stream, sizes = prg.Keystream(seed(5, 2**32 - 3)), [1, 15, 16, 0, 33, 100]
    assert b"".join(stream.read(size) for size in sizes) == prg.keystream(seed(5, 2**32 - 3), sum(sizes))
