"""Published discrete Gaussian samples, replayed through the published algorithm; its law is then that of our sampler.

Our sampler works another way, so it cannot give the same samples from the same bits. What is replayed here is a second
implementation, from the paper: Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, NeurIPS 2020,
algorithms 1 to 3. It uses whole numbers and fractions only.

The samples are the vectors of libprio-rs (github.com/divviup/libprio-rs, tests/test_vectors/discrete_gauss_*.json, 49
samples each, made with the paper's own Python program): those of commit 3ad1230 and of its predecessors acd55f0,
aa1a9a4 and 92f9ae5, which differ in how bits come from the seed. The samples themselves stay with their publishers:
here is the beginning of the SHA-256 of each list, written with commas.
"""

import hashlib
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from scipy.special import chdtrc

from secfed.dp.noise.samplers import discrete_gaussian

WORD = (1 << 64) - 1


def permute(lanes: list[int]) -> list[int]:
    """The last 12 rounds of Keccak-f[1600] (FIPS 202, section 3); lane (x, y) stands at x + 5y."""
    register, constants = 1, []
    for _ in range(24):
        constant = 0
        for j in range(7):
            constant |= (register & 1) << (1 << j) - 1
            register = register << 1 ^ (0x171 if register & 0x80 else 0)
        constants.append(constant)
    for constant in constants[12:]:
        columns = [lanes[x] ^ lanes[x + 5] ^ lanes[x + 10] ^ lanes[x + 15] ^ lanes[x + 20] for x in range(5)]
        lanes = [lane ^ columns[(i - 1) % 5] ^ rotated(columns[(i + 1) % 5], 1) for i, lane in enumerate(lanes)]
        moved, (x, y) = [lanes[0]] + [0] * 24, (1, 0)
        for t in range(24):
            lane = rotated(lanes[x + 5 * y], (t + 1) * (t + 2) // 2 % 64)
            x, y = y, (2 * x + 3 * y) % 5
            moved[x + 5 * y] = lane
        rows = [moved[i : i + 5] for i in range(0, 25, 5)]
        lanes = [row[x] ^ ~row[(x + 1) % 5] & row[(x + 2) % 5] for row in rows for x in range(5)]
        lanes[0] ^= constant
    return lanes


def rotated(lane: int, places: int) -> int:
    return (lane << places | lane >> 64 - places) & WORD


def turbo_shake_128(message: bytes, domain: int) -> Iterator[int]:
    """The bytes of TurboSHAKE128 (RFC 9861, section 2.2)."""
    padded = bytearray(message + bytes([domain]))
    padded += bytes(-len(padded) % 168)
    padded[-1] ^= 0x80
    lanes = [0] * 25
    for start in range(0, len(padded), 168):
        for i in range(21):
            lanes[i] ^= int.from_bytes(padded[start + 8 * i : start + 8 * i + 8], "little")
        lanes = permute(lanes)
    while True:
        for lane in lanes[:21]:
            yield from lane.to_bytes(8, "little")
        lanes = permute(lanes)


def shake_128(message: bytes) -> Iterator[int]:
    return iter(hashlib.shake_128(message).digest(1 << 17))


class Published:
    """The paper's sampler, on a stream of bytes."""

    def __init__(self, stream: Iterator[int]) -> None:
        self.stream = stream

    def below(self, bound: int) -> int:
        """Uniform: 32-bit words, the least significant first, the last one cut to its high bits; again if too large."""
        words = -(-bound.bit_length() // 32)
        while True:
            drawn = [int.from_bytes(bytes(next(self.stream) for _ in range(4)), "little") for _ in range(words)]
            drawn[-1] >>= 32 * words - bound.bit_length()
            number = sum(word << 32 * i for i, word in enumerate(drawn))
            if number < bound:
                return number

    def happens(self, chance: Fraction) -> bool:
        return self.below(chance.denominator) < chance.numerator

    def happens_exponentially(self, exponent: Fraction) -> bool:
        """With chance exp(-exponent): algorithm 1."""
        for _ in range(int(exponent)):
            if not self.happens_exponentially_once(Fraction(1)):
                return False
        return self.happens_exponentially_once(exponent - int(exponent))

    def happens_exponentially_once(self, exponent: Fraction) -> bool:
        count = 1
        while self.happens(exponent / count):
            count += 1
        return count % 2 == 1

    def laplace(self, scale: int) -> int:
        """P(x) proportional to exp(-|x| / scale): algorithm 2; the publishers draw the sign first."""
        while True:
            negative = self.happens(Fraction(1, 2))
            rest = self.below(scale)
            while not self.happens_exponentially_once(Fraction(rest, scale)):
                rest = self.below(scale)
            whole = 0
            while self.happens_exponentially_once(Fraction(1)):
                whole += 1
            if not negative or rest + whole:
                return (-1 if negative else 1) * (rest + scale * whole)

    def gaussian(self, sigma: Fraction) -> int:
        """Algorithm 3."""
        scale = int(sigma) + 1
        while True:
            sample = self.laplace(scale)
            if self.happens_exponentially((abs(sample) - sigma**2 / scale) ** 2 / (2 * sigma**2)):
                return sample


# How the publishers turned their seed (bytes 0, 1, 2 and so on) into a stream, from the latest way to the first.
TURBO_32, TURBO_16, SHAKE_PREFIXED, SHAKE = range(4)


def published_stream(way: int) -> Iterator[int]:
    if way == TURBO_32:  # two bytes and one byte of lengths: no label, 32 bytes of seed
        return turbo_shake_128(bytes([0, 0, 32]) + bytes(range(32)), domain=1)
    if way == TURBO_16:  # one byte: the length of no label
        return turbo_shake_128(bytes([0]) + bytes(range(16)), domain=1)
    return shake_128((bytes([0]) if way == SHAKE_PREFIXED else b"") + bytes(range(16)))


def test_turbo_shake_gives_the_published_bytes() -> None:
    # RFC 9861, section 5: the empty message, domain 1F.
    stream = turbo_shake_128(b"", domain=0x1F)
    assert bytes(next(stream) for _ in range(32)) == bytes.fromhex(
        "1e415f1c5983aff2169217277d17bb538cd945a397ddec541f1ce41af2c1b74c"
    )


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("way", "sigma", "digest"),
    [
        (TURBO_32, "3", "210f0cfcd72c1c7d6b490237cb3cbcb4"),
        (TURBO_32, "9", "45c364cf06109469dd55a01983845154"),
        (TURBO_32, "100", "b3160158a3a92392ea27e576cb2e4e4a"),
        (TURBO_32, "41293847", "72c646cd5d661ebde1a0ea7e472ffa39"),
        (TURBO_32, "9999999999999999999999", "0aca302c41e5be65c610b0694ae67e9c"),
        (TURBO_32, "1171/500", "1bd98c7f49c4abda5941c8ce2e6e0d07"),
        (TURBO_16, "3", "7bdb7f14ba19478e98c5311b93b24ff6"),
        (TURBO_16, "9", "2bd6362cfc0c82cad4cb5fb4f810ee89"),
        (TURBO_16, "100", "e00a99f6f591349f7669648dcf659777"),
        (TURBO_16, "41293847", "ace5d8a84ae8011ee5fb80ff885d567e"),
        (TURBO_16, "9999999999999999999999", "78798dd556f3e757173863a5f7d15d3f"),
        (TURBO_16, "1171/500", "29620ef19051ea1d2cc33cbce67d3b9f"),
        (SHAKE_PREFIXED, "3", "4ce4905aea677339d76e2b8e48d31246"),
        (SHAKE_PREFIXED, "9", "79accc2b0c266891c6fb02209ede84ec"),
        (SHAKE_PREFIXED, "100", "9406a7b22875c4306bb21e994ddac621"),
        (SHAKE_PREFIXED, "41293847", "71351281aeb873b66a0edd8b6ed2a6c6"),
        (SHAKE_PREFIXED, "9999999999999999999999", "f00722dc7c56e40972cf6e2d034934d8"),
        (SHAKE, "1171/500", "1662df63ecadfce9bd60b9fc982c7e3b"),
        (SHAKE, "3", "bed976aa1a0cc38bc40cd2d51f71e707"),
        (SHAKE, "9", "4e1b2484c5ff8913f6cdd320707bf1dd"),
        (SHAKE, "100", "365f3029f6287d58f44d6d2c184e55ba"),
        (SHAKE, "41293847", "fbfebe50b6377a07af079563b47fe569"),
        (SHAKE, "9999999999999999999999", "c35f3dac1a466cb3c4ad281d69b10931"),
    ],
)
def test_published_samples_come_out_of_the_published_algorithm(way: int, sigma: str, digest: str) -> None:
    published = Published(published_stream(way))
    samples = [published.gaussian(Fraction(sigma)) for _ in range(49)]
    assert hashlib.sha256(",".join(map(str, samples)).encode()).hexdigest().startswith(digest)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("sigma", [pytest.param("1/2", marks=SLOW), pytest.param("1171/500", marks=SLOW), "9"])
def test_our_noise_has_the_law_of_the_published_algorithm(sigma: str) -> None:
    few, many = 3_000, 1 << 20
    published = Published(iter(hashlib.shake_128(b"law of the published algorithm").digest(1 << 22)))
    theirs = np.array([published.gaussian(Fraction(sigma)) for _ in range(few)])
    ours = discrete_gaussian(Fraction(sigma) ** 2, many, bytes(range(32)))
    reach = max(abs(theirs).max(), abs(ours).max())
    counts = np.array([np.bincount(samples + reach, minlength=2 * reach + 1) for samples in (theirs, ours)], float)
    expected = counts[1] * (few / many)
    tail = expected < 10  # the samples in the tails are one cell
    counts = np.column_stack([counts[:, ~tail], counts[:, tail].sum(axis=1)])
    sums = counts.sum(axis=0) / (few + many)
    statistic = sum(
        ((row - size * sums) ** 2 / (size * sums)).sum() for row, size in zip(counts, (few, many), strict=True)
    )
    assert chdtrc(counts.shape[1] - 1, statistic) > 1e-6
