"""A malicious server that tells its clients different stories, and what it learns from their answers.

A story is what a client is told: who shared (U2) and who survived (U3). The server drives real clients, has the
signatures and shares of the colluding ones, and gives each client the signatures of those who were told the same.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.optimize import LinearConstraint, milp

from secfed import errors
from secfed.crypto import shamir
from secfed.crypto.agreement import KeyPair
from secfed.secagg import Client, Config, Policy, binding, masking, messages
from secfed.secagg.graph import Graph
from secfed.wire import set_to_bytes
from tests.secagg.forge import identities

Numbers = frozenset[int]


@dataclass(frozen=True)
class Story:
    """What some clients are told, by client number.

    Attributes:
        audience: Whom the server tells it.
        shared: U2.
        survivors: U3.
    """

    audience: Numbers
    shared: Numbers
    survivors: Numbers


class DishonestServer:
    """One session up to ShareKeys, with the same keys for everyone; then `tell` the stories.

    Attributes:
        ring: Client numbers in the order of the ring.
        near: The neighbors of each client number.
    """

    def __init__(self, config: Config, policy: Policy | None = None) -> None:
        self.config, self.count = config, len(config.client_ids)
        self.keys = identities(config)
        directory = {client_id: key.public_bytes for client_id, key in self.keys.items()}
        rng = np.random.default_rng(1)
        self.vectors = rng.integers(0, 1 << config.modulus_bits, (self.count, config.length), np.uint64)
        self.clients = [
            Client(config, i, self.vectors[u], policy=policy, signing_key=self.keys[i], directory=directory, threads=1)
            for u, i in enumerate(config.client_ids)
        ]
        nonce = secrets.token_bytes(32)
        opening = messages.AdvertiseKeysRequest(nonce, config.hash).to_bytes()
        self.advertised = [
            messages.AdvertiseKeysResponse.from_bytes(client.receive(opening)) for client in self.clients
        ]
        fields = ("channel_key", "mask_key", "signature")
        columns = [b"".join(getattr(answer, name) for answer in self.advertised) for name in fields]
        everyone = self.bits(range(self.count))
        self.session_id = binding.session_id(config, nonce, everyone, *columns[:2])
        graph = Graph(config, np.ones(self.count, np.bool_), self.session_id)
        self.ring: list[int] = graph._ring.tolist()
        self.near = [graph.neighbors(u).tolist() for u in range(self.count)]
        request = messages.ShareKeysRequest(everyone, *columns).to_bytes()
        self.sealed: dict[tuple[int, int], bytes] = {}
        size = messages.SEALED_BYTES
        for u, client in enumerate(self.clients):
            sealed = messages.ShareKeysResponse.from_bytes(client.receive(request)).sealed
            self.sealed |= {(u, v): sealed[size * j : size * (j + 1)] for j, v in enumerate(self.near[u])}

    def bits(self, members: Collection[int]) -> bytes:
        return set_to_bytes(np.isin(np.arange(self.count), list(members)))

    def tell(self, stories: Sequence[Story], colluders: Collection[int] = ()) -> list[Numbers]:
        """Run the rest of the session and return the sets of honest clients whose sums the server learns."""
        self.told = {u: story for story in stories for u in story.audience if u not in colluders}
        self.masked: dict[int, bytes] = {}
        signatures: dict[int, bytes] = {}
        for u, story in self.told.items():
            sealed = b"".join(self.sealed[v, u] for v in self.near[u] if v in story.shared)
            request: Any = messages.MaskedInputCollectionRequest(self.bits(story.shared), sealed)
            answer = self._ask(u, request)
            if answer:
                self.masked[u] = messages.MaskedInputCollectionResponse.from_bytes(answer).masked
        for u in self.masked:
            answer = self._ask(u, messages.ConsistencyCheckRequest(self.bits(self.told[u].survivors)))
            if answer:
                signatures[u] = messages.ConsistencyCheckResponse.from_bytes(answer).signature
        # Shares by kind, owner and holder; a colluding holder gives both kinds, and counts without its numbers.
        self.shares: dict[str, dict[int, dict[int, Any]]] = {
            kind: {u: dict.fromkeys(set(self.near[u]) & set(colluders)) for u in range(self.count)} for kind in "bs"
        }
        self.openers = []
        for u in signatures:
            answer = self._ask(u, self._unmasking_request(u, signatures, colluders))
            if answer:
                self.openers.append(u)
                self._take_shares(u, messages.UnmaskingResponse.from_bytes(answer).shares)
        return self._opened_sums()

    def _ask(self, u: int, request: Any) -> bytes:
        try:
            return self.clients[u].receive(request.to_bytes())
        except errors.ProtocolError:
            return b""

    def _unmasking_request(self, u: int, signatures: Mapping[int, bytes], colluders: Collection[int]) -> Any:
        story = self.told[u]
        signers = {v: data for v, data in signatures.items() if self.told[v].survivors == story.survivors}
        said = binding.survivors(self.session_id, self.bits(story.survivors))
        signers |= {v: self.keys[self.config.client_ids[v]].sign(said) for v in colluders if v in story.survivors}
        if self.config.session_colluders is None:
            signers = {v: data for v, data in signers.items() if v in self.near[u]}
        return messages.UnmaskingRequest(
            self.bits(story.survivors),
            self.bits(story.shared - story.survivors),
            self.bits(signers),
            b"".join(signers[v] for v in sorted(signers)),
        )

    def _take_shares(self, u: int, data: bytes) -> None:
        story, size = self.told[u], shamir.SHARE_BYTES
        for j, v in enumerate(v for v in self.near[u] if v in story.shared):
            share = np.frombuffer(data[size * j : size * (j + 1)], "<u4").astype(np.uint64)
            self.shares["b" if v in story.survivors else "s"][v][u] = share

    def _known(self, kind: str, u: int) -> bool:
        return len(self.shares[kind][u]) >= self.config.threshold

    def _pairs(self) -> list[tuple[int, int]]:
        """Return honest neighbors whose common mask the server does not know."""
        known = {u for u in range(self.count) if self._known("s", u)}
        honest = self.told.keys() - known
        return [(u, v) for u in honest for v in self.near[u] if u < v and v in honest]

    def _opened_sums(self) -> list[Numbers]:
        """Find every combination of masked inputs in which no unknown mask is left.

        The factors of both clients of an unknown pair mask must be equal if both have added it, and the factor of the
        only one that has added it must be 0; so must that of a client whose self mask is unknown. What is left are
        groups of clients with one factor each.
        """
        group = {u: u for u in self.masked}

        def first(u: int) -> int:
            while group[u] != u:
                u = group[u]
            return u

        zero = {u for u in self.masked if not self._known("b", u)}
        for u, v in self._pairs():
            has = [w for w, other in ((u, v), (v, u)) if w in self.masked and other in self.told[w].shared]
            if len(has) == 2:
                group[first(u)] = first(v)
            zero.update(has if len(has) == 1 else ())
        dead = {first(u) for u in zero}
        found: dict[int, set[int]] = {}
        for u in self.masked:
            if first(u) not in dead:
                found.setdefault(first(u), set()).add(u)
        return [frozenset(members) for members in found.values()]

    def sum_of(self, members: Numbers) -> Any:
        """Compute the sum of an opened set from shares alone (of sessions without colluders)."""
        config, session = self.config, self.session_id
        total = masking.create(config, session, 1).accumulator()
        ids = config.client_ids
        for u in members:
            total.add(self.masked[u])
            total.remove([binding.self_mask_seed(session, ids[u], self._secret("b", u))], [])
            for v in self.near[u]:
                if v in members or v not in self.told[u].shared:
                    continue
                known, other = (u, v) if self._known("s", u) else (v, u)
                pair = KeyPair(self._secret("s", known))
                seed = binding.pair_seed(pair, self.advertised[other].mask_key, session, ids[known], ids[other])
                total.remove(*(([seed], []) if u < v else ([], [seed])))
        return total.sum()

    def _secret(self, kind: str, u: int) -> bytes:
        shares = self.shares[kind][u]
        chosen = list(shares)[: self.config.threshold]
        points = self.config.ids[chosen].astype(np.uint64)
        limbs = shamir.combine(shamir.lagrange_weights(points), np.array([shares[holder] for holder in chosen]))
        secret = shamir.from_limbs(limbs)
        assert secret is not None
        return secret


@dataclass(frozen=True)
class Plan:
    """How to open the sum of an arc of a ring, in places on the ring; the arc begins at place 0.

    Attributes:
        arc: A, the clients whose sum is wanted.
        dropped: D, clients near the arc that it believes in and the rest believes gone.
        colluding: Colluding clients.
        far: Clients that are no neighbors of the arc.
    """

    arc: Numbers
    dropped: Numbers
    colluding: Numbers
    far: Numbers


@cache
def plan(n: int, k: int, t: int, c: int, arc: int, colluders: int) -> Plan | None:
    """Plan the attack on the sum of an arc of a ring by integer programming; None if there is no choice.

    A and D are told that A, D, the colluders and everybody who is no neighbor of A survived. The rest is told that D
    dropped out. Then D's mask keys and A's self seeds are both opened.
    """
    half = k // 2
    inside = np.arange(n) < arc
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))
    near = ((np.minimum(distance, n - distance) <= half) & (distance > 0)).astype(float)
    touched = near[:, inside].any(axis=1)
    # Unknowns by position on the ring: D, the colluders, and who of the rest opens. "big" turns a rule off.
    eye, zero, big = np.eye(n), np.zeros((n, n)), 2.0 * k
    a, far = inside.astype(float), (~touched & ~inside).astype(float)

    def rule(dropped: Any, colluding: Any, opening: Any, least: Any, most: Any) -> LinearConstraint:
        return LinearConstraint(np.hstack((dropped, colluding, opening)), least, most)

    row = near[inside]
    rules = [
        rule(row, row, 0 * row, t - row @ a, np.inf),  # A has holders in its story
        rule(near - big * eye, near, zero, t - big - near @ (a + far), np.inf),  # so has D
        rule(near, zero, big * eye, -np.inf, near @ (1 - a) - t + big),  # who opens in the rest has holders there
        rule(eye, eye, eye, 0, 1 - a),
        rule(-t * eye, near, near, 0, np.inf),  # D's mask keys are opened
        rule(zero, near, zero, -np.inf, c),
        rule(0 * eye[:1], eye[:1] * 0 + 1, 0 * eye[:1], -np.inf, colluders),
        rule(eye, eye, zero, 0, 1 - a - far),
    ]
    weights = np.concatenate((np.ones(n), np.full(n, 0.01), np.zeros(n)))
    found = milp(weights, integrality=np.ones(3 * n), bounds=(0, 1), constraints=rules)
    if found.x is None:
        return None
    chosen = found.x.reshape(3, n).round().astype(bool)
    places = (inside, chosen[0], chosen[1], far.astype(bool))
    return Plan(*(frozenset(np.flatnonzero(part).tolist()) for part in places))


def stories(server: DishonestServer, plan: Plan, starts: Sequence[int] = (0,)) -> tuple[list[Story], list[Numbers]]:
    """Tell one story to each of some arcs, which begin at the given places, and one to the rest; return the arcs too.

    Several arcs need a plan without colluding clients.
    """
    n = server.count

    def clients(places: Numbers, start: int) -> Numbers:
        return frozenset(server.ring[(place + start) % n] for place in places)

    everyone = rest = survivors = frozenset(range(n))
    told, arcs = [], []
    for start in starts:
        audience = clients(plan.arc | plan.dropped, start)
        announced = audience | clients(plan.colluding | plan.far, start)
        told.append(Story(audience, announced, announced))
        arcs.append(clients(plan.arc, start))
        rest, survivors = rest - audience, survivors - clients(plan.dropped, start)
    return [*told, Story(rest, everyone, survivors)], arcs
