"""Weak masks fall with every entry exact, strong ones give nothing away, and noise passes as seldom as promised."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from secfed.attacks import Like, reused_mask, weak_seed, without_self_mask
from secfed.errors import ConfigError

LENGTH = 64
WIDTHS = [(20, np.uint32), (32, np.uint32), (32, np.uint64), (63, np.uint64), (64, np.uint64)]


def update(random: np.random.Generator, size: int = LENGTH) -> npt.NDArray[np.int64]:
    return np.rint(random.normal(0, 1000, size)).astype(np.int64)


def in_ring(values: npt.NDArray[np.int64], bits: int, dtype: Any) -> npt.NDArray[Any]:
    return (values.astype(np.uint64) & np.uint64((1 << bits) - 1)).astype(dtype)


def uniform(random: np.random.Generator, bits: int, dtype: Any, shape: Any = LENGTH) -> npt.NDArray[Any]:
    return in_ring(random.integers(1 << 64, size=shape, dtype=np.uint64), bits, dtype)


def mixed(seeds: npt.NDArray[np.uint64], entries: int) -> npt.NDArray[np.uint64]:
    """Expand seeds by SplitMix64, which is no cipher but as uniform as one."""
    state = (seeds[:, None] << np.uint64(24)) + np.arange(1, entries + 1, dtype=np.uint64)
    state = state * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return state ^ (state >> np.uint64(31))


@pytest.mark.parametrize(("bits", "dtype"), WIDTHS)
def test_two_vectors_under_one_mask_give_the_exact_difference(bits: int, dtype: Any) -> None:
    random = np.random.default_rng(0)
    one, other, mask = update(random), update(random), uniform(random, bits, dtype)
    ring = dtype((1 << bits) - 1)
    found = reused_mask((in_ring(one, bits, dtype) + mask) & ring, (in_ring(other, bits, dtype) + mask) & ring, bits)
    assert found.found and found.false_alarm < 1e-50
    assert (found.values == one - other).all()


@pytest.mark.parametrize(("bits", "dtype"), WIDTHS)
def test_two_vectors_under_two_masks_give_nothing(bits: int, dtype: Any) -> None:
    random = np.random.default_rng(1)
    found = [reused_mask(uniform(random, bits, dtype), uniform(random, bits, dtype), bits) for _ in range(200)]
    assert not any(each.found for each in found)
    assert 0.001 < min(each.false_alarm for each in found) < 0.05  # the probabilities are as promised


def test_one_large_entry_does_not_hide_a_reused_mask() -> None:
    random = np.random.default_rng(2)
    values, mask = update(random), uniform(random, 32, np.uint32)
    values[7] = 1 << 30
    found = reused_mask(in_ring(values, 32, np.uint32) + mask, mask, 32)
    assert found.found and (found.values == values).all()


def test_pair_masks_that_are_opened_leave_the_update_without_a_self_mask() -> None:
    random = np.random.default_rng(3)
    values, masks = update(random), uniform(random, 32, np.uint32, (5, LENGTH))
    masked = in_ring(values, 32, np.uint32) + masks[0] + masks[1] - masks[2]
    before = masked.copy()
    found = without_self_mask(masked, masks[:2], masks[2:3], 32)
    assert found.found and (found.values == values).all()
    assert (masked == before).all()  # the caller's vector is left alone
    hidden = without_self_mask(masked + masks[4], masks[:2], masks[2:3], 32)
    assert not hidden.found and not (hidden.values == values).any()


@pytest.mark.parametrize(("bits", "dtype"), WIDTHS)
@pytest.mark.parametrize("seed", [0, 7_777, (1 << 14) - 1])
def test_a_seed_of_few_bits_is_found_wherever_it_is(bits: int, dtype: Any, seed: int) -> None:
    values = update(np.random.default_rng(seed))
    values[-1] = 1

    def expand(seeds: npt.NDArray[np.uint64], entries: int) -> npt.NDArray[Any]:
        return mixed(seeds, entries).astype(dtype)  # the bits above the ring stay: the search drops them

    masked = in_ring(values + mixed(np.array([seed], np.uint64), LENGTH)[0].astype(np.int64), bits, dtype)
    found = weak_seed(masked, expand, 14, Like(bits, 6, {LENGTH - 1: 1}))
    assert found.found and found.values is not None and (found.values == values).all()
    assert found.tries == seed + 1 and found.luck < 1e-20


def test_no_seed_fits_a_mask_of_another_kind() -> None:
    random = np.random.default_rng(4)
    masked = in_ring(update(random), 32, np.uint32) + uniform(random, 32, np.uint32)
    found = weak_seed(masked, lambda seeds, entries: mixed(seeds, entries).astype(np.uint32), 18, Like(32, 8))
    assert (found.found, found.values, found.tries) == (False, None, 1 << 18)


def test_a_search_that_noise_might_pass_is_refused() -> None:
    """Four entries of which 13 bits are equal show 48 bits: 2^18 tries pass on noise with a probability of 2^-30."""
    vector = np.zeros(4, np.uint32)
    found = weak_seed(vector, lambda seeds, entries: mixed(seeds, entries).astype(np.uint32), 18, Like(32, 13))
    assert found.luck == 2.0**-30 and not found.found
    with pytest.raises(ConfigError, match=r"4 entries show 44 bits.*6e-08.*needed 50 bits"):
        weak_seed(vector, lambda seeds, entries: mixed(seeds, entries).astype(np.uint32), 20, Like(32, 12))


def test_a_value_of_a_known_entry_must_fit() -> None:
    values = update(np.random.default_rng(5))
    masked = in_ring(values + mixed(np.array([9], np.uint64), LENGTH)[0].astype(np.int64), 32, np.uint32)
    results = [
        weak_seed(
            masked,
            lambda seeds, entries: mixed(seeds, entries).astype(np.uint32),
            8,
            Like(32, 8, {3: int(values[3]) + error}),
        ).found
        for error in (0, 1)
    ]
    assert results == [True, False]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda v: reused_mask(v, v[1:], 32), "64 and 63 entries"),
        (lambda v: reused_mask(v, v, 65), "ring_bits is 65: needed 2 to 64"),
        (lambda v: reused_mask(v, v.astype(np.int64), 32), "the second vector is int64"),
        (lambda v: reused_mask(v, v, 8), "entries up to .*: needed those of a ring of 8 bits"),
        (lambda v: reused_mask(v, v, 40), "uint32 entries"),
        (lambda v: reused_mask(v[:0], v[:0], 32), "shape \\(0,\\)"),
        (lambda v: without_self_mask(v, [v], [v, v[1:]], 32), "mask 1 of those subtracted has 63 entries: needed 64"),
        (lambda v: weak_seed(v, mixed, 0, Like(32, 8)), "seeds of 0 bits: needed 1 to 40"),
        (lambda v: weak_seed(v, mixed, 41, Like(32, 8)), "seeds of 41 bits: needed 1 to 40"),
        (lambda v: weak_seed(v, mixed, 8, Like(32, 8)), "expand made uint64.*: needed uint32"),
        (lambda v: weak_seed(v, mixed, 8, Like(32, 8, {64: 1})), "entry 64 is known, but .* 64 entries"),
        (lambda v: Like(1, 2), "ring_bits is 1: needed 2 to 64"),
        (lambda v: Like(32, 1), "equal_bits is 1: needed 2 to ring_bits, 32"),
        (lambda v: Like(32, 33), "equal_bits is 33"),
    ],
)
def test_input_that_does_not_fit_is_refused_with_what_was_needed(call: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        call(uniform(np.random.default_rng(6), 32, np.uint32))
