"""Shadow models: many small networks, trained at once, each on its own records.

An adversary trains models with a record and without it, to learn how the two differ. The models differ only in their
records and the order of these, so the same matrix products train all of them, over arrays with a leading axis of
models: one call per step for all.

The network is a perceptron with one hidden layer of ReLUs and a softmax, with arrays `hidden_weight`, `hidden_bias`,
`output_weight` and `output_bias`. Training is gradient descent on small batches.

Threat model: the adversary knows the network's shape and roughly how it was trained, and has records of the same
distribution as the target's, including the candidates. It needs no contact with the federation.

What defeats it: see `attacks.membership`. Shadow models trained differently from the target make the attack weaker,
not wrong.

Source: Shokri, Stronati, Song, Shmatikov, *Membership Inference Attacks Against Machine Learning Models*, IEEE S&P
2017.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from secfed.attacks.networks import checked_arrays, softmax
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]
Model = dict[str, Array]

_NAMES = ("hidden_weight", "hidden_bias", "output_weight", "output_bias")
# What is drawn with one model's seed.
_WEIGHTS, _ORDER, _MEMBERS = 1, 2, 3


def draw_membership(models: int, records: int, seed: int) -> Bools:
    """Draw which shadow model is trained on which record: each record is in half of the models.

    Args:
        models: Number of shadow models, at least 2.
        records: Number of records.
        seed: Seed of the draw.

    Returns:
        Shape `(models, records)`; with an odd number of models each record is in the smaller half.

    Raises:
        ConfigError: Fewer than two models, or no record.
    """
    if models < 2 or records < 1:
        raise ConfigError(f"{models} models and {records} records: needed at least 2 models and 1 record")
    ranks = np.random.default_rng([seed, _MEMBERS]).random((models, records)).argsort(axis=0)
    found: Bools = ranks < models // 2
    return found


def train_shadows(
    inputs: npt.ArrayLike,
    labels: npt.ArrayLike,
    membership: npt.ArrayLike,
    *,
    classes: int,
    hidden: int = 32,
    epochs: int = 50,
    batch: int | None = 10,
    learning_rate: float = 0.2,
    start: Mapping[str, npt.ArrayLike] | None = None,
    seed: int = 0,
    numbers: range | None = None,
) -> Model:
    """Train all shadow models at once, each on its own records.

    Args:
        inputs: Records, shape `(records, features)`.
        labels: Their classes, shape `(records,)`.
        membership: Which model is trained on which record, shape `(models, records)`.
        classes: Number of classes.
        hidden: Units of the hidden layer; `start` overrides it.
        epochs: Passes over a model's records.
        batch: Records per step; None takes all records of a model.
        learning_rate: Length of a step.
        start: Initial model: one for all, such as the first one that a federation publishes, or arrays with a leading
            axis of models. None: each model draws its own.
        seed: Seed of the models' weights and orders; not a secret.
        numbers: Each model's number, which with the seed determines all its random choices; None numbers them from 0.
            A model trained alone equals the one with the same number trained among others, up to rounding.

    Returns:
        The models, as arrays with a leading axis of models.

    Raises:
        ConfigError: The shapes do not fit, a value is not finite, a model has no record, or a parameter is out of
            range.
    """
    rows, targets = _checked(inputs, labels, classes)
    inside = np.asarray(membership)
    if inside.ndim != 2 or inside.shape[1] != len(rows) or inside.dtype != np.bool_ or not len(inside):
        raise ConfigError(
            f"membership has shape {inside.shape} of {inside.dtype}, needed (models, {len(rows)}) of bool"
        )
    if not inside.any(axis=1).all():
        raise ConfigError(f"model {int(np.argmin(inside.any(axis=1)))} has no record to be trained on")
    if epochs < 0 or (batch is not None and batch < 1) or hidden < 1 or not 0 < learning_rate < np.inf:
        raise ConfigError(
            f"epochs {epochs}, batch {batch}, hidden {hidden}, learning_rate {learning_rate}: needed at least 0, 1, 1, "
            "and a positive number"
        )
    numbers = range(len(inside)) if numbers is None else numbers
    if len(numbers) != len(inside):
        raise ConfigError(f"found {len(numbers)} numbers, needed one for each of {len(inside)} models")
    if start is None:
        drawn = [_drawn(seed, number, rows.shape[1], hidden, classes) for number in numbers]
        models = {name: np.stack([one[name] for one in drawn]) for name in _NAMES}
    else:
        models = _copies(start, len(inside), rows.shape[1], classes)
    most = int(inside.sum(axis=1).max())
    generators = [np.random.default_rng([seed, _ORDER, number]) for number in numbers]
    one_hot = np.eye(classes)[targets]
    for _ in range(epochs):
        for places, weights in _batches(inside, generators, most if batch is None else batch):
            _step(models, rows[places], one_hot[places], weights, learning_rate)
    return models


def logits(models: Mapping[str, npt.ArrayLike], inputs: npt.ArrayLike) -> Array:
    """Return each model's logits of all records.

    Args:
        models: Arrays with a leading axis of models, or those of one model.
        inputs: Shape `(records, features)`.

    Returns:
        Shape `(models, records, classes)`; of one model `(records, classes)`.

    Raises:
        ConfigError: An array is missing, or the shapes do not fit.
    """
    rows = np.asarray(inputs, np.float64)
    if missing := [name for name in _NAMES if name not in models]:
        raise ConfigError(f"the model lacks {missing}: needed {list(_NAMES)}")
    first, first_bias, last, last_bias = (np.asarray(models[name], np.float64) for name in _NAMES)
    try:
        inner = np.maximum(rows @ first + first_bias[..., None, :], 0.0)
        found: Array = inner @ last + last_bias[..., None, :]
    except ValueError as error:
        shapes = [array.shape for array in (rows, first, first_bias, last, last_bias)]
        raise ConfigError(f"inputs and arrays have shapes {shapes}, which do not fit each other") from error
    return found


def losses(logits: npt.ArrayLike, labels: npt.ArrayLike) -> Array:
    """Return the cross-entropy of each record, from logits of shape `(..., records, classes)`.

    Args:
        logits: Outputs before the softmax.
        labels: The class of each record, shape `(records,)`.

    Raises:
        ConfigError: The shapes do not fit.
    """
    values, targets = np.asarray(logits, np.float64), np.asarray(labels)
    if values.ndim < 2 or targets.shape != values.shape[-2:-1]:
        raise ConfigError(f"logits have shape {values.shape}, labels {targets.shape}: needed one label for each record")
    largest = values.max(axis=-1)
    total = largest + np.log(np.exp(values - largest[..., None]).sum(axis=-1))
    found: Array = total - values[..., np.arange(len(targets)), targets]
    return found


def record_gradients(model: Mapping[str, npt.ArrayLike], inputs: npt.ArrayLike, labels: npt.ArrayLike) -> Model:
    """Return the gradient of each record's own loss at one model, arrays with a leading axis of records.

    Args:
        model: The model's arrays.
        inputs: One row for each record.
        labels: The class of each record, shape `(records,)`.

    Raises:
        ConfigError: The shapes do not fit, or a value is not finite.
    """
    classes = np.shape(model.get("output_bias", ()))
    rows, targets = _checked(inputs, labels, classes[0] if classes else 0)
    arrays = _model(model, rows.shape[1], classes[0])
    inner = np.maximum(rows @ arrays["hidden_weight"] + arrays["hidden_bias"], 0.0)
    error = softmax(inner @ arrays["output_weight"] + arrays["output_bias"]) - np.eye(classes[0])[targets]
    inner_error = (error @ arrays["output_weight"].T) * (inner > 0)
    return {
        "hidden_weight": rows[:, :, None] * inner_error[:, None, :],
        "hidden_bias": inner_error,
        "output_weight": inner[:, :, None] * error[:, None, :],
        "output_bias": error,
    }


def _step(models: Model, inputs: Array, targets: Array, weights: Array, learning_rate: float) -> None:
    """Move every model one step, in place.

    Args:
        models: Arrays with a leading axis of models.
        inputs: Shape `(models, batch, features)`.
        targets: Shape `(models, batch, classes)`.
        weights: Of each record of the batch: they sum to 1, or to 0 if a model is done; shape `(models, batch)`.
        learning_rate: Length of the step.
    """
    inner = np.maximum(inputs @ models["hidden_weight"] + models["hidden_bias"][:, None], 0.0)
    error = softmax(inner @ models["output_weight"] + models["output_bias"][:, None])
    error -= targets
    error *= learning_rate * weights[..., None]
    inner_error = error @ models["output_weight"].transpose(0, 2, 1)
    inner_error *= inner > 0
    models["output_weight"] -= inner.transpose(0, 2, 1) @ error
    models["output_bias"] -= error.sum(axis=1)
    models["hidden_weight"] -= inputs.transpose(0, 2, 1) @ inner_error
    models["hidden_bias"] -= inner_error.sum(axis=1)


def _batches(inside: Bools, generators: list[np.random.Generator], batch: int) -> Iterator[tuple[Rows, Array]]:
    """Yield the rows of each step of one epoch, and their weights; models with fewer records wait for the others."""
    counts = inside.sum(axis=1)
    steps = -(-int(counts.max()) // batch)
    places = np.zeros((len(inside), steps * batch), np.int64)
    used = np.arange(steps * batch) < counts[:, None]
    for number, generator in enumerate(generators):
        places[number, : counts[number]] = generator.permutation(np.flatnonzero(inside[number]))
    for first in range(0, steps * batch, batch):
        here = used[:, first : first + batch]
        yield places[:, first : first + batch], here / np.maximum(here.sum(axis=1, keepdims=True), 1)


def _drawn(seed: int, number: int, features: int, hidden: int, classes: int) -> Model:
    """Draw a model: He's normal weights, biases of 0."""
    random = np.random.default_rng([seed, _WEIGHTS, number])
    return {
        "hidden_weight": random.normal(0.0, np.sqrt(2 / features), (features, hidden)),
        "hidden_bias": np.zeros(hidden),
        "output_weight": random.normal(0.0, np.sqrt(2 / hidden), (hidden, classes)),
        "output_bias": np.zeros(classes),
    }


def _model(arrays: Mapping[str, npt.ArrayLike], features: int, classes: int) -> Model:
    """Check the arrays of one model."""
    units = np.shape(arrays.get("hidden_bias", ()))
    if len(units) != 1:
        raise ConfigError(f"hidden_bias has shape {units}, needed (hidden,)")
    return dict(checked_arrays(arrays, _shapes(features, units, classes), "array"))


def _shapes(features: int, units: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    return dict(zip(_NAMES, [(features, *units), units, (*units, classes), (classes,)], strict=True))


def _copies(arrays: Mapping[str, npt.ArrayLike], models: int, features: int, classes: int) -> Model:
    """Return copies to train, from one model for all or one for each."""
    if np.ndim(arrays.get("hidden_bias", ())) < 2:
        return {
            name: np.repeat(array[None], models, axis=0) for name, array in _model(arrays, features, classes).items()
        }
    units = np.shape(arrays["hidden_bias"])[1:]
    shapes = {name: (models, *shape) for name, shape in _shapes(features, units, classes).items()}
    return {name: array.copy() for name, array in checked_arrays(arrays, shapes, "array").items()}


def _checked(inputs: npt.ArrayLike, labels: npt.ArrayLike, classes: int) -> tuple[Array, Rows]:
    rows, targets = np.asarray(inputs, np.float64), np.asarray(labels)
    if rows.ndim != 2 or not rows.size or targets.shape != rows.shape[:1]:
        raise ConfigError(
            f"inputs have shape {rows.shape}, labels {targets.shape}: needed (records, features) and (records,)"
        )
    if not np.isfinite(rows).all():
        raise ConfigError("a value of the inputs is not finite")
    if classes < 2 or targets.dtype.kind not in "iu" or not ((targets >= 0) & (targets < classes)).all():
        raise ConfigError(f"labels must be whole numbers from 0 to {classes - 1}, of at least two classes")
    return rows, targets.astype(np.int64)
