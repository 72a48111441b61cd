"""Proof that two powers have the same secret exponent, which shows that a holder used its share.

One proof covers a whole column: it is about products of powers with small, unpredictable coefficients.

Source: Shoup 2000, section 3; Bellare, Garay, Rabin 1998; `protocols/paillier/README.md`, section 9.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from secfed.crypto.prg import keystream
from secfed.paillier.integers import column, from_bytes, power, product_of_powers, read_column, secret_power
from secfed.paillier.keys import LABEL

NUMBER_BYTES = 4
_COEFFICIENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Statement:
    """That `result = base**x` and `v_i = v**x` for one x, D times the holder's share.

    Attributes:
        modulus: `n**(degree + 1)`.
        size: Bytes of a number.
        context: The key's id, the session's, and the holder's number.
        v: The first base.
        v_i: Its power.
        base: The second base, a product of the column's ciphertexts.
        result: Its power, the same product of the partial decryptions.
    """

    modulus: Any
    size: int
    context: bytes
    v: Any
    v_i: Any
    base: Any
    result: Any

    def prove(self, secret: Any, nonce: Any) -> tuple[bytes, Any]:
        """Return challenge and response.

        Args:
            secret: The exponent x.
            nonce: A fresh number that has many more bits than the challenge times x; never used twice.
        """
        commitments = (secret_power(base, nonce, self.modulus) for base in (self.base, self.v))
        challenge = self._challenge(*commitments)
        return challenge, nonce + from_bytes(challenge) * secret

    def holds(self, challenge: bytes, response: Any) -> bool:
        """Return whether challenge and response prove the statement."""
        exponent, modulus = from_bytes(challenge), self.modulus
        commitments = (
            power(base, response, modulus) * power(result, -exponent, modulus) % modulus
            for base, result in ((self.base, self.result), (self.v, self.v_i))
        )
        return self._challenge(*commitments) == challenge

    def _challenge(self, first: Any, second: Any) -> bytes:
        numbers = column([self.v, self.v_i, self.base, self.result, first, second], self.size)
        return hashlib.sha256(LABEL + b"proof" + self.context + numbers).digest()


def batch(
    session_id: bytes, number: int, ciphertexts: Sequence[Any], partials: Sequence[Any], modulus: Any, size: int
) -> tuple[Any, Any]:
    """Return what a proof for a whole column covers: a product of its ciphertexts, and of their partials.

    Args:
        session_id: The session.
        number: The holder's.
        ciphertexts: The column.
        partials: The partial decryptions that the holder claims.
        modulus: `n**(degree + 1)`.
        size: Bytes of a number.
    """
    columns = column(ciphertexts, size) + column(partials, size)
    context = session_id + number.to_bytes(NUMBER_BYTES, "little")
    seed = hashlib.sha256(LABEL + b"batch" + context + columns).digest()
    coefficients = read_column(keystream(seed, _COEFFICIENT_BYTES * len(ciphertexts)), _COEFFICIENT_BYTES)
    # Squares only, so that the sign of a partial decryption does not matter.
    return (
        power(product_of_powers(ciphertexts, coefficients, modulus), 4, modulus),
        power(product_of_powers(partials, coefficients, modulus), 2, modulus),
    )
