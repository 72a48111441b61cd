"""Tree aggregation: its sensitivity is that of the matrix of all nodes, over all choices of steps."""

import math
from itertools import combinations

import numpy as np
import pytest

from secfed import dp
from secfed.dp import events
from secfed.dp.events import ADJACENCIES
from secfed.errors import ConfigError


def nodes(steps: int) -> np.ndarray:
    """The matrix that takes contributions of steps to sums of complete nodes."""
    rows = []
    for level in range(64):
        for first in range(0, steps, 2**level):
            if first + 2**level <= steps:
                rows.append([float(first <= step < first + 2**level) for step in range(steps)])
    return np.array(rows)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 8, 11, 12])
def test_all_choices_of_steps_are_at_most_as_far_as_the_worst_one(steps: int) -> None:
    matrix = nodes(steps)
    for times in range(1, steps + 1):
        worst = max(
            float((matrix[:, list(chosen)].sum(axis=1) ** 2).sum()) for chosen in combinations(range(steps), times)
        )
        assert dp.TreeAggregation(3.0, steps, times).joint_noise() == pytest.approx(3.0 / math.sqrt(worst), rel=1e-14)


def test_one_participation_costs_one_release_for_each_level() -> None:
    for adjacency in ADJACENCIES:
        for steps in (1, 2, 3, 4, 1023, 1024, 1025):
            tree = dp.Accountant(adjacency).compose(dp.TreeAggregation(5.0, steps), 2)
            # dp-accounting 0.6.0 takes as many levels: ceil(log2(steps + 1)).
            path = dp.Accountant(adjacency).compose(dp.Gaussian(5.0), 2 * math.ceil(math.log2(steps + 1)))
            assert tree.epsilon(1e-6) == pytest.approx(path.epsilon(1e-6), rel=1e-12)
            assert tree.renyi(4.0) == pytest.approx(path.renyi(4.0), rel=1e-12)
            assert tree.mu() == pytest.approx(path.mu(), rel=1e-12)


def test_trees_are_composed_with_other_releases() -> None:
    tree = dp.TreeAggregation(5.0, 100, 3)
    both = dp.Accountant().compose(tree).compose(dp.PoissonSampled(0.1, dp.Gaussian(1.0)), 10)
    same = dp.Accountant().compose(dp.Gaussian(tree.joint_noise()))
    same.compose(dp.PoissonSampled(0.1, dp.Gaussian(1.0)), 10)
    assert both.epsilon(1e-6) == same.epsilon(1e-6)
    assert both.curve(1e-6)[0] == pytest.approx(dp.Accountant().compose(tree).epsilon(1e-6), rel=1e-9)
    assert dp.Accountant().remaining_rounds(tree, epsilon=50.0, delta=1e-6) > 1


def test_json_and_words() -> None:
    event = dp.TreeAggregation(5.0, 100, 3)
    assert events.from_json(events.to_json(event)) == event
    words = dp.Accountant().compose(event).assumptions()
    assert "each node of a binary tree over 100 steps; each client takes part in at most 3 steps, fixed" in words
    assert "at most 1 step, fixed" in dp.Accountant().compose(dp.TreeAggregation(5.0, 100)).assumptions()


BAD = {
    "noise": (0.0, 10),
    "steps": (1.0, 0),
    "half": (1.0, 1.5),
    "times": (1.0, 10, 0),
    "too many": (1.0, 10, 11),
    "huge": (1.0, 2**54),
    "all": (1e-6, 4, 4),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="must be"):
        dp.TreeAggregation(*BAD[name])  # type: ignore[arg-type]


def test_a_tree_cannot_be_sampled() -> None:
    with pytest.raises(ConfigError, match="needs one release"):
        dp.PoissonSampled(0.1, dp.TreeAggregation(1.0, 10))  # type: ignore[arg-type]
