"""Arrays of whole numbers modulo `2**modulus_bits`."""

from typing import Any

import numpy as np
import numpy.typing as npt


def narrowest_dtype(modulus_bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the narrowest unsigned dtype that holds numbers of this many bits, up to 64."""
    return np.dtype(f"u{next(width for width in (8, 16, 32, 64) if width >= modulus_bits) // 8}")


def signed(vector: npt.NDArray[np.unsignedinteger[Any]], modulus_bits: int) -> npt.NDArray[np.int64]:
    """Read numbers modulo `2**modulus_bits` as signed ones, from `-2**(modulus_bits - 1)` on; the shape stays."""
    shift = 64 - modulus_bits
    return (vector.astype(np.uint64) << np.uint64(shift)).view(np.int64) >> np.int64(shift)
