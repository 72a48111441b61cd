"""Sharing: any t shares give the secret, fewer say nothing, and wrong shares are found."""

import random
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto import field, shamir
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.field import P
from tests.examples import examples

SYSTEM = SystemEntropy()
POINT = st.integers(1, P - 1) | st.integers(1, 20) | st.integers(P - 20, P - 1)


def deal(secret: bytes, threshold: int, points: list[int]) -> np.ndarray:
    coefficients = shamir.draw_coefficients(SYSTEM, threshold, len(secret) // 32)
    return shamir.split(secret, threshold, np.array(points, np.int64), coefficients)


def join(points: list[int], shares: np.ndarray) -> bytes | None:
    weights = shamir.lagrange_weights(np.array(points, np.uint64))
    return shamir.from_limbs(shamir.combine(weights, np.asarray(shares, np.uint64)))


def naive_share(constant: int, coefficients: list[int], point: int) -> int:
    return (constant + sum(c * pow(point, i, P) for i, c in enumerate(coefficients, start=1))) % P


def naive_secret(points: list[int], values: list[int]) -> int:
    """Lagrange interpolation at 0 in Python's whole numbers."""
    total = 0
    for i, (x, y) in enumerate(zip(points, values, strict=True)):
        top = bottom = 1
        for j, other in enumerate(points):
            if i != j:
                top, bottom = top * -other % P, bottom * (x - other) % P
        total += y * top * pow(bottom, -1, P)
    return total % P


@st.composite
def dealings(draw: st.DrawFn, most: int = 12) -> tuple[int, list[int]]:
    points = draw(st.lists(POINT, min_size=1, max_size=most, unique=True))
    return draw(st.integers(1, len(points))), points


def test_known_answer() -> None:
    """Limb i of the secret is i + 1 and its polynomial is i + 1 + 2x + 3x^2: shares at 1, 2, 3 by hand."""
    secret = sum((i + 1) << 30 * i for i in range(9)).to_bytes(32, "little")
    coefficients = np.array([[2] * 9, [3] * 9], np.uint64)
    shares = shamir.split(secret, 3, np.array([1, 2, 3]), coefficients)
    assert shares.tolist() == [[i + 6 for i in range(9)], [i + 17 for i in range(9)], [i + 34 for i in range(9)]]
    assert shamir.lagrange_weights(np.array([1, 2, 3], np.uint64)).tolist() == [3, P - 3, 1]
    assert join([1, 2, 3], shares) == secret


@given(st.binary(min_size=32, max_size=32), dealings(6), st.randoms(use_true_random=False))
def test_shares_and_secret_are_those_of_python_numbers(
    secret: bytes, dealing: tuple[int, list[int]], chance: random.Random
) -> None:
    threshold, points = dealing
    coefficients = [[chance.randrange(P) for _ in range(9)] for _ in range(threshold - 1)]
    table = np.array(coefficients, np.uint64).reshape(threshold - 1, 9)
    shares = shamir.split(secret, threshold, np.array(points, np.int64), table)
    limbs = [int.from_bytes(secret, "little") >> 30 * i & (1 << 30) - 1 for i in range(9)]
    for point, share in zip(points, shares.tolist(), strict=True):
        assert share == [naive_share(limbs[i], [row[i] for row in coefficients], point) for i in range(9)]
    for i in range(9):
        assert naive_secret(points[:threshold], shares[:threshold, i].tolist()) == limbs[i]


@given(st.binary(min_size=32, max_size=32), dealings(), st.randoms(use_true_random=False))
def test_any_threshold_shares_give_the_secret(
    secret: bytes, dealing: tuple[int, list[int]], chance: random.Random
) -> None:
    threshold, points = dealing
    shares = deal(secret, threshold, points)
    assert shares.shape == (len(points), 9)
    assert int(shares.max()) < P
    chosen = chance.sample(range(len(points)), threshold)
    assert join([points[i] for i in chosen], shares[chosen]) == secret


@examples(10, 30)
@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5), dealings(6))
def test_several_secrets_are_shared_as_if_one_by_one(secrets: list[bytes], dealing: tuple[int, list[int]]) -> None:
    threshold, points = dealing
    shares = deal(b"".join(secrets), threshold, points)
    for i, secret in enumerate(secrets):
        assert join(points[:threshold], shares[:threshold, 9 * i : 9 * i + 9]) == secret


@examples(10, 30)
@given(st.data())
def test_weights_of_many_sets_are_those_of_each(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    rows = data.draw(st.lists(st.lists(POINT, min_size=count, max_size=count, unique=True), min_size=1, max_size=4))
    together = shamir.lagrange_weights(np.array(rows, np.uint64))
    assert together.tolist() == [shamir.lagrange_weights(np.array(row, np.uint64)).tolist() for row in rows]
    shares = np.array([deal(bytes([i]) * 32, count, row) for i, row in enumerate(rows)])
    limbs = shamir.combine(together, shares)
    assert [shamir.from_limbs(row) for row in limbs] == [bytes([i]) * 32 for i in range(len(rows))]


def test_a_thousand_holders_with_a_threshold_of_667() -> None:
    secret = bytes(range(200, 232))
    points = [int(point) for point in np.random.default_rng(3).choice(P - 1, 1000, replace=False) + 1]
    coefficients = shamir.draw_coefficients(SYSTEM, 667, 1)
    shares = shamir.split(secret, 667, np.array(points), coefficients)
    limb = int.from_bytes(secret, "little") >> 240
    for holder in (0, 500, 999):
        assert int(shares[holder, 8]) == naive_share(limb, coefficients[:, 8].tolist(), points[holder])
    assert join(points[:667], shares[:667]) == secret
    assert join(points[333:], shares[333:]) == secret
    assert join(points[:666], shares[:666]) != secret


def test_weights_cut_into_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(4).choice(10**6, 57, replace=False).astype(np.uint64) + np.uint64(1)
    whole = shamir.lagrange_weights(points)
    for elements in (1, 57, 100, 57 * 56, 57 * 57 - 1):
        monkeypatch.setattr(shamir, "_BLOCK_ELEMENTS", elements)
        assert np.array_equal(shamir.lagrange_weights(points), whole)


def test_fewer_than_threshold_shares_fit_every_secret_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """All polynomials over a field of 7 elements: for every secret each pair of shares comes up once in 49."""
    monkeypatch.setattr(field, "P", 7)
    monkeypatch.setattr(field, "_P", np.uint64(7))
    monkeypatch.setattr(field, "_SHIFT", np.uint64(3))
    points = np.arange(1, 7)
    dealt = {}
    for secret in range(7):
        tables = [np.array([[a] + [0] * 8, [b] + [0] * 8], np.uint64) for a, b in product(range(7), repeat=2)]
        data = secret.to_bytes(32, "little")
        dealt[secret] = [shamir.split(data, 3, points, table)[:, 0].tolist() for table in tables]
    for i, j in combinations(range(6), 2):
        for secret in range(7):
            pairs = Counter((shares[i], shares[j]) for shares in dealt[secret])
            assert len(pairs) == 49
            assert set(pairs.values()) == {1}
    for one, other, third in combinations(range(6), 3):
        seen = [{(shares[one], shares[other], shares[third]) for shares in dealt[secret]} for secret in range(7)]
        assert len(set.union(*seen)) == 7 * 49  # no triple of shares comes from two secrets


def test_one_share_too_few_gives_something_else() -> None:
    for threshold in (2, 3, 7):
        secret = bytes(range(32))
        points = list(range(1, 10))
        assert join(points[: threshold - 1], deal(secret, threshold, points)[: threshold - 1]) != secret


def test_coefficients_are_uniform_by_rejection_and_never_p() -> None:
    class Scripted:
        def draw(self, label: str, size: int) -> bytes:
            assert label == "shares"
            words = [P, 2**32 - 1, P - 1, 0, 2**31, 2**31 + 5] + [1] * (size // 4 - 6)
            return np.array(words, "<u4").tobytes()

    drawn = shamir.draw_coefficients(Scripted(), 2, 1)
    assert drawn.shape == (1, 9)
    assert drawn[0].tolist() == [P - 1, 0, 0, 5, 1, 1, 1, 1, 1]


def test_random_source_that_is_stuck_is_noticed() -> None:
    class Stuck:
        def draw(self, label: str, size: int) -> bytes:
            return b"\xff" * size

    with pytest.raises(RuntimeError, match="again and again"):
        shamir.draw_coefficients(Stuck(), 3, 2)


def test_threshold_of_one_needs_no_coefficients() -> None:
    secret = bytes(range(32))
    shares = deal(secret, 1, [5, 6])
    assert join([6], shares[1:]) == secret


@given(st.binary(min_size=32, max_size=32))
def test_limbs_are_below_2_to_30_and_come_back(secret: bytes) -> None:
    limbs = shamir.to_limbs(secret)
    assert limbs.shape == (9,)
    assert int(limbs.max()) < 2**30
    assert shamir.from_limbs(limbs) == secret


@pytest.mark.parametrize(("limb", "value"), [(0, 2**30), (7, P - 1), (8, 2**16), (8, 2**30)])
def test_limbs_that_are_no_secrets_are_refused(limb: int, value: int) -> None:
    limbs = shamir.to_limbs(bytes(32))
    limbs[limb] = value
    assert shamir.from_limbs(limbs) is None


@given(st.lists(st.lists(st.integers(0, P - 1), min_size=9, max_size=9), min_size=1, max_size=4))
def test_shares_have_36_bytes_and_come_back(rows: list[list[int]]) -> None:
    data = shamir.shares_to_bytes(np.array(rows, np.uint64))
    assert len(data) == shamir.SHARE_BYTES * len(rows)
    assert data == b"".join(value.to_bytes(4, "little") for row in rows for value in row)
    decoded = shamir.shares_from_bytes(data)
    assert decoded is not None
    assert decoded.tolist() == rows


@pytest.mark.parametrize("value", [P, P + 1, 2**32 - 1, 2**31])
@pytest.mark.parametrize("place", [0, 8, 9, 17])
def test_share_that_is_not_an_element_of_the_field_is_refused(value: int, place: int) -> None:
    words = np.full(18, P - 1, "<u4")
    assert shamir.shares_from_bytes(words.tobytes()) is not None
    words[place] = value
    assert shamir.shares_from_bytes(words.tobytes()) is None


@examples(14, 150)
@given(st.binary(min_size=32, max_size=32), dealings(), st.data())
def test_wrong_shares_are_named_exactly_up_to_half_of_the_spare_ones(
    secret: bytes, dealing: tuple[int, list[int]], data: st.DataObject
) -> None:
    threshold, points = dealing
    shares = deal(secret, threshold, points)
    radius = (len(points) - threshold) // 2
    liars = data.draw(st.lists(st.integers(0, len(points) - 1), max_size=radius, unique=True))
    for liar in liars:
        limbs = data.draw(st.lists(st.integers(0, 8), min_size=1, max_size=9, unique=True))
        for limb in limbs:
            shares[liar, limb] = (int(shares[liar, limb]) + data.draw(st.integers(1, P - 1))) % P
    wrong = shamir.find_wrong(np.array(points, np.uint64), shares, threshold)
    assert wrong is not None
    assert np.flatnonzero(wrong).tolist() == sorted(liars)


@examples(14, 150)
@given(dealings(), st.data())
def test_nobody_is_named_when_random_shares_are_too_many(dealing: tuple[int, list[int]], data: st.DataObject) -> None:
    """A random word lies near another codeword at most 12 times in 2^31: this fails once in a million runs."""
    threshold, points = dealing
    shares = deal(bytes(32), threshold, points)
    fewest = (len(points) - threshold) // 2 + 1
    liars = data.draw(st.lists(st.integers(0, len(points) - 1), min_size=fewest, max_size=len(points), unique=True))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shares[liars] = generator.integers(0, P, (len(liars), 9), np.uint64)
    wrong = shamir.find_wrong(np.array(points, np.uint64), shares, threshold)
    if len(points) > threshold:
        assert wrong is None
    else:  # as many holders as the threshold: any shares lie on some polynomials
        assert wrong is not None
        assert not wrong.any()


def test_wrong_shares_among_a_hundred_holders_are_found() -> None:
    points = np.arange(1, 101, dtype=np.uint64)
    shares = deal(bytes(range(32)), 67, points.tolist())
    liars = [0, 3, 50, 51, 52, 98, 99, 10, 20, 30, 40, 60, 70, 80, 90, 95]
    assert len(liars) == (100 - 67) // 2
    for liar in liars:
        shares[liar, liar % 9] ^= np.uint64(1)
    wrong = shamir.find_wrong(points, shares, 67)
    assert wrong is not None
    assert np.flatnonzero(wrong).tolist() == sorted(liars)
    shares[1, 0] ^= np.uint64(1)
    assert shamir.find_wrong(points, shares, 67) is None


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", range(20))
def test_errors_of_two_limbs_that_cancel_in_their_sum_are_found(seed: int) -> None:
    generator = np.random.default_rng(seed)
    points = np.arange(1, 8, dtype=np.uint64)
    shares = deal(bytes(range(32)), 4, points.tolist())
    limbs, error = generator.choice(9, 2, replace=False), int(generator.integers(1, P))
    for limb, change in zip(limbs, (error, P - error), strict=True):
        shares[2, limb] = (int(shares[2, limb]) + change) % P
    wrong = shamir.find_wrong(points, shares, 4)
    assert wrong is not None
    assert np.flatnonzero(wrong).tolist() == [2]


def test_shares_of_all_zeros_are_right() -> None:
    points = np.arange(1, 6, dtype=np.uint64)
    wrong = shamir.find_wrong(points, np.zeros((5, 9), np.uint64), 3)
    assert wrong is not None
    assert not wrong.any()
