"""Shadow models: all at once are each alone, and each is what plain gradient descent gives."""

from typing import Any

import numpy as np
import pytest

from secfed.attacks import draw_membership, train_shadows
from secfed.attacks.shadow_models import logits, losses, record_gradients
from secfed.cli.simulation import perceptron
from secfed.errors import ConfigError

RECORDS, FEATURES, CLASSES = 60, 7, 3


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=(RECORDS, FEATURES)), random.integers(CLASSES, size=RECORDS)


def farthest(one: Any, other: Any) -> float:
    assert set(one) == set(other) == {"hidden_weight", "hidden_bias", "output_weight", "output_bias"}
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.mark.parametrize("batch", [8, 1000, None])
def test_models_trained_at_once_are_those_trained_alone(batch: int | None) -> None:
    """Among others with more records a model waits; alone it does not, and ends the same but for rounding."""
    inputs, labels = data()
    membership = np.random.default_rng(1).random((5, RECORDS)) < np.linspace(0.2, 0.9, 5)[:, None]
    options: dict[str, Any] = {"classes": CLASSES, "hidden": 9, "epochs": 6, "batch": batch, "seed": 3}
    every = train_shadows(inputs, labels, membership, **options)
    for number in range(5):
        alone = train_shadows(
            inputs, labels, membership[number : number + 1], numbers=range(number, number + 1), **options
        )
        assert farthest({name: array[number] for name, array in every.items()}, {k: v[0] for k, v in alone.items()}) < (
            1e-10
        )


def test_whole_batches_are_the_gradient_descent_of_the_command_line() -> None:
    inputs, labels = data()
    membership = draw_membership(4, RECORDS, seed=0)
    start = perceptron.init(2, FEATURES, hidden=6, classes=CLASSES)
    found = train_shadows(
        inputs, labels, membership, classes=CLASSES, epochs=12, batch=None, learning_rate=0.3, start=start
    )
    for number, inside in enumerate(membership):
        model = {name: array.copy() for name, array in start.items()}
        for _ in range(12):
            _, slope = perceptron.gradient(model, inputs[inside], labels[inside])
            for name in model:
                model[name] -= 0.3 * slope[name]
        assert farthest({name: array[number] for name, array in found.items()}, model) < 1e-10
        loss = perceptron.gradient(model, inputs, labels)[0]
        assert losses(logits(found, inputs), labels)[number].mean() == pytest.approx(loss)


def test_gradients_of_records_average_to_that_of_the_batch() -> None:
    inputs, labels = data()
    model = perceptron.init(4, FEATURES, hidden=5, classes=CLASSES)
    found = record_gradients(model, inputs, labels)
    assert {len(array) for array in found.values()} == {RECORDS}
    mean = {name: array.mean(axis=0) for name, array in found.items()}
    assert farthest(mean, perceptron.gradient(model, inputs, labels)[1]) < 1e-12


def test_training_goes_on_from_models_of_their_own_and_leaves_them_as_they_are() -> None:
    inputs, labels = data()
    membership = draw_membership(3, RECORDS, seed=0)
    options: dict[str, Any] = {"classes": CLASSES, "hidden": 4, "batch": None}
    first = train_shadows(inputs, labels, membership, epochs=2, **options)
    before = {name: array.copy() for name, array in first.items()}
    second = train_shadows(inputs, labels, membership, epochs=3, start=first, **options)
    assert farthest(second, train_shadows(inputs, labels, membership, epochs=5, **options)) < 1e-12
    assert farthest(first, before) == 0


def test_the_same_seed_gives_the_same_models_and_another_one_others() -> None:
    inputs, labels = data()
    membership = draw_membership(3, RECORDS, seed=5)
    assert (membership == draw_membership(3, RECORDS, seed=5)).all()
    assert (membership != draw_membership(3, RECORDS, seed=6)).any()
    once, again, other = (
        train_shadows(inputs, labels, membership, classes=CLASSES, epochs=2, seed=seed) for seed in (1, 1, 2)
    )
    assert farthest(once, again) == 0 < farthest(once, other)


@pytest.mark.parametrize("models", [2, 7, 16])
def test_every_record_is_in_half_of_the_models(models: int) -> None:
    assert (draw_membership(models, 50, seed=0).sum(axis=0) == models // 2).all()


def test_what_does_not_fit_is_refused() -> None:
    inputs, labels = data()
    membership = draw_membership(2, RECORDS, seed=0)
    start = perceptron.init(0, FEATURES, hidden=4, classes=CLASSES)

    def refused(text: str, **changes: Any) -> None:
        given: dict[str, Any] = {"inputs": inputs, "labels": labels, "membership": membership, "classes": CLASSES}
        given |= changes
        with pytest.raises(ConfigError, match=text):
            train_shadows(given.pop("inputs"), given.pop("labels"), given.pop("membership"), **given)

    refused("needed \\(records, features\\)", inputs=inputs[0])
    refused("needed \\(records, features\\)", labels=labels[1:])
    refused("inputs is not finite", inputs=np.full_like(inputs, np.nan))
    refused("whole numbers from 0 to 1", classes=2)
    refused("at least two classes", classes=1, labels=np.zeros(RECORDS, int))
    refused("whole numbers", labels=labels.astype(float))
    refused("membership has shape", membership=membership[:, 1:])
    refused("membership has shape", membership=membership.astype(int))
    refused("membership has shape", membership=membership[:0])
    refused("model 1 has no record", membership=np.stack((membership[0], np.zeros(RECORDS, bool))))
    for name, value in [("epochs", -1), ("batch", 0), ("hidden", 0), ("learning_rate", 0.0), ("learning_rate", np.nan)]:
        refused("epochs -?[0-9]", **{name: value})
    refused("found 3 numbers", numbers=range(3))
    refused("missing or unknown", start=start | {"more": np.zeros(2)})
    refused("missing or unknown", start={})
    refused("hidden_bias has shape", start={"hidden_bias": 1.0})
    refused("array hidden_weight has shape", start=start, inputs=inputs[:, 1:])
    refused("array hidden_weight has shape", start={name: np.stack([array] * 3) for name, array in start.items()})


def test_readings_of_models_that_do_not_fit_are_refused() -> None:
    inputs, labels = data()
    model = perceptron.init(0, FEATURES, hidden=4, classes=CLASSES)
    with pytest.raises(ConfigError, match="the model lacks \\['output_bias'\\]"):
        logits({name: array for name, array in model.items() if name != "output_bias"}, inputs)
    with pytest.raises(ConfigError, match="do not fit each other"):
        logits(model, inputs[:, 1:])
    with pytest.raises(ConfigError, match="one label for each record"):
        losses(logits(model, inputs), labels[1:])
    with pytest.raises(ConfigError, match="labels must be whole numbers"):
        record_gradients({}, inputs, labels)
    for models, records in ((1, 5), (2, 0)):
        with pytest.raises(ConfigError, match="needed at least 2 models and 1 record"):
            draw_membership(models, records, seed=0)
