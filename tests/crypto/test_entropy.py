"""Randomness by label: seeds are for tests only, and what they give depends on the label alone."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.crypto.entropy import SeededEntropy, SystemEntropy, predictable_secrets
from secfed.errors import ConfigError

SEED = bytes(range(32))


def is_refused() -> bool:
    try:
        SeededEntropy(SEED)
    except ConfigError:
        return True
    return False


def test_seed_is_refused_where_nobody_asked_for_predictable_secrets() -> None:
    with pytest.raises(ConfigError, match="makes secrets predictable"):
        SeededEntropy(SEED)


def test_refusal_does_not_show_the_seed() -> None:
    with pytest.raises(ConfigError) as caught:
        SeededEntropy(b"0123456789abcdef0123456789abcdef")
    assert "0123456789" not in str(caught.value)


def test_seed_is_refused_again_after_the_block_even_if_it_ends_in_an_error() -> None:
    with predictable_secrets():
        assert not is_refused()
    assert is_refused()
    with pytest.raises(RuntimeError), predictable_secrets():
        raise RuntimeError
    assert is_refused()


def test_inner_block_does_not_end_the_outer_one() -> None:
    with predictable_secrets():
        with predictable_secrets():
            assert not is_refused()
        assert not is_refused()
    assert is_refused()


def test_nothing_can_be_drawn_from_a_seed_that_left_its_block() -> None:
    with predictable_secrets():
        smuggled = SeededEntropy(SEED)
        assert len(smuggled.draw("label", 32)) == 32
    with pytest.raises(ConfigError, match="makes secrets predictable"):
        smuggled.draw("label", 32)


def test_block_of_one_thread_does_not_open_another_thread() -> None:
    refused = []
    with predictable_secrets():
        thread = threading.Thread(target=lambda: refused.append(is_refused()))
        thread.start()
        thread.join()
    assert refused == [True]


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_seed_of_another_length_is_refused(size: int) -> None:
    with predictable_secrets(), pytest.raises(ConfigError, match=f"{size} bytes, needs 32"):
        SeededEntropy(bytes(size))


@given(st.lists(st.tuples(st.text(max_size=10), st.integers(0, 100)), max_size=8))
def test_draws_depend_on_the_label_and_not_on_the_order(draws: list[tuple[str, int]]) -> None:
    with predictable_secrets():
        forwards, backwards = SeededEntropy(SEED), SeededEntropy(SEED)
        first = [forwards.draw(label, size) for label, size in draws]
        second = [backwards.draw(label, size) for label, size in reversed(draws)]
    assert first == second[::-1]
    assert [len(drawn) for drawn in first] == [size for _, size in draws]


def test_labels_and_seeds_give_unrelated_bytes() -> None:
    labels = ("", "a", "b", "ab", "mask_key", "self_seed", "mask_key ")
    with predictable_secrets():
        drawn = {SeededEntropy(seed).draw(label, 32) for label in labels for seed in (SEED, bytes(32))}
    assert len(drawn) == 2 * len(labels)


def test_system_entropy_never_repeats_itself() -> None:
    entropy = SystemEntropy()
    drawn = [entropy.draw("same label", 32) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert [len(entropy.draw("", size)) for size in (0, 1, 1000)] == [0, 1, 1000]
