"""The two halves of one transform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.aggregation import WeightedMean
from secfed.errors import ConfigError, EncodingError
from tests.examples import examples

EXAMPLE = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2)}


def transform(**settings: int) -> WeightedMean:
    return WeightedMean.of(EXAMPLE, clip=4.0, **{"clients": 3, "max_weight": 10, "bits": 16} | settings)


def test_length_is_one_more_than_the_values() -> None:
    assert transform().length == 9
    assert transform().modulus_bits == (3 * 10 * 32767).bit_length() + 1
    assert transform().context == transform().fixed_point.context(8)


@examples(17, 50)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=3), st.integers(0, 2**32))
def test_decoding_the_sum_of_encoded_updates_gives_their_weighted_mean(weights: list[int], number: int) -> None:
    generator = np.random.default_rng(number)
    ours = transform()
    updates = [{"b": generator.uniform(-4, 4, 2), "w": generator.uniform(-4, 4, (2, 3)).astype("f4")} for _ in weights]
    vectors = [ours.encode(update, weight) for update, weight in zip(updates, weights, strict=True)]
    assert all(vector.shape == (ours.length,) for vector in vectors)
    total = np.sum(vectors, axis=0, dtype=np.uint64) % np.uint64(1 << ours.modulus_bits)
    decoded = ours.decode(total, range(1, len(weights) + 1))
    mean = decoded.mean
    assert decoded.weight == sum(weights)
    assert decoded.event is None
    assert list(mean) == ["w", "b"]
    for name in EXAMPLE:
        assert mean[name].dtype == EXAMPLE[name].dtype
        exact = np.average([update[name] for update in updates], axis=0, weights=weights)
        assert np.abs(mean[name] - exact).max() <= 4 / 32767 + 1e-6


def test_rounding_is_fresh_for_every_update_and_repeatable_with_a_seed() -> None:
    update = {"w": np.full((2, 3), 0.1, np.float32), "b": np.full(2, 0.3)}
    big = WeightedMean.of(np.zeros(1000), clip=4.0, clients=2)
    assert big.encode(np.full(1000, 0.1), 1).tolist() != big.encode(np.full(1000, 0.1), 1).tolist()
    first, second = (transform().encode(update, 2, seed=bytes(32)) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_update_that_does_not_fit_is_refused() -> None:
    with pytest.raises(EncodingError, match="w has shape"):
        transform().encode({"w": np.zeros((3, 2), np.float32), "b": np.zeros(2)}, 1)
    with pytest.raises(EncodingError, match=r"^b holds a value that is not finite, at index \[1\]$"):
        transform().encode({"w": np.zeros((2, 3), np.float32), "b": np.array([0, np.inf])}, 1)
    with pytest.raises(EncodingError, match="the weight must be from 1 to max_weight 10"):
        transform().encode(EXAMPLE, 11)


def test_example_or_parameters_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EncodingError, match="holds no array"):
        WeightedMean.of([], clip=1.0, clients=2)
    with pytest.raises(ConfigError, match="clients 0"):
        transform(clients=0)
    with pytest.raises(ConfigError, match="64 are the most"):
        transform(max_weight=2**50)


def test_bits_are_chosen_where_none_are_given() -> None:
    assert WeightedMean.of(EXAMPLE, clip=4.0, clients=3).fixed_point.bits == 16
    tight = WeightedMean.of(EXAMPLE, clip=4.0, clients=100, max_weight=1000).fixed_point
    assert (tight.bits, tight.modulus_bits) == (15, 32)
