"""A client's shares: of its own secrets, to be sealed for its holders, and of the others', which it opens."""

from contextlib import suppress

import numpy as np
import numpy.typing as npt

from secfed.crypto import aead, shamir
from secfed.crypto.entropy import Entropy
from secfed.errors import FaultyServerError
from secfed.secagg import binding, messages
from secfed.secagg.config import Config
from secfed.secagg.states import Shared


def split(config: Config, secrets: bytes, holders: npt.NDArray[np.intp], entropy: Entropy) -> list[bytes]:
    """Split the private mask key and the self seed; one pair of shares for each holder.

    Args:
        config: The session's parameters.
        secrets: Both secrets, one after the other.
        holders: Positions, ascending.
        entropy: Source of the coefficients.
    """
    coefficients = shamir.draw_coefficients(entropy, config.threshold, 2)
    data = shamir.shares_to_bytes(shamir.split(secrets, config.threshold, config.ids[holders], coefficients))
    return [data[i : i + 2 * shamir.SHARE_BYTES] for i in range(0, len(data), 2 * shamir.SHARE_BYTES)]


def open_pairs(config: Config, me: int, state: Shared, senders: list[int], column: bytes) -> dict[int, bytes]:
    """Open the sealed pairs of shares; those of a faulty sender are left out.

    The session continues without them, so that one client cannot end it. If fewer are left than the threshold, the
    server is at fault: it shows this client a different session from the others.

    Args:
        config: The session's parameters.
        me: The client's position.
        state: What it holds.
        senders: Positions of those that sealed them, ascending.
        column: The sealed pairs, in that order.

    Returns:
        The pairs that open, by position of the sender.

    Raises:
        FaultyServerError: C13 or C14, too few pairs open, or too few are elements of the field.
    """
    size, needed = messages.SEALED_BYTES, config.threshold - (me in state.shares)
    opened = {}
    for i, sender in enumerate(senders):
        data = binding.sealing_data(state.session_id, config.client_ids[sender], config.client_ids[me])
        with suppress(aead.OpenError):
            opened[sender] = aead.open(state.opening_keys[sender], column[i * size : (i + 1) * size], data)
    if len(opened) < needed:  # C13
        raise FaultyServerError(f"{len(opened)} sealed shares of {len(senders)} open, needed {needed}", "C13")
    if shamir.shares_from_bytes(b"".join(opened.values())) is None:
        opened = {sender: pair for sender, pair in opened.items() if shamir.shares_from_bytes(pair) is not None}
    if len(opened) < needed:  # C14
        raise FaultyServerError(f"{len(opened)} shares are elements of the field, needed {needed}", "C14")
    return opened
