"""Two sums that differ by one client tell its update, whatever hid the sums' parts; noise ends it."""

from typing import Any

import numpy as np
import pytest

import secfed
from secfed.attacks import View, difference
from secfed.errors import ConfigError
from tests.paillier.keys import keypair


def mean(aggregator: Any, updates: dict[int, Any], weights: dict[int, int], **options: Any) -> tuple[Any, float]:
    result = aggregator.aggregate(updates, weights, record=True, **options)
    return View.of_server(result.transcript).mean, result.weight


@pytest.mark.parametrize(
    "aggregator",
    [
        secfed.Plain(),
        secfed.SecAgg(threshold=1.0, max_weight=32),
        secfed.Paillier(private_key=keypair()[1], noise="short", max_weight=32),
    ],
    ids=["plain", "secagg", "paillier"],
)
def test_the_client_that_left_is_told_by_two_sums(aggregator: Any) -> None:
    random = np.random.default_rng(2)
    updates = {i: {"w": random.normal(size=(4, 3)), "b": random.normal(size=3)} for i in range(1, 7)}
    weights = {i: i for i in updates}
    others = {i: update for i, update in updates.items() if i != 4}
    found = difference(*mean(aggregator, updates, weights), *mean(aggregator, others, {i: i for i in others}, round=1))
    for name, array in updates[4].items():
        assert np.abs(found[name] - array).max() < 0.05


def test_the_clients_noise_ends_it() -> None:
    random = np.random.default_rng(3)
    updates = {i: {"w": random.normal(size=200) / 20} for i in range(1, 7)}
    others = {i: update for i, update in updates.items() if i != 4}
    secagg = secfed.SecAgg(threshold=1.0)
    first, _ = mean(secagg, updates, dict.fromkeys(updates, 1), privacy=noise(6))
    second, _ = mean(secagg, others, dict.fromkeys(others, 1), privacy=noise(5))
    found = difference(first, 6, second, 5)["w"]
    assert abs(np.corrcoef(found, updates[4]["w"])[0, 1]) < 0.35  # 5 standard deviations of chance


def noise(clients: int) -> secfed.DistributedGaussian:
    return secfed.DistributedGaussian(1.0, 4.0, minimum_survivors=clients)


@pytest.mark.parametrize(
    ("without", "weights", "text"),
    [
        ({"w": np.ones(2)}, (3, 3), "needed the first larger"),
        ({"w": np.ones(2)}, (3, 0), "needed the first larger"),
        ({"v": np.ones(2)}, (3, 2), "different arrays"),
        ({"w": np.ones(3)}, (3, 2), "needed the same"),
    ],
)
def test_means_that_do_not_fit_are_refused(without: dict[str, Any], weights: tuple[int, int], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        difference({"w": np.ones(2)}, weights[0], without, weights[1])
