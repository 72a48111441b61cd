"""The exponential and the logarithm modulo `n^(s+1)`, which turn plaintexts into exponents and back.

Damgard and Jurik's generator is `1 + n`. Ours is `exp(n)`, which equals `1 + n` for `s` = 1 and needs no binomials for
larger `s`. Both generate the same group of order `n^s`, so security is the same.

Source: Damgard and Jurik 2001, section 3; `protocols/paillier/README.md`, section 4.
"""

from typing import Any

from secfed.paillier.integers import integer


def _inverses(degree: int, modulus: Any) -> list[Any]:
    """Return the inverses of 1 to `degree`, without caching: the modulus may be a power of a secret prime."""
    # (1 + modulus * x) / k is whole for x = -1 / modulus modulo k: no inversion of a large number.
    return [(1 + modulus * (-pow(int(modulus % k), -1, k) % k)) // k for k in range(1, degree + 1)]


def exponential(plaintext: Any, n: Any, degree: int, modulus: Any) -> Any:
    """Return `exp(plaintext * n)` modulo `modulus = n**(degree + 1)`."""
    step = plaintext * n % modulus
    if degree == 1:
        return step + 1
    found = integer(1)
    for reciprocal in reversed(_inverses(degree, modulus)):
        found = (step * reciprocal % modulus * found + 1) % modulus
    return found


def logarithm(residue: Any, prime: Any, degree: int, modulus: Any) -> Any:
    """Return `log(residue)` modulo `modulus = prime**(degree + 1)` for a residue that is 1 modulo `prime`.

    The result is a multiple of `prime` (which may also be `n`).
    """
    step = residue - 1
    if degree == 1:
        return step
    found = integer(0)
    for k, reciprocal in reversed(list(enumerate(_inverses(degree, modulus)))):
        found = (reciprocal * (-1 if k % 2 else 1) + found * step) % modulus
    return found * step % modulus
