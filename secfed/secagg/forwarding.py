"""Sealed shares from each sender to each holder: the server passes on what it cannot open."""

from collections.abc import Iterator

import numpy as np

from secfed.secagg import messages
from secfed.secagg.config import Config
from secfed.secagg.graph import Graph, Set


def requests(config: Config, graph: Graph, shared: Set, sealed: dict[int, bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield the id and the MaskedInputCollectionRequest of each client that shared.

    Args:
        config: The session's parameters.
        graph: Who holds whose shares.
        shared: Who shared, shape `(clients,)`.
        sealed: What each client number sealed, a column over its neighbors; emptied, so that memory holds one copy.
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
    members = messages.set_to_bytes(shared)
    for i, number in enumerate(receivers.tolist()):
        request = messages.MaskedInputCollectionRequest(members, columns[i, : counts[i]].tobytes())
        yield config.client_ids[number], request.to_bytes()
