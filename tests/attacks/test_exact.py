"""All inputs from a sum of gradients: exact for a few records, and none, not wrong ones, where the attack fails."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import secfed
from secfed.attacks import ExactInputs, View, exact, exact_inputs
from secfed.attacks.networks import Activation, Linear, Network
from secfed.errors import ConfigError
from tests.examples import examples

DIGITS = load_digits()
INPUTS = 256


def pictures_of(records: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Digits of 16 x 16, each pixel four times, and their labels."""
    rows = random.choice(len(DIGITS.images), records, replace=False)
    pictures = np.kron(DIGITS.images[rows] / 16, np.ones((2, 2))) + 0.02 * random.uniform(size=(records, 16, 16))
    return pictures.reshape(records, INPUTS), DIGITS.target[rows]


def drawn(
    records: int, seed: int, units: int = 300, classes: int = 10
) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Pictures, and the gradient that each leaves in the first layer of an untrained network."""
    random = np.random.default_rng(seed)
    pictures, labels = pictures_of(records, random)
    network = Network.drawn([Linear(INPUTS, units), Activation("relu"), Linear(units, classes)], random)
    targets = np.eye(classes)[labels % classes]
    gradients = [network.gradients(pictures[i : i + 1], targets[i : i + 1])[0] for i in range(records)]
    return pictures, [{"weight": one["0.weight"], "bias": one["0.bias"]} for one in gradients]


def attacked(updates: list[dict[str, np.ndarray]], **options: Any) -> ExactInputs:
    return exact_inputs(sum(one["weight"] for one in updates), sum(one["bias"] for one in updates), **options)


def error(found: ExactInputs, pictures: np.ndarray) -> float:
    """The largest error of any value, of pictures matched one to one; infinity if they are not as many."""
    if len(found.inputs) != len(pictures):
        return float("inf")
    errors = np.abs(found.inputs[:, None] - pictures).max(axis=2)
    return float(errors.min(axis=0).max()) if len(set(errors.argmin(axis=1).tolist())) == len(pictures) else 1.0


def server_sum(updates: list[dict[str, np.ndarray]], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """What a server sees under secure aggregation."""
    clip = 1.1 * max(float(np.abs(array).max()) for one in updates for array in one.values())
    settings: dict[str, Any] = {"clip": clip, "bits": 32} if "privacy" not in options else {}
    session = secfed.SecAgg(threshold=1.0, max_weight=1, rounding_seed=0, **settings)
    mean = View.of_server(session.aggregate(updates, record=True, **options).transcript).mean
    return mean["weight"] * len(updates), mean["bias"] * len(updates)


@pytest.mark.parametrize("records", [1, 2, 5, 8, 10])
def test_every_input_of_a_few_clients_is_recovered_exactly(records: int) -> None:
    pictures, updates = drawn(records, records)
    found = attacked(updates)
    assert found.found and found.records == records == len(found.inputs) and found.residual < 1e-12
    assert error(found, pictures) < 1e-8


@pytest.mark.slow
def test_twelve_clients_are_recovered_with_most_of_twenty_seeds() -> None:
    """Never wrongly. Measured: 16 of 20; digits of 8 x 8 pixels are harder than MNIST's."""
    right = 0
    for seed in range(20):
        pictures, updates = drawn(12, seed, units=400)
        found = attacked(updates, attempts=1024)
        assert not found.found or error(found, pictures) < 1e-8, seed
        right += found.found
    assert right >= 14


@pytest.mark.parametrize("records", [3, 8])
def test_the_sum_of_secure_aggregation_gives_every_input(records: int) -> None:
    pictures, updates = drawn(records, 20 + records)
    found = exact_inputs(*server_sum(updates))
    assert error(found, pictures) < 1e-6
    assert 0 < found.residual < 1e-5  # the rounding


def test_coarse_rounding_costs_digits_and_not_the_recovery() -> None:
    pictures, updates = drawn(4, 31)
    weights, biases = sum(one["weight"] for one in updates), sum(one["bias"] for one in updates)
    step = float(np.abs(weights).max()) / 2**18
    found = exact_inputs(np.round(weights / step) * step, np.round(biases / step) * step)
    assert error(found, pictures) < 1e-2


@pytest.mark.parametrize(("records", "epochs"), [(4, 5), pytest.param(12, 3, marks=pytest.mark.slow)])
def test_a_change_by_several_local_steps_gives_every_record(records: int, epochs: int) -> None:
    random = np.random.default_rng(records)
    pictures, labels = pictures_of(records, random)
    layers = (Linear(INPUTS, 400), Activation("relu"), Linear(400, 10))
    network = Network.drawn(layers, random)
    before = network.parameters
    for _ in range(epochs):
        for batch in random.permutation(records).reshape(-1, 4):
            slopes = network.gradients(pictures[batch], np.eye(10)[labels[batch]])[0]
            network = Network(layers, {name: array - 0.05 * slopes[name] for name, array in network.parameters.items()})
    change = {name: network.parameters[name] - before[name] for name in ("0.weight", "0.bias")}
    for layer in ({}, {"weights": before["0.weight"], "biases": before["0.bias"]}):
        found = exact_inputs(change["0.weight"], change["0.bias"], **layer)
        assert found.records == records and error(found, pictures) < 1e-6


def test_weights_of_another_layer_agree_with_no_answer() -> None:
    _, updates = drawn(4, 33)
    random = np.random.default_rng(0)
    layer = {"weights": random.normal(size=(300, INPUTS)), "biases": random.normal(size=300)}
    found = attacked(updates, **layer)
    assert attacked(updates).found and not found.found and found.residual == 1


WRONG_PART = 0.7


def test_known_weights_repair_a_mixture_of_two_slopes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the mixture passes: it explains the sum as exactly as the truth."""
    random = np.random.default_rng(34)
    pictures, labels = pictures_of(4, random)
    network = Network.drawn([Linear(INPUTS, 300), Activation("relu"), Linear(300, 10)], random)
    sums = network.gradients(pictures, np.eye(10)[labels])[0]
    run = exact._Search.run

    def mixed(search: exact._Search, attempts: int) -> np.ndarray | None:
        slopes = run(search, attempts)
        assert slopes is not None
        slopes[:, 0] += WRONG_PART * slopes[:, 1]
        return slopes

    monkeypatch.setattr(exact._Search, "run", mixed)
    wrong = exact_inputs(sums["0.weight"], sums["0.bias"])
    assert wrong.found and error(wrong, pictures) > 0.1
    layer = {"weights": network.parameters["0.weight"], "biases": network.parameters["0.bias"]}
    assert error(exact_inputs(sums["0.weight"], sums["0.bias"], **layer), pictures) < 1e-8


@pytest.mark.slow
def test_known_weights_leave_no_wrong_answer_on_trained_networks() -> None:
    right = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        layers = (Linear(INPUTS, 300), Activation("relu"), Linear(300, 10))
        network = Network.drawn(layers, random)
        for _ in range(50):
            batch, labels = pictures_of(50, random)
            slopes = network.gradients(batch, np.eye(10)[labels])[0]
            network = Network(
                layers, {name: array - 0.1 / 50 * slopes[name] for name, array in network.parameters.items()}
            )
        pictures, labels = pictures_of(6, random)
        sums = network.gradients(pictures, np.eye(10)[labels])[0]
        layer = {"weights": network.parameters["0.weight"], "biases": network.parameters["0.bias"]}
        found = exact_inputs(sums["0.weight"], sums["0.bias"], **layer)
        assert not found.found or error(found, pictures) < 1e-6, seed
        right += found.found
    assert right == 12


def test_noise_of_the_clients_leaves_nothing() -> None:
    pictures, updates = drawn(5, 40)
    noise = secfed.DistributedGaussian(clip_norm=1.0, noise_multiplier=1.0, minimum_survivors=5)
    weights, biases = server_sum(updates, privacy=noise)
    for records in (None, 5):
        found = exact_inputs(weights, biases, records=records, attempts=64)
        assert not found.found and found.residual == 1
    assert error(attacked(updates), pictures) < 1e-8  # without it


@pytest.mark.parametrize("records", [None, 2, 5])
def test_noise_alone_gives_nothing(records: int | None) -> None:
    random = np.random.default_rng(0)
    found = exact_inputs(random.normal(size=(100, 24)), random.normal(size=100), records=records, attempts=64)
    assert not found.found and found.attempts <= 64


def test_a_head_of_two_outputs_has_several_explanations_and_gives_none() -> None:
    for seed in range(2):
        assert not attacked(drawn(5, seed, classes=2)[1], attempts=64).found


@pytest.mark.parametrize("records", [20, 40, 80])
def test_too_many_clients_give_nothing_within_bounded_work(records: int) -> None:
    found = attacked(drawn(records, 50, units=120)[1], attempts=64)
    assert not found.found and found.attempts <= 64 and found.inputs.shape == (0, INPUTS)


def test_a_wrong_number_of_records_gives_nothing() -> None:
    _, updates = drawn(4, 60)
    for records in (3, 5, 1000):
        assert not attacked(updates, records=records, attempts=64).found


@examples(3, 20, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6), st.booleans())
def test_the_order_of_units_and_inputs_and_the_scale_do_not_matter(
    records: int, seed: int, scale: float, negative: bool
) -> None:
    pictures, updates = drawn(records, records)
    random = np.random.default_rng(seed)
    units, inputs = random.permutation(300), random.permutation(INPUTS)
    factor = -scale if negative else scale
    weights, biases = sum(one["weight"] for one in updates), sum(one["bias"] for one in updates)
    found = exact_inputs(factor * weights[units][:, inputs], factor * biases[units])
    assert error(found, pictures[:, inputs]) < 1e-8


def test_the_same_seed_gives_the_same_result() -> None:
    _, updates = drawn(5, 70)
    first, second = attacked(updates, seed=3), attacked(updates, seed=3)
    assert np.array_equal(first.inputs, second.inputs) and first.attempts == second.attempts


@pytest.mark.parametrize(
    ("weights", "biases", "options", "text"),
    [
        (np.ones(3), np.ones(3), {}, "shapes"),
        (np.ones((3, 2)), np.ones(2), {}, "shapes"),
        (np.zeros((0, 2)), np.ones(0), {}, "needed at least one output"),
        (np.full((3, 2), np.nan), np.ones(3), {}, "not finite"),
        (np.ones((3, 2)), np.array([1, np.inf, 1]), {}, "not finite"),
        (np.zeros((3, 2)), np.zeros(3), {}, "zero everywhere"),
        (np.ones((3, 2)), np.ones(3), {"records": 0}, "0 records"),
        (np.ones((3, 2)), np.ones(3), {"attempts": 0}, "0 attempts"),
        (np.ones((3, 2)), np.ones(3), {"noise": float("nan")}, "noise nan"),
        (np.ones((3, 2)), np.ones(3), {"weights": np.ones((3, 2))}, "only one of"),
        (np.ones((3, 2)), np.ones(3), {"biases": np.ones(3)}, "only one of"),
        (
            np.ones((3, 2)),
            np.ones(3),
            {"weights": np.ones((2, 3)), "biases": np.ones(2)},
            "2 outputs and 3 inputs, needed",
        ),
        (np.ones((3, 2)), np.ones(3), {"weights": np.ones((3, 2)), "biases": np.full(3, np.inf)}, "not finite"),
    ],
)
def test_what_is_no_gradient_is_refused(weights: Any, biases: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        exact_inputs(weights, biases, **options)
