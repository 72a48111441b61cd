"""The dealer makes a threshold key and its shares once, hands them out and forgets them.

Source: Shoup 2000, section 3; Damgard and Jurik 2001, section 4.1; `protocols/paillier/README.md`, section 9.
"""

from secfed.errors import ConfigError
from secfed.paillier.generation import noise_base, safe_primes, uniform, uniform_unit
from secfed.paillier.integers import integer, inverse, secret_power
from secfed.paillier.keys import FEWEST_KEY_BITS, MOST_KEY_BITS, PublicKey
from secfed.paillier.threshold import KeyShare, ThresholdKey, numbers_fault

# Those of the published vectors.
_SMALLEST_INSECURE = 512

Dealt = tuple[ThresholdKey, tuple[KeyShare, ...]]


def deal(key_bits: int = 3072, *, holders: int, threshold: int, degree: int = 1) -> Dealt:
    """Make a threshold key and a share for each holder.

    Primes of this form are rare: at 3072 bits the search takes a few seconds to a minute.

    Args:
        key_bits: Bits of the modulus, a multiple of 16, at least 2048.
        holders: Number of holders of a share, at most 64.
        threshold: Number of holders needed to decrypt, at least 2 and more than half of them.
        degree: Damgard and Jurik's `s`, 1 to 7, for all sessions under the key.

    Returns:
        The key, for everyone, and the shares in order of the holders' numbers, each for its holder alone.

    Raises:
        ConfigError: A number is out of range.
        MissingExtraError: gmpy2, which finds the primes, is not installed.

    Security:
        The party that runs this sees the private key. It must forget it and all shares. Send each share to its holder
        over a private channel; all parties get the same public key.
    """
    if not FEWEST_KEY_BITS <= key_bits <= MOST_KEY_BITS or key_bits % 16:
        raise ConfigError(f"key_bits {key_bits} must be a multiple of 16 from {FEWEST_KEY_BITS} to {MOST_KEY_BITS}")
    return _deal(key_bits, holders, threshold, degree, False)


def deal_insecure(key_bits: int = 1024, *, holders: int, threshold: int, degree: int = 1) -> Dealt:
    """Make a threshold key that others can break: for tests only.

    Args:
        key_bits: Bits of the key, a multiple of 16, at least 512.
        holders: How many parties get a share.
        threshold: How many of them can decrypt.
        degree: Damgard and Jurik's `s`.

    Raises:
        ConfigError: `key_bits` is not a multiple of 16 from 512 on, or another number is out of range.
    """
    if key_bits < _SMALLEST_INSECURE or key_bits % 16:
        raise ConfigError(f"key_bits {key_bits} must be a multiple of 16, at least {_SMALLEST_INSECURE}")
    return _deal(key_bits, holders, threshold, degree, True)


def _deal(key_bits: int, holders: int, threshold: int, degree: int, insecure_size: bool) -> Dealt:
    if fault := numbers_fault(degree, holders, threshold):
        raise ConfigError(fault)
    p, q = safe_primes(key_bits)
    public_key = PublicKey(p * q, noise_base(p * q), insecure_size)
    modulus, plaintexts = public_key.modulus(degree), integer(p * q) ** degree
    order = integer((p - 1) // 2 * ((q - 1) // 2))  # of the squares modulo n
    exponents = order * plaintexts
    private = order * inverse(order, plaintexts)  # 0 modulo the order, 1 modulo that of plaintexts
    coefficients = [private, *(uniform(int(exponents)) for _ in range(threshold - 1))]
    v = pow(uniform_unit(int(modulus)), 2, int(modulus))
    commitments = tuple(int(secret_power(v, coefficient, modulus)) for coefficient in coefficients)
    shares = tuple(
        KeyShare(number, int(sum(coefficient * number**k for k, coefficient in enumerate(coefficients)) % exponents))
        for number in range(1, holders + 1)
    )
    return ThresholdKey(public_key, degree, holders, v, commitments), shares
