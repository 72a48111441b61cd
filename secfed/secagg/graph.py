"""Which clients share masks: all (Bonawitz et al. 2017), or k neighbors on a ring that all committed keys shuffle
(Bell et al. 2020, section 3).
"""

import hashlib
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from secfed.crypto.prg import keystream
from secfed.secagg.config import LABEL, Config
from secfed.wire import Set

Positions = npt.NDArray[np.intp]
# Neighbors looked up at a time, to bound memory.
_BLOCK_ELEMENTS = 1 << 18


def graph_of(config: Config, advertised: Set, session_id: bytes) -> "Graph":
    """Return a session's graph; for the arguments see `Graph`.

    The parties of one process share the graph while one of them holds it: `session_id` is a hash of everything that the
    graph depends on, and each party has computed it itself. Otherwise memory would grow with the square of the clients.
    """
    graph = _graphs.get(session_id)
    if graph is None:
        graph = _graphs[session_id] = Graph(config, advertised, session_id)
    return graph


class Graph:
    """The graph over the clients that advertised keys. Every party computes it itself.

    A client's position here is the index of its id in the configuration's ascending ids.

    Args:
        config: The session's configuration.
        advertised: Who advertised keys, shape `(clients,)`.
        session_id: 32 bytes; it depends on all keys.
    """

    def __init__(self, config: Config, advertised: Set, session_id: bytes) -> None:
        self._members = np.flatnonzero(advertised)
        self._complete = config.complete
        self._half = config.neighbors // 2
        # Too few clients for k distinct neighbors each: everyone neighbors everyone.
        self._everyone = config.complete or len(self._members) - 1 <= config.neighbors
        self._session_id = session_id

    @cached_property
    def _ring(self) -> Positions:
        seed = hashlib.sha256(LABEL + b"graph" + self._session_id).digest()
        tags = np.frombuffer(keystream(seed, 8 * len(self._members)), ">u8")
        order: Positions = np.argsort(tags, kind="stable")
        return self._members[order]

    @cached_property
    def _steps(self) -> Positions:
        return np.concatenate((np.arange(-self._half, 0), np.arange(1, self._half + 1)))

    @cached_property
    def _place(self) -> Positions:
        """The place on the ring of the client at each position."""
        place = np.empty(int(self._members[-1]) + 1, np.intp)
        place[self._ring] = np.arange(len(self._ring))
        return place

    def neighbors(self, position: int) -> Positions:
        """Return the clients that share pair masks with one client, ascending."""
        if self._everyone:
            others: Positions = self._members[self._members != position]
            return others
        return np.sort(self._around(self._place[position]))

    def _around(self, places: Any) -> Positions:
        """Return the neighbors of the clients at some places on the ring, in a last axis."""
        found: Positions = self._ring[(places + self._steps) % len(self._ring)]
        return found

    def holders(self, position: int) -> Positions:
        """Return the clients that hold shares of one client's secrets, ascending; symmetric, like the graph.

        On the complete graph a client holds a share of its own as well (Bonawitz et al., Figure 4), on a k-regular one
        it does not (Bell et al.).
        """
        return self._members if self._complete else self.neighbors(position)

    def short(self, owners: Set, among: Set, threshold: int) -> list[int]:
        """Return the owners of which fewer than `threshold` holders are among the given clients."""
        if self._complete:  # all have the same holders
            return [] if int(among.sum()) >= threshold else np.flatnonzero(owners).tolist()
        positions = np.flatnonzero(owners)
        if self._everyone:
            return [position for position in positions.tolist() if int(among[self.holders(position)].sum()) < threshold]
        rows = max(1, _BLOCK_ELEMENTS // len(self._steps))
        blocks = [positions[start : start + rows] for start in range(0, len(positions), rows)]
        return [
            position
            for block in blocks
            for position in block[among[self._around(self._place[block][:, None])].sum(axis=1) < threshold].tolist()
        ]


_graphs: WeakValueDictionary[bytes, Graph] = WeakValueDictionary()
