"""The graph itself, and what makes a sum on it indivisible."""

import gc
import weakref
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from secfed.secagg import Config
from secfed.secagg.graph import Graph, graph_of


def graph(clients: int, neighbors: int | None, seed: int = 0, gone: tuple[int, ...] = ()) -> Graph:
    threshold = clients // 2 + 1 if neighbors is None else 2
    config = Config(range(1, clients + 1), threshold, 1, neighbors=neighbors)
    advertised = np.ones(clients, np.bool_)
    advertised[list(gone)] = False
    return Graph(config, advertised, bytes([seed]) * 32)


@pytest.mark.parametrize("seed", range(5))
def test_every_client_has_exactly_k_neighbors_and_they_have_it(seed: int) -> None:
    found = graph(40, 6, seed)
    for number in range(40):
        others = found.neighbors(number).tolist()
        assert len(set(others)) == 6
        assert number not in others
        assert others == sorted(others)
        assert all(number in found.neighbors(other) for other in others)
        assert found.holders(number).tolist() == others


def test_the_ring_is_another_one_in_every_session() -> None:
    rings = {tuple(graph(40, 6, seed).neighbors(0).tolist()) for seed in range(20)}
    assert len(rings) > 15


def test_clients_that_advertised_nothing_are_nobodys_neighbors() -> None:
    found = graph(40, 6, gone=(3, 7))
    there = [number for number in range(40) if number not in (3, 7)]
    assert not any({3, 7} & set(found.neighbors(number).tolist()) for number in there)


def test_too_few_clients_for_the_ring_neighbor_each_other() -> None:
    assert graph(9, 6, gone=(0, 1, 2)).neighbors(5).tolist() == [3, 4, 6, 7, 8]


def test_on_the_complete_graph_a_client_holds_a_share_of_its_own() -> None:
    found = graph(5, None)
    assert found.neighbors(2).tolist() == [0, 1, 3, 4]
    assert found.holders(2).tolist() == [0, 1, 2, 3, 4]


def test_short_names_the_owners_with_too_few_holders() -> None:
    found = graph(12, 4)
    everyone, among = np.ones(12, np.bool_), np.ones(12, np.bool_)
    among[found.neighbors(5)[:2]] = False
    expected = [n for n in range(12) if int(among[found.neighbors(n)].sum()) < 3]
    assert 5 in expected
    assert found.short(everyone, among, 3) == expected


# Indivisible sums. The adversary knows the ring, picks the colluders (at most c among anyone's neighbors) and who
# drops out. It gets the sum of a set of honest survivors if no honest survivor outside is a neighbor of one inside
# (pair masks would stay) and each inside can be opened: t of its neighbors are honest survivors or colluders.

CLIENTS, NEIGHBORS = 11, 4


def near(place: int) -> list[int]:
    return [(place + step) % CLIENTS for step in (-2, -1, 1, 2)]


def colluding(most: int) -> Iterator[frozenset[int]]:
    for size in range(CLIENTS):
        for chosen in combinations(range(CLIENTS), size):
            if all(len(set(near(place)) & set(chosen)) <= most for place in range(CLIENTS)):
                yield frozenset(chosen)


def parts(survivors: set[int]) -> list[set[int]]:
    left, found = set(survivors), []
    while left:
        part, edge = set(), {left.pop()}
        while edge:
            place = edge.pop()
            part.add(place)
            edge |= left & set(near(place))
            left -= edge
        found.append(part)
    return found


def sums_of_a_part(threshold: int, colluders: int) -> int:
    """Count the choices with which the adversary learns the sum of some, but not all, honest survivors."""
    count = 0
    for bad in colluding(colluders):
        honest = [place for place in range(CLIENTS) if place not in bad]
        for size in range(2, len(honest) + 1):
            for survivors in combinations(honest, size):
                answer = bad.union(survivors)
                split = parts(set(survivors))
                count += len(split) > 1 and any(
                    all(len(answer.intersection(near(place))) >= threshold for place in part) for part in split
                )
    return count


@pytest.mark.parametrize(("threshold", "colluders"), [(3, 0), (4, 1)])
def test_no_choice_of_dropouts_splits_an_indivisible_sum(threshold: int, colluders: int) -> None:
    config = Config(range(1, CLIENTS + 1), threshold, 1, neighbors=NEIGHBORS, colluders=colluders)
    assert config.indivisible
    assert sums_of_a_part(threshold, colluders) == 0


@pytest.mark.parametrize(("threshold", "colluders"), [(2, 0), (3, 1)])
def test_some_choice_of_dropouts_splits_a_divisible_sum(threshold: int, colluders: int) -> None:
    config = Config(range(1, CLIENTS + 1), threshold, 1, neighbors=NEIGHBORS, colluders=colluders)
    assert not config.indivisible
    assert sums_of_a_part(threshold, colluders) > 0


def test_parties_of_one_process_share_a_graph_for_as_long_as_one_holds_it() -> None:
    config = Config(range(1, 21), 6, 1, neighbors=10)
    advertised = np.ones(20, np.bool_)
    found = graph_of(config, advertised, bytes(32))
    assert graph_of(config, advertised, bytes(32)) is found
    other = graph_of(config, advertised, bytes([1]) * 32)
    assert other is not found and other.neighbors(0).tolist() != found.neighbors(0).tolist()
    kept = weakref.ref(found)
    del found
    gc.collect()
    assert kept() is None
