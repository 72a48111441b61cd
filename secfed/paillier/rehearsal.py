"""Times one client's Paillier work with a public key that has no known private key; it costs the same."""

from collections.abc import Callable

import numpy as np

from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES, keystream
from secfed.errors import ConfigError
from secfed.paillier.config import Config
from secfed.paillier.integers import integer
from secfed.paillier.keys import FEWEST_KEY_BITS, MOST_KEY_BITS, PublicKey
from secfed.paillier.noise import NoiseTable, exponent_bytes

_BASE = 1009  # any unit will do; the modulus has no smaller prime factor
# A whole table takes seconds, so only some rows are made, more of them for smaller keys.
_ROW_BITS, _FEWEST_ROWS = 40_000, 4
# With more bits in a plaintext, even these rows would take too long.
_MOST_BITS = 10_000
_MOST_FACTORS = 16


def stand_in_key(key_bits: int) -> PublicKey:
    """Return a public key of this size without a private key; for sizes and times only.

    Raises:
        ConfigError: `key_bits` is out of range.
    """
    if not FEWEST_KEY_BITS <= key_bits <= MOST_KEY_BITS or key_bits % 16:
        raise ConfigError(f"key_bits {key_bits} must be a multiple of 16 from {FEWEST_KEY_BITS} to {MOST_KEY_BITS}")
    n = int.from_bytes(keystream(bytes(SEED_BYTES), key_bits // 8), "little") | 1 << (key_bits - 1) | 1
    while True:
        try:
            return PublicKey(n, _BASE)
        except ConfigError:  # a small prime factor
            n += 2


def client_times(config: Config, clock: Callable[[], float]) -> tuple[float, float] | None:
    """Time a client's encryption of one plaintext, and its one-time work for a key.

    The noise is `"half"`. Both times grow with the bytes of its exponent, of which a few are timed.

    Args:
        config: The session's parameters.
        clock: Returns a time, such as `time.process_time`.

    Returns:
        The time for one plaintext and the time for the table of noise, in the clock's unit. None if the key's bits
        times `degree` exceed 10,000: timing would take too long.
    """
    key, degree = config.public_key, config.degree
    if key.key_bits * degree > _MOST_BITS:
        return None
    size = exponent_bytes("half", key.key_bits)
    rows = min(size, max(_FEWEST_ROWS, _ROW_BITS // (key.key_bits * degree)))
    started = clock()
    table = NoiseTable(integer(key.n), integer(key.h), degree, rows)
    once = (clock() - started) * size / rows
    count = min(_MOST_FACTORS, config.packing.plaintexts)
    entries = np.broadcast_to(config.dtype.type(0), (config.length,))  # one value in memory
    stream = SystemEntropy().draw("exponents", rows * count)
    started = clock()
    factors = [table.factor(stream[i * rows : (i + 1) * rows]) for i in range(count)]
    drawn = (clock() - started) * size / rows
    started = clock()
    key.hide(next(config.packing.slices(entries, count)), factors, degree)
    return (drawn + clock() - started) / count, once
