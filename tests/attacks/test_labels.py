"""Labels from the last layer's biases: exact for one record, counts for a sum, chance on noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.attacks import label, label_counts
from secfed.errors import ConfigError

CLASSES = 10


def predictions(random: np.random.Generator, count: int) -> np.ndarray:
    logits = random.normal(size=(count, CLASSES))
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True)


@given(st.integers(0, CLASSES - 1), st.integers(0, 2**32 - 1))
def test_the_label_of_one_record_is_always_told(true: int, seed: int) -> None:
    gradient = predictions(np.random.default_rng(seed), 1)[0] - np.eye(CLASSES)[true]
    assert label(gradient) == true
    assert label(1e-6 * gradient) == true


@given(st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=60), st.floats(1e-3, 1e3))
def test_counts_of_a_mean_are_told_exactly_when_records_of_a_label_are_alike(labels: list[int], scale: float) -> None:
    by_label = scale * (np.full((CLASSES, CLASSES), 0.1) - np.eye(CLASSES))
    counts = np.bincount(labels, minlength=CLASSES)
    assert label_counts(counts @ by_label / len(labels), by_label, len(labels)).tolist() == counts.tolist()


def test_counts_of_a_mean_are_told_nearly_when_predictions_differ() -> None:
    random = np.random.default_rng(5)
    wrong = 0
    for _ in range(50):
        labels = random.integers(CLASSES, size=40)
        mean = (predictions(random, 40) - np.eye(CLASSES)[labels]).mean(axis=0)
        known = predictions(random, 2000).mean(axis=0) - np.eye(CLASSES)
        counts = label_counts(mean, known, 40)
        assert counts.sum() == 40
        wrong += np.abs(counts - np.bincount(labels, minlength=CLASSES)).sum() / 2
    assert wrong / 50 < 0.15 * 40  # an even spread is wrong about 0.19 * 40 times


def test_counts_from_noise_are_no_better_than_chance() -> None:
    random = np.random.default_rng(6)
    by_label = np.full((CLASSES, CLASSES), 0.1) - np.eye(CLASSES)
    found, even = [], []
    for _ in range(300):
        true = np.bincount(random.integers(CLASSES, size=8), minlength=CLASSES)
        found.append(np.minimum(true, label_counts(random.normal(size=CLASSES), by_label, 8)).sum())
        even.append(np.minimum(true, [1] * 8 + [0] * 2).sum())
    assert np.mean(found) <= np.mean(even)  # a spread without any information


@pytest.mark.parametrize(
    ("change", "by_label", "records", "text"),
    [
        (np.ones(1), np.ones((1, 1)), 3, "at least two classes"),
        (np.ones((2, 2)), np.ones((2, 2)), 3, "at least two classes"),
        (np.array([1.0, np.nan]), np.ones((2, 2)), 3, "not finite"),
        (np.ones(3), np.ones((3, 2)), 3, "needed finite values of 3 classes"),
        (np.ones(2), np.full((2, 2), np.inf), 3, "needed finite values of 2 classes"),
        (np.ones(2), np.ones((2, 2)), 0, "0 records"),
    ],
)
def test_what_does_not_fit_is_refused(change: np.ndarray, by_label: np.ndarray, records: int, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        label_counts(change, by_label, records)


def test_no_evidence_at_all_is_spread_evenly() -> None:
    assert label_counts(np.zeros(4), -np.eye(4), 8).tolist() == [2, 2, 2, 2]
