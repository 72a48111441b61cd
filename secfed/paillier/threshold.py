"""Threshold keys: no party has the private key; each holder has a share, and enough holders can decrypt.

Source: Shoup 2000; Damgard and Jurik 2001, section 4; Feldman 1987; `protocols/paillier/README.md`, section 9.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from secfed.crypto.entropy import Entropy
from secfed.errors import ConfigError, DecryptionError, TooFewSurvivorsError
from secfed.paillier.config import Config
from secfed.paillier.integers import (
    Progress,
    column,
    from_bytes,
    in_threads,
    integer,
    inverse,
    inverses,
    power,
    product_of_powers,
    read_column,
    secret_power,
    to_bytes,
)
from secfed.paillier.keys import LARGEST_DEGREE, PublicKey
from secfed.paillier.messages import PartialDecryptionResponse
from secfed.paillier.proofs import NUMBER_BYTES, Statement, batch
from secfed.paillier.residues import logarithm

FEWEST_HOLDERS, MOST_HOLDERS = 2, 64
# Bits added to those of the exponent: 256 for the challenge and 128 to hide the product; 16 more in a response.
_NONCE_BITS, _RESPONSE_BITS = 384, 400
_BITS_BYTES, _DEGREE_BYTES = 4, 1


def numbers_fault(degree: int, holders: int, threshold: int) -> str:
    """Return what is wrong with the numbers of a threshold key, or ""."""
    if not 1 <= degree <= LARGEST_DEGREE:
        return f"degree {degree} is not from 1 to {LARGEST_DEGREE}"
    if not FEWEST_HOLDERS <= threshold <= holders <= MOST_HOLDERS:
        return f"needed {FEWEST_HOLDERS} <= threshold <= holders <= {MOST_HOLDERS}, found {threshold} of {holders}"
    if 2 * threshold <= holders:
        return f"{threshold} of {holders} holders are not more than half: two groups could open two different sums"
    return ""


@dataclass(frozen=True)
class KeyShare:
    """The secret share of one holder of a threshold key.

    Args:
        number: The holder's number, from 1.
        value: The share.

    Security:
        `threshold` shares together open every ciphertext under the key.
    """

    number: int
    value: int = field(repr=False)

    def __reduce__(self) -> str:
        raise TypeError("a KeyShare cannot be pickled: use to_bytes")

    def to_bytes(self, key: "ThresholdKey") -> bytes:
        """Return the share's bytes: secret.

        Args:
            key: The key that the share belongs to.

        Returns:
            4 bytes for the number, then the value in as many bytes as a ciphertext has.
        """
        return self.number.to_bytes(NUMBER_BYTES, "little") + to_bytes(self.value, key.number_bytes)

    @classmethod
    def from_bytes(cls, data: bytes, key: "ThresholdKey") -> Self:
        """Read a share, and check that it belongs to this key.

        Args:
            data: What `to_bytes` gave.
            key: The key that the share belongs to.

        Raises:
            ConfigError: H1, these bytes are not a share of this key.
        """
        if len(data) != NUMBER_BYTES + key.number_bytes:  # H1
            raise ConfigError(f"a share has {NUMBER_BYTES + key.number_bytes} bytes, found {len(data)}", "H1")
        number, value = (int(from_bytes(part)) for part in (data[:NUMBER_BYTES], data[NUMBER_BYTES:]))
        share = cls(number, value)
        key.check_share(share)
        return share


@dataclass(frozen=True)
class ThresholdKey:
    """The public half of a key whose private half is shared among holders, numbered from 1.

    Args:
        public_key: The key for encryption.
        degree: Damgard and Jurik's `s`; fixed by the key.
        holders: Number of holders of a share, at most 64.
        v: A square modulo `n**(degree + 1)`.
        commitments: Powers of `v` that fix the shares without revealing them; `threshold` of them.

    Raises:
        ConfigError: P1, this is not such a key.

    Security:
        Fewer holders than the threshold learn nothing about a plaintext. The threshold must be more than half of the
        holders, so that two disjoint groups cannot open two different sums. The dealer who made the key could have kept
        the private half: choose one that you trust to forget it.
    """

    public_key: PublicKey
    degree: int
    holders: int
    v: int = field(repr=False)
    commitments: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if fault := self._fault():  # P1
            raise ConfigError(f"this is not a threshold key: {fault}", "P1")

    def _fault(self) -> str:
        if fault := numbers_fault(self.degree, self.holders, self.threshold):
            return fault
        if self.public_key.find_unsound([self.v, *self.commitments], self.degree):
            return f"v or a commitment is not a unit modulo n^{self.degree + 1}"
        return ""

    @property
    def threshold(self) -> int:
        """Number of holders needed to decrypt."""
        return len(self.commitments)

    @cached_property
    def modulus(self) -> Any:
        """The modulus of ciphertexts, `n**(degree + 1)`."""
        return self.public_key.modulus(self.degree)

    @property
    def number_bytes(self) -> int:
        """Bytes of a ciphertext, and of every number below `modulus`."""
        return self.public_key.ciphertext_bytes(self.degree)

    @cached_property
    def multiple(self) -> Any:
        """The factorial of `holders`, which makes the combination's exponents whole."""
        return integer(math.factorial(self.holders))

    @property
    def nonce_bytes(self) -> int:
        """Bytes of the secret nonce of a proof."""
        return -(-(self._exponent_bits + _NONCE_BITS) // 8)

    @property
    def response_bits(self) -> int:
        """The most bits of a proof's response."""
        return self._exponent_bits + _RESPONSE_BITS

    @property
    def response_bytes(self) -> int:
        """Bytes of a proof's response."""
        return -(-self.response_bits // 8)

    @property
    def _exponent_bits(self) -> int:
        return (self.degree + 1) * self.public_key.key_bits + int(self.multiple).bit_length()

    def to_bytes(self) -> bytes:
        """Return the key's bytes."""
        head = self.degree.to_bytes(_DEGREE_BYTES, "little")
        head += self.holders.to_bytes(NUMBER_BYTES, "little") + self.threshold.to_bytes(NUMBER_BYTES, "little")
        return self.public_key.to_bytes() + head + column([self.v, *self.commitments], self.number_bytes)

    @classmethod
    def from_bytes(cls, data: bytes, *, insecure_size: bool = False) -> Self:
        """Read a key.

        Args:
            data: What `to_bytes` gave.
            insecure_size: Allows fewer than 2048 bits, for tests.

        Raises:
            ConfigError: P1, these bytes are not such a key.
        """
        start = _BITS_BYTES + 2 * (int.from_bytes(data[:_BITS_BYTES], "little") // 8)
        public_key = PublicKey.from_bytes(data[:start], insecure_size=insecure_size)
        ends = [start + _DEGREE_BYTES + NUMBER_BYTES * place for place in range(3)]
        if len(data) < ends[2]:  # P1
            raise ConfigError(f"a threshold key of {len(data)} bytes ends too early", "P1")
        degree = data[start]
        holders, threshold = (int.from_bytes(data[end : end + NUMBER_BYTES], "little") for end in ends[:2])
        if fault := numbers_fault(degree, holders, threshold):  # P1
            raise ConfigError(f"this is not a threshold key: {fault}", "P1")
        size = public_key.ciphertext_bytes(degree)
        if len(data) != ends[2] + (1 + threshold) * size:  # P1
            needed = ends[2] + (1 + threshold) * size
            raise ConfigError(f"a threshold key has {len(data)} bytes, needed {needed}", "P1")
        v, *commitments = (int(number) for number in read_column(data[ends[2] :], size))
        return cls(public_key, degree, holders, v, tuple(commitments))

    def check_config(self, config: Config) -> None:
        """Check that a session uses this key.

        Raises:
            ConfigError: It has another public key or degree.
        """
        if config.public_key != self.public_key:
            raise ConfigError("the threshold key does not belong to the configuration's public key")
        if config.degree != self.degree:
            raise ConfigError(f"the threshold key has degree {self.degree}, the configuration {config.degree}")

    def check_share(self, share: KeyShare) -> None:
        """Check that a share belongs to this key.

        Raises:
            ConfigError: H1, it does not.
        """
        if not 1 <= share.number <= self.holders:  # H1
            raise ConfigError(f"holder {share.number} is not among the holders 1 to {self.holders}", "H1")
        fits = 0 < share.value < self.modulus
        if not fits or secret_power(self.v, share.value, self.modulus) != self._power_of_share(share.number):  # H1
            raise ConfigError(f"the share of holder {share.number} does not fit the threshold key", "H1")

    def verification_key(self, number: int) -> Any:
        """Return `v` to the power of a holder's share times `multiple`, from the public commitments."""
        return power(self._power_of_share(number), self.multiple, self.modulus)

    def _power_of_share(self, number: int) -> Any:
        exponents = [number**k for k in range(self.threshold)]
        return product_of_powers(self.commitments, exponents, self.modulus)

    def decrypt_partially(
        self,
        share: KeyShare,
        session_id: bytes,
        ciphertexts: Sequence[Any],
        entropy: Entropy,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> PartialDecryptionResponse:
        """Return a holder's part of the decryption of a column, and the proof that it is right.

        Args:
            share: The holder's share, checked before.
            session_id: 32 bytes; the proof is valid only in this session.
            ciphertexts: Units modulo `modulus`.
            entropy: Source of the proof's nonce.
            threads: How many share the work; by default one for each usable core.
            progress: Called now and then with how many are done, and how many there are.
        """
        modulus, secret = self.modulus, self.multiple * share.value

        def raised(part: Sequence[Any]) -> list[Any]:
            return [secret_power(ciphertext, 2 * secret, modulus) for ciphertext in part]

        partials = in_threads(raised, ciphertexts, threads, progress)
        nonce = from_bytes(entropy.draw("proof", self.nonce_bytes))
        statement = self._statement(share.number, session_id, ciphertexts, partials)
        challenge, response = statement.prove(secret, nonce)
        partials_column = column(partials, self.number_bytes)
        return PartialDecryptionResponse(
            session_id, partials_column, challenge, to_bytes(response, self.response_bytes)
        )

    def is_proved(
        self,
        number: int,
        session_id: bytes,
        ciphertexts: Sequence[Any],
        partials: Sequence[Any],
        challenge: bytes,
        response: bytes,
    ) -> bool:
        """Return whether partial decryptions are the ones that the holder's share gives, up to their sign."""
        exponent = from_bytes(response)
        if len(response) != self.response_bytes or exponent.bit_length() > self.response_bits:
            return False
        return self._statement(number, session_id, ciphertexts, partials).holds(challenge, exponent)

    def _statement(
        self, number: int, session_id: bytes, ciphertexts: Sequence[Any], partials: Sequence[Any]
    ) -> Statement:
        base, result = batch(session_id, number, ciphertexts, partials, self.modulus, self.number_bytes)
        context = self.public_key.id + session_id + number.to_bytes(NUMBER_BYTES, "little")
        v_i = self.verification_key(number)
        return Statement(self.modulus, self.number_bytes, context, self.v, v_i, base, result)

    def combine(self, columns: dict[int, list[Any]], threads: int | None = None) -> list[Any]:
        """Decrypt, from the partial decryptions of the `threshold` holders with the lowest numbers.

        Args:
            columns: Each holder's partial decryptions, proved, by its number.
            threads: How many share the work; by default one for each usable core.

        Returns:
            Plaintexts, from 0 to `n**degree - 1`.

        Raises:
            TooFewSurvivorsError: There are fewer holders than the threshold.
            DecryptionError: K6, they do not combine to plaintexts.
        """
        if (count := len(columns)) < self.threshold:
            raise TooFewSurvivorsError(
                f"{count} holders of a share answered, needed {self.threshold}", count, self.threshold
            )
        group = sorted(columns)[: self.threshold]
        n, modulus, degree = integer(self.public_key.n), self.modulus, self.degree
        plaintexts = n**degree
        factor = inverse(4 * self.multiple**2 % plaintexts, plaintexts)
        exponents = {number: 2 * self._interpolation(number, group) for number in group}

        def side(sign: int) -> list[Any]:
            """Return the products of the powers whose exponents have this sign; signs alternate, so both occur."""
            own = [number for number, exponent in exponents.items() if sign * exponent > 0]
            powers = [abs(exponents[number]) for number in own]

            def multiplied(part: Sequence[tuple[Any, ...]]) -> list[Any]:
                return [product_of_powers(bases, powers, modulus) for bases in part]

            return in_threads(multiplied, list(zip(*(columns[number] for number in own), strict=True)), threads)

        above, below = side(1), side(-1)
        found = []
        for numerator, reciprocal in zip(above, inverses(below, modulus), strict=True):
            residue = numerator * reciprocal % modulus
            if residue % n != 1:  # K6
                raise DecryptionError
            found.append(logarithm(residue, n, degree, modulus) // n * factor % plaintexts)
        return found

    def _interpolation(self, number: int, group: Sequence[int]) -> int:
        """Return Lagrange's coefficient at 0 times `multiple`, a whole number."""
        others = [other for other in group if other != number]
        return int(self.multiple) * math.prod(others) // math.prod(other - number for other in others)
