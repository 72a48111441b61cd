"""Gradient inversion: search for the inputs whose gradient is the one that was seen.

Both searches compare the gradient of a guess with the gradient seen and improve the guess. `"dlg"` minimizes the
squared distance with L-BFGS; it suits smooth activations, and finds the labels too. `"cosine"` maximizes the cosine
similarity less a penalty on total variation, by Adam on the signs of the slope; it suits ReLU networks.

How the guess's slope is found without second derivatives. Let g(x; p) be the gradient of the loss by the parameters p,
and D a distance between g and the gradient seen, with D' its derivative by g. Then dD/dx is the derivative of
<g(x; p), r> with r = D' held fixed, and <g(x; p), r> is the derivative of the loss in the direction r of the
parameters. Swapping the two derivatives: dD/dx is the derivative, in the direction r, of the loss's gradient by x. With
parameters p + i h r and a tiny h, that derivative is the imaginary part of the gradient by x, divided by h, to machine
precision (the complex step). For the signs of the slope a short real step is good enough, and costs less.

Threat model: anyone who sees the gradient of one record or a small batch, and the model: an honest server without
protection, or with a small cohort.

What defeats it: noise; large batches and cohorts, of which it finds mixtures. Secure aggregation alone only enlarges
the batch.

Source: Zhu, Liu, Han, *Deep Leakage from Gradients*, NeurIPS 2019 (`"dlg"`); Geiping, Bauermeister, Droege, Moeller,
*Inverting Gradients*, NeurIPS 2020 (`"cosine"`); Squire, Trapp, *Using Complex Variables to Estimate Derivatives*, SIAM
Review 1998 (the step).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from secfed.attacks.networks import Parameters, checked_arrays, softmax
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Method = Literal["dlg", "cosine"]

# So small that nothing of second order is left, and far from underflow.
_COMPLEX_STEP = 1e-30
# Length of the step along the parameters. It is longer than a derivative needs, so that it sees across the nearest
# kinks of ReLUs: searches with 1e-6 end 5 dB lower, those with 1e-2 fail.
_REAL_STEP = 1e-3
# Adam's usual decay rates.
_FIRST, _SECOND = 0.9, 0.999
# The step length falls to a tenth at each of these parts of the search.
_DECAYS = (3 / 8, 5 / 8, 7 / 8)


class Model(Protocol):
    """What the attack needs of a model; `Network` has it."""

    @property
    def parameters(self) -> Parameters:
        """Arrays by name."""

    def gradients(self, inputs: Any, targets: Any) -> tuple[Mapping[str, Any], Any, Any]:
        """Return the gradients of the mean loss by the parameters, the inputs and the targets (probabilities)."""

    def input_gradients(self, inputs: Any, targets: Any, parameters: Parameters) -> tuple[Any, Any]:
        """Return the gradients of the mean loss by the inputs and the targets at other parameters."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """The loss: cross-entropy of a softmax over `classes`.

    Attributes:
        classes: Number of classes.
        labels: The records' labels, if the adversary knows them, shape `(records,)`; None: the attack looks for them.
    """

    classes: int
    labels: Sequence[int] | None = None

    def targets(self, records: int) -> Array | None:
        """Return the labels as probabilities, shape `(records, classes)`; None if they are unknown.

        Raises:
            ConfigError: There are not as many labels as records, or a label is no class.
        """
        if self.labels is None:
            return None
        labels = np.asarray(self.labels)
        if labels.shape != (records,) or labels.dtype.kind not in "iu":
            raise ConfigError(f"found labels {self.labels!r:.60}, needed {records} whole numbers, one for each record")
        if not ((labels >= 0) & (labels < self.classes)).all():
            raise ConfigError(f"labels {sorted(set(labels.tolist()))[:8]} must be from 0 to {self.classes - 1}")
        found: Array = np.eye(self.classes)[labels]
        return found


@dataclass(frozen=True, slots=True)
class Inversion:
    """What was found.

    Attributes:
        inputs: The inputs, of the shape that was asked for.
        targets: Probabilities of the labels, shape `(records, classes)`.
        distance: Of the two gradients: squared, relative to the one seen (`"dlg"`), or 1 less their cosine similarity.
        evaluations: Passes through the model, forward and backward, that the search took.
    """

    inputs: Array = field(repr=False)
    targets: Array = field(repr=False)
    distance: float
    evaluations: int

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The most probable label of each record."""
        found: npt.NDArray[np.int64] = self.targets.argmax(axis=1)
        return found


def inversion(
    model: Model,
    loss: CrossEntropy,
    update: Mapping[str, npt.ArrayLike],
    *,
    shape: tuple[int, ...],
    method: Method = "dlg",
    steps: int = 300,
    restarts: int = 1,
    total_variation: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Inversion:
    """Search for the inputs behind a gradient.

    Args:
        model: The model, which the adversary knows.
        loss: Its loss, with the labels if they are known. `"cosine"` needs them; `label` finds that of one record.
        update: The gradient that was seen, by the names of the model's parameters. Of a change of the model by one
            step, give its negative divided by the learning rate; `"cosine"` needs the direction only.
        shape: Shape of the inputs, records first, such as `(1, 1, 28, 28)`.
        method: `"dlg"` for smooth activations, `"cosine"` for ReLU networks.
        steps: Of L-BFGS, or of Adam.
        restarts: Searches from different starts; the one that ends with the smallest distance counts.
        total_variation: Weight of the penalty on total variation; `"cosine"` only, by default 0.006 for inputs of
            pictures (four dimensions), else 0.
        bounds: Least and largest value of an input.
        seed: Decides where searches start.

    Raises:
        ConfigError: The update does not fit the model, is zero or not finite, or a parameter is out of range.
    """
    if not (len(shape) >= 2 and all(size >= 1 for size in shape)):
        raise ConfigError(f"shape {shape} must have the records and at least one more dimension, all at least 1")
    if steps < 1 or restarts < 1:
        raise ConfigError(f"steps {steps} and restarts {restarts} must be at least 1")
    if not (bounds[0] < bounds[1] and math.isfinite(bounds[1] - bounds[0])):
        raise ConfigError(f"bounds {bounds} must be two finite numbers, the first below the second")
    if method not in get_args(Method):
        raise ConfigError(f"method {method!r} must be one of {get_args(Method)}")
    if total_variation is not None and not 0 <= total_variation < math.inf:
        raise ConfigError(f"total_variation {total_variation} must be at least 0")
    if method == "dlg" and total_variation is not None:
        raise ConfigError('total_variation has no effect with method "dlg"')
    targets = loss.targets(shape[0])
    if method == "cosine" and targets is None:
        raise ConfigError('method "cosine" needs the labels: found None; attacks.label finds that of one record')
    matching = _Matching(model, update, squared=method == "dlg")
    try:
        model.gradients(np.zeros(shape), np.full((shape[0], loss.classes), 1 / loss.classes))
    except ValueError as error:
        text = f"inputs of shape {shape} do not fit the model, or {loss.classes} classes do not: {error}"
        raise ConfigError(text) from None
    random = np.random.default_rng(seed)  # where searches start: no secret
    found: list[Inversion] = []
    for _ in range(restarts):
        before = matching.evaluations
        if method == "dlg" or targets is None:
            inputs, probabilities = _deep_leakage(matching, targets, loss.classes, shape, steps, bounds, random)
        else:
            weight = (0.006 if len(shape) == 4 else 0.0) if total_variation is None else total_variation
            inputs, probabilities = _signed_adam(matching, targets, shape, steps, weight, bounds, random), targets
        distance = matching.distance(inputs, probabilities)[0]
        found.append(Inversion(inputs, probabilities, distance, matching.evaluations - before))
    return min(found, key=lambda one: one.distance)


class _Matching:
    """The distance of a guess's gradient from the one seen, and its slope.

    Args:
        model: The model.
        update: The gradient seen.
        squared: Whether the distance is the squared one; else it is 1 less the cosine similarity.
    """

    def __init__(self, model: Model, update: Mapping[str, npt.ArrayLike], *, squared: bool) -> None:
        self._model, self._squared, self.evaluations = model, squared, 0
        self._names = list(model.parameters)
        self._shapes = {name: array.shape for name, array in model.parameters.items()}
        self._parameters = _flat(model.parameters, self._names)
        self._seen = _flat(checked_arrays(update, self._shapes, "gradient"), self._names)
        self._norm = float(np.linalg.norm(self._seen))
        if not self._norm > 0:
            raise ConfigError("the gradient is zero everywhere: it tells nothing")

    def distance(self, inputs: Array, targets: Array) -> tuple[float, Array, Array]:
        """Return the distance, and its slope by the inputs and by the targets."""
        self.evaluations += 2
        gradient, *here = self._model.gradients(inputs, targets)
        guess = _flat(gradient, self._names)
        if self._squared:
            rest = (guess - self._seen) / self._norm
            direction = rest * (2 / self._norm)
            ahead = self._moved(inputs, targets, 1j * _COMPLEX_STEP * direction)
            return float(rest @ rest), ahead[0].imag / _COMPLEX_STEP, ahead[1].imag / _COMPLEX_STEP
        length = float(np.linalg.norm(guess)) or 1.0
        cosine = float(guess @ self._seen) / (length * self._norm)
        direction = (cosine / length * guess - self._seen / self._norm) / length
        step = _REAL_STEP / (float(np.linalg.norm(direction)) or 1.0)
        ahead = self._moved(inputs, targets, step * direction)
        return 1 - cosine, (ahead[0] - here[0]) / step, (ahead[1] - here[1]) / step

    def _moved(self, inputs: Array, targets: Array, change: npt.NDArray[Any]) -> tuple[Any, Any]:
        """Return the gradients by the inputs and the targets where the parameters are changed."""
        return self._model.input_gradients(inputs, targets, self._named(self._parameters + change))

    def _named(self, flat: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        found, at = {}, 0
        for name in self._names:
            size = math.prod(self._shapes[name])
            found[name] = flat[at : at + size].reshape(self._shapes[name])
            at += size
        return found


def _deep_leakage(
    matching: _Matching,
    targets: Array | None,
    classes: int,
    shape: tuple[int, ...],
    steps: int,
    bounds: tuple[float, float],
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """Minimize the squared distance with L-BFGS, over the inputs and, if they are unknown, the labels."""
    from scipy.optimize import Bounds, minimize

    size = math.prod(shape)
    start = random.uniform(*bounds, size)
    least, most = np.full(size, bounds[0]), np.full(size, bounds[1])
    if targets is None:
        logits = random.normal(size=shape[0] * classes)
        start = np.append(start, logits)
        least, most = np.append(least, np.full_like(logits, -np.inf)), np.append(most, np.full_like(logits, np.inf))

    def parts(flat: Array) -> tuple[Array, Array]:
        return flat[:size].reshape(shape), softmax(flat[size:].reshape(-1, classes)) if targets is None else targets

    def value_and_slope(flat: npt.NDArray[Any]) -> Any:
        inputs, probabilities = parts(flat)
        value, by_inputs, by_targets = matching.distance(inputs, probabilities)
        if targets is None:  # through the softmax
            by_targets = probabilities * (by_targets - (probabilities * by_targets).sum(axis=1, keepdims=True))
            return value, np.append(by_inputs.ravel(), by_targets.ravel())
        return value, by_inputs.ravel()

    options: Any = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 100, "ftol": 0.0, "gtol": 0.0}
    limits: Any = Bounds(least, most)
    found = minimize(value_and_slope, start, jac=True, method="L-BFGS-B", bounds=limits, options=options)
    inputs, probabilities = parts(np.asarray(found.x, np.float64))
    return inputs, probabilities


def _signed_adam(
    matching: _Matching,
    targets: Array,
    shape: tuple[int, ...],
    steps: int,
    total_variation: float,
    bounds: tuple[float, float],
    random: np.random.Generator,
) -> Array:
    """Minimize the cosine distance and the total variation by Adam on the signs of the slope; return the best guess."""
    low, high = bounds
    guess = random.uniform(low, high, shape)
    first, second = np.zeros(shape), np.zeros(shape)
    best, least = guess, math.inf
    for step in range(1, steps + 1):
        length = 0.1 * (high - low) * 0.1 ** sum(step > part * steps for part in _DECAYS)
        value, slope, _ = matching.distance(guess, targets)
        if total_variation:
            penalty, of_penalty = _total_variation(guess / (high - low))
            value += total_variation * penalty
            slope = slope + total_variation * of_penalty / (high - low)
        if value < least:
            best, least = guess, value
        slope = np.sign(slope)
        first = _FIRST * first + (1 - _FIRST) * slope
        second = _SECOND * second + (1 - _SECOND) * slope * slope
        moved = first / (1 - _FIRST**step) / (np.sqrt(second / (1 - _SECOND**step)) + 1e-8)
        guess = np.clip(guess - length * moved, low, high)
    return best


def _total_variation(pictures: Array) -> tuple[float, Array]:
    """Return the mean absolute difference of neighboring values along the last two axes, and its slope."""
    value, slope = 0.0, np.zeros(pictures.shape)
    for axis in (-1, -2):
        lines, slopes = pictures.swapaxes(axis, -1), slope.swapaxes(axis, -1)
        differences = np.diff(lines)
        value += float(np.abs(differences).mean())
        signs = np.sign(differences) / differences.size
        slopes[..., 1:] += signs
        slopes[..., :-1] -= signs
    return value, slope


def _flat(arrays: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> npt.NDArray[Any]:
    return np.concatenate([np.ravel(arrays[name]) for name in names])
