"""Requests in which the server passes on what clients sent: sealed shares, and signatures on the survivors."""

from collections.abc import Iterator, Mapping

import numpy as np

from secfed.secagg import messages
from secfed.secagg.config import Config
from secfed.secagg.graph import Graph
from secfed.secagg.states import Collecting
from secfed.wire import Set, set_to_bytes


def masked_input_collection(
    config: Config, graph: Graph, shared: Set, sealed: dict[int, bytes]
) -> Iterator[tuple[int, bytes]]:
    """Yield the id and the MaskedInputCollectionRequest of each client that shared.

    Args:
        config: The session's parameters.
        graph: Who holds whose shares.
        shared: Who shared, shape `(clients,)`.
        sealed: What the client at each position sealed, a column over its neighbors; emptied, to hold one copy.
    """
    receivers = np.flatnonzero(shared)
    row = np.full(len(shared), -1, np.intp)
    row[receivers] = np.arange(len(receivers))
    counts = np.zeros(len(receivers), np.intp)
    columns = np.empty((len(receivers), min(config.holders, len(receivers)), messages.SEALED_BYTES), np.uint8)
    for sender in receivers.tolist():  # ascending, so each receiver's column is too
        pairs = np.frombuffer(sealed.pop(sender), np.uint8).reshape(-1, messages.SEALED_BYTES)
        rows = row[graph.neighbors(sender)]
        kept = rows >= 0
        rows = rows[kept]
        columns[rows, counts[rows]] = pairs[kept]
        counts[rows] += 1
    members = set_to_bytes(shared)
    for i, position in enumerate(receivers.tolist()):
        request = messages.MaskedInputCollectionRequest(members, columns[i, : counts[i]].tobytes())
        yield config.client_ids[position], request.to_bytes()


def unmasking(
    config: Config, state: Collecting, receivers: Set, survivors: Set, signatures: Mapping[int, bytes]
) -> dict[int, bytes]:
    """Return the UnmaskingRequest for each receiver, by id.

    Args:
        config: The session's parameters.
        state: Who shared, and who holds whose shares.
        receivers: Who is asked, shape `(clients,)`.
        survivors: Who is in the sum.
        signatures: Signatures on the survivors, by position of the client.
    """

    def request(signers: list[int]) -> bytes:
        members = np.zeros_like(receivers)
        members[signers] = True
        return messages.UnmaskingRequest(
            set_to_bytes(survivors),
            set_to_bytes(state.shared & ~survivors),
            set_to_bytes(members),
            b"".join(signatures[signer] for signer in signers),
        ).to_bytes()

    if config.malicious_server and config.session_colluders is None:
        positions = np.flatnonzero(receivers).tolist()
        return {
            config.client_ids[i]: request(
                [holder for holder in state.graph.holders(i).tolist() if holder in signatures]
            )
            for i in positions
        }
    # The same for all; signatures beyond those needed prove nothing more.
    needed = config.signers_needed(int(state.advertised.sum()))
    return dict.fromkeys(config.ids[receivers].tolist(), request(sorted(signatures)[:needed]))
