"""A server that tells its clients different survivors opens no part of an indivisible sum, whatever it tells whom."""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from secfed.crypto import signing
from secfed.secagg import Config, Policy
from tests.secagg.dishonest_server import DishonestServer, Numbers, Story, plan, stories


@pytest.fixture(autouse=True)
def _verify_each_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All clients verify the same signatures; here one does it for all."""
    monkeypatch.setattr(signing, "verify", lru_cache(1 << 17)(signing.verify))


def ring(n: int, k: int, t: int, c: int, session_colluders: int | None) -> Config:
    return Config(
        range(1, n + 1),
        t,
        3,
        32,
        neighbors=k,
        colluders=c,
        session_colluders=session_colluders,
        adversary="malicious_server",
    )


# n, k, t, c and the length of the arc whose sum the server wants.
ARCS = [(30, 10, 6, 0, 7), (60, 10, 6, 0, 7), (40, 14, 8, 0, 8), (200, 18, 10, 0, 10), (180, 30, 20, 3, 18)]
BY_ARC = pytest.mark.parametrize(
    ("n", "k", "t", "c", "arc"),
    [*ARCS[:3], *(pytest.param(*row, marks=pytest.mark.slow) for row in [*ARCS[3:], (1000, 22, 12, 0, 11)])],
)


@pytest.mark.sampled(1)
@BY_ARC
def test_two_stories_open_an_arc_where_only_holders_sign(n: int, k: int, t: int, c: int, arc: int) -> None:
    config = ring(n, k, t, c, None)
    assert not config.indivisible
    attack = plan(n, k, t, c, arc, 2 * c)
    assert attack is not None
    server = DishonestServer(config, Policy(minimum_cohort=arc, minimum_threshold=t, adversary="malicious_server"))
    told, (members,) = stories(server, attack)
    assert len(told[0].survivors) > len(members)
    colluders = clients_at(server, attack.colluding)
    assert members in server.tell(told, colluders)
    if not colluders:
        assert server.sum_of(members).tolist() == (server.vectors[list(members)].sum(axis=0) % 2**32).tolist()


@pytest.mark.sampled(1)
@BY_ARC
def test_two_stories_open_nothing_where_the_whole_session_signs(n: int, k: int, t: int, c: int, arc: int) -> None:
    # The smallest threshold that a configuration with session_colluders takes.
    config = ring(n, k, max(t, k // 2 + c + 1), c, 3 * c)
    attack = plan(n, k, t, c, arc, 2 * c)
    assert attack is not None
    server = DishonestServer(config, Policy(minimum_cohort=arc, adversary="malicious_server", indivisible=True))
    told, (members,) = stories(server, attack)
    colluders = clients_at(server, attack.colluding)
    opened = server.tell(told, colluders)
    assert members not in opened
    assert_whole(server, colluders, opened)


def clients_at(server: DishonestServer, places: Numbers) -> Numbers:
    return frozenset(server.ring[place] for place in places)


def assert_whole(server: DishonestServer, colluders: Numbers, opened: list[Numbers]) -> None:
    """All openers believe in one set of survivors, and the server learns its sum or nothing."""
    believed = {server.told[u].survivors for u in server.openers}
    assert len(believed) <= 1
    assert len(opened) <= 1
    for members in opened:
        assert members == next(iter(believed)) - colluders


def arcs_attack(rng: Any, server: DishonestServer) -> list[Story]:
    """Aim at the sums of one to three arcs at once, then change a little what some clients are told."""
    n, k, t = server.count, server.config.neighbors, server.config.threshold
    attack = plan(n, k, t, 0, k // 2 + int(rng.integers(1, 4)), 0)
    if attack is None:
        return random_stories(rng, server, 4)
    reach = k // 2 + 3 + 2 * k
    starts = rng.integers(n) + np.arange(int(rng.integers(1, max(2, min(4, n // reach + 1))))) * reach
    told, _ = stories(server, attack, starts.tolist())
    if rng.random() < 0.5:
        return told
    moved = set(rng.choice(n, rng.integers(1, 4), replace=False).tolist())
    return [Story(story.audience, story.shared | moved, story.survivors - (moved - story.audience)) for story in told]


def random_stories(rng: Any, server: DishonestServer, most: int) -> list[Story]:
    """Tell stories to arcs of the ring; each leaves out or adds clients in the arc, near its edges and far from it."""
    n, half = server.count, server.config.neighbors // 2
    at = np.array(server.ring)
    edges = np.sort(rng.choice(n, rng.integers(1, most + 1), replace=False))
    told = []
    for start, stop in zip(edges, [*edges[1:], edges[0] + n], strict=True):
        places = np.arange(start, stop) % n
        beyond = np.concatenate((np.arange(start - half, start), np.arange(stop, stop + half))) % n
        audience = frozenset(at[places].tolist())
        far = set(range(n)) - audience - set(at[beyond].tolist())
        # Told to be a survivor, a dropout, or not to have shared.
        fate = rng.choice(3, len(beyond), p=rng.dirichlet([1.0, 1.0, 1.0]))
        inside = rng.choice(3, len(places), p=[0.94, 0.04, 0.02])
        dropped, absent = (set(at[beyond[fate == i]].tolist()) | set(at[places[inside == i]].tolist()) for i in (1, 2))
        if rng.random() < 0.3:
            dropped |= far
        shared = frozenset(range(n)) - absent
        told.append(Story(audience, shared, shared - dropped))
    return told


def some_colluders(rng: Any, server: DishonestServer) -> Numbers:
    """Draw colluding clients, no more around anybody and in all than the configuration withstands."""
    colluders: set[int] = set()
    for u in rng.permutation(server.count)[: rng.integers(0, (server.config.session_colluders or 0) + 1)].tolist():
        if all(len({*colluders, u} & set(near)) <= server.config.colluders for near in server.near):
            colluders.add(u)
    return frozenset(colluders)


def check_placements(count: int, seed: int) -> None:
    """Run attacks with up to four stories against sessions in which the whole session signs."""
    rng = np.random.default_rng(seed)
    whole = 0
    for number in range(count):
        if number % 8 == 2:  # one true story among them
            server = DishonestServer(ring(14, 6, 5, 1, 2))
            everyone = frozenset(range(14))
            told = [Story(everyone, everyone, everyone)]
        elif number % 2:
            server = DishonestServer(ring(int(rng.integers(28, 66)), 8, 5, 0, int(rng.integers(0, 3))))
            told = arcs_attack(rng, server)
        else:
            k = int(rng.choice([4, 6, 8]))
            n, c = int(rng.integers(k + 2, 26)), int(rng.integers(0, k // 2))
            total = int(rng.integers(c, min(2 * c + 1, n - 2) + 1))
            server = DishonestServer(ring(n, k, int(rng.integers(k // 2 + c + 1, k + 1)), c, total))
            told = random_stories(rng, server, 4)
        colluders = some_colluders(rng, server)
        opened = server.tell(told, colluders)
        assert_whole(server, colluders, opened)
        whole += len(opened)
    assert whole >= count // 8  # a true story opens the whole sum, others hardly ever do


@pytest.mark.parametrize("count", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_random_stories_open_one_whole_sum_or_nothing(count: int) -> None:
    check_placements(count, 1)


@pytest.mark.slow
def test_a_thousand_random_placements_open_one_whole_sum_or_nothing() -> None:
    check_placements(1000, 2)


def test_the_same_stories_open_arcs_where_only_holders_sign() -> None:
    rng = np.random.default_rng(0)  # with this seed the first stories do it
    parts: list[int] = []
    while len(parts) < 6 and max(parts, default=0) < 2:
        server = DishonestServer(ring(66, 8, 5, 0, None))
        parts.append(len(server.tell(arcs_attack(rng, server))))
    assert max(parts) >= 2


def test_more_than_half_of_the_session_and_its_colluders_must_sign() -> None:
    config = ring(12, 4, 4, 1, 3)
    assert config.signers_needed(12) == 8
    assert config.signers_needed(11) == 8
    assert ring(12, 4, 4, 1, None).signers_needed(12) == 4
