"""Gradient inversion: search for inputs with the observed gradient.

Both searches compare the gradient of a guess with the gradient seen and improve the guess. `"dlg"` minimizes the
squared distance with L-BFGS; it suits smooth activations, and finds the labels too. `"cosine"` maximizes the cosine
similarity minus a penalty on total variation, by Adam on the signs of the slope; it suits ReLU networks.

How the guess's slope is found without second derivatives. Let g(x; p) be the gradient of the loss by the parameters p,
and D a distance between g and the gradient seen, with D' its derivative by g. Then dD/dx is the derivative of
<g(x; p), r> with r = D' held fixed, and <g(x; p), r> is the derivative of the loss in the direction r of the
parameters. Swapping the two derivatives: dD/dx is the derivative, in the direction r, of the loss's gradient by x. With
parameters p + i h r and a tiny h, that derivative is the imaginary part of the gradient by x, divided by h, to machine
precision (the complex step). For the signs of the slope a short real step is good enough, and costs less.

A client that takes several steps of gradient descent, p <- p - eta g(x; p), sends the change of its model. The search
repeats the client's steps for its guess and compares the changes. The slope comes from the same steps in reverse (the
adjoint): the direction r starts as D' by the sum of the gradients, each step adds its own d<g, r>/dx, and then r
becomes r - eta H r, where H is the matrix of second derivatives of the loss by p. H r is the derivative of g(x; p) in
the direction r, so the same pass at p + i h r gives both terms.

Threat model: anyone who knows the model and sees the gradient of one record or a small batch, or the change by some
steps on it: an honest server without protection, or with a small cohort.

What defeats it: noise; large batches and cohorts, where it finds only mixtures. Secure aggregation alone only enlarges
the batch.

Source: Zhu, Liu, Han, *Deep Leakage from Gradients*, NeurIPS 2019 (`"dlg"`); Geiping, Bauermeister, Droege, Moeller,
*Inverting Gradients*, NeurIPS 2020 (`"cosine"`; local steps in section 6); Squire, Trapp, *Using Complex Variables to
Estimate Derivatives*, SIAM Review 1998 (the step).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from secfed.attacks.networks import Parameters, checked_arrays, softmax
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Method = Literal["dlg", "cosine"]

# Small enough that second-order terms vanish, and far from underflow.
_COMPLEX_STEP = 1e-30
# Length of the step along the parameters. It is longer than a derivative needs, to step across the nearest kinks of
# ReLUs: searches with 1e-6 end 5 dB lower, those with 1e-2 fail.
_REAL_STEP = 1e-3
# Adam's usual decay rates.
_FIRST, _SECOND = 0.9, 0.999
# The step length falls to a tenth at each of these fractions of the search.
_DECAYS = (3 / 8, 5 / 8, 7 / 8)


class Model(Protocol):
    """What the attack needs from a model; `Network` provides it."""

    @property
    def parameters(self) -> Parameters:
        """Arrays by name."""

    def gradients(
        self, inputs: Any, targets: Any, parameters: Parameters | None = None
    ) -> tuple[Mapping[str, Any], Any, Any]:
        """Return the gradients of the mean loss by the parameters, the inputs and the targets (probabilities).

        Args:
            inputs: One record a row.
            targets: Probabilities of the classes, shape `(records, classes)`.
            parameters: Real or complex, used instead of the model's own; the attack passes them if `local_steps`
                exceeds 1.
        """

    def input_gradients(self, inputs: Any, targets: Any, parameters: Parameters) -> tuple[Any, Any]:
        """Return the gradients of the mean loss by the inputs and the targets at other parameters."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """The loss: cross-entropy of a softmax over `classes`.

    Attributes:
        classes: Number of classes.
        labels: The records' labels, if the adversary knows them, shape `(records,)`; None: the attack searches for
            them.
    """

    classes: int
    labels: Sequence[int] | None = None

    def targets(self, records: int) -> Array | None:
        """Return the labels as probabilities, shape `(records, classes)`; None if they are unknown.

        Args:
            records: Number of records.

        Raises:
            ConfigError: The numbers of labels and records differ, or a label is not a class.
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
        inputs: The inputs, of the requested shape.
        targets: Probabilities of the labels, shape `(records, classes)`.
        distance: Distance of the two gradients or changes: squared and relative to the one seen (`"dlg"`), or 1 minus
            the cosine similarity.
        evaluations: Forward and backward passes through the model.
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
    local_steps: int = 1,
    learning_rate: float | None = None,
) -> Inversion:
    """Search for the inputs behind a gradient, or behind the change of a model by a few steps of gradient descent.

    Args:
        model: The model, which the adversary knows.
        loss: Its loss, with the labels if they are known. `"cosine"` needs them; `label` finds the label of one record.
        update: What was seen, by the names of the model's parameters: the gradient or, if a learning rate is given, the
            change of the model (after training minus before). For a gradient `"cosine"` needs only the direction.
        shape: Shape of the inputs, records first, such as `(1, 1, 28, 28)`.
        method: `"dlg"` for smooth activations, `"cosine"` for ReLU networks.
        steps: Steps of L-BFGS or Adam.
        restarts: Searches from different starts; the one with the smallest final distance is returned.
        total_variation: Weight of the penalty on total variation; `"cosine"` only, by default 0.006 for pictures (four
            dimensions), else 0.
        bounds: Least and largest value of an input.
        seed: Seed of the random starts.
        local_steps: Steps of gradient descent that the client took, each on all its records. The search takes that many
            times as long.
        learning_rate: The client's learning rate, which the adversary knows; the model's own parameters are those
            before training.

    Raises:
        ConfigError: The update does not match the model, is zero or not finite, a parameter is out of range, there are
            several local steps and no learning rate, or training at that rate diverges.
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
    if not isinstance(local_steps, Integral) or local_steps < 1:
        raise ConfigError(f"local_steps {local_steps!r} must be a whole number, at least 1")
    if learning_rate is not None and not (isinstance(learning_rate, Real) and 0 < learning_rate < math.inf):
        raise ConfigError(f"learning_rate {learning_rate!r} must be a positive, finite number")
    if local_steps > 1 and learning_rate is None:
        raise ConfigError(f"local_steps {local_steps} needs the client's learning_rate: found None")
    matching = _Matching(model, update, squared=method == "dlg", local_steps=local_steps, learning_rate=learning_rate)
    own = (model.parameters,) if local_steps > 1 else ()
    try:
        model.gradients(np.zeros(shape), np.full((shape[0], loss.classes), 1 / loss.classes), *own)
    except TypeError as error:
        if not own:
            raise
        text = f"local_steps {local_steps} needs a model whose method gradients takes parameters: {error}"
        raise ConfigError(text) from None
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
    """The distance between a guess's gradient (or change of the model) and the one seen, and its slope.

    Args:
        model: The model.
        update: The gradient seen, or the change if there is a learning rate.
        squared: Whether to use the squared distance; else 1 minus the cosine similarity.
        local_steps: Steps behind the change.
        learning_rate: Learning rate of these steps; None if the update is a gradient.
    """

    def __init__(
        self,
        model: Model,
        update: Mapping[str, npt.ArrayLike],
        *,
        squared: bool,
        local_steps: int = 1,
        learning_rate: float | None = None,
    ) -> None:
        self._model, self._squared, self.evaluations = model, squared, 0
        self._steps, self._rate = local_steps, learning_rate
        self._names = list(model.parameters)
        self._shapes = {name: array.shape for name, array in model.parameters.items()}
        self._parameters = _flat(model.parameters, self._names)
        what = "gradient" if learning_rate is None else "change"
        self._seen = _flat(checked_arrays(update, self._shapes, what), self._names)
        self._norm = float(np.linalg.norm(self._seen))
        if not self._norm > 0:
            raise ConfigError(f"the {what} is zero everywhere: it tells nothing")

    def distance(self, inputs: Array, targets: Array) -> tuple[float, Array, Array]:
        """Return the distance, and its slope by the inputs and by the targets."""
        self.evaluations += 2 * self._steps
        passes = self._trained(inputs, targets)
        scale = 1.0 if self._rate is None else -self._rate  # from the sum of the gradients to the change
        guess = scale * sum(one[1] for one in passes)
        if not np.isfinite(guess).all():
            raise ConfigError(
                f"training a guess diverges: {self._steps} local steps at learning_rate {self._rate} give a change "
                "that is not finite; needed the rate and the steps of the client"
            )
        if self._squared:
            rest = (guess - self._seen) / self._norm
            value, direction = float(rest @ rest), rest * (2 / self._norm)
        else:
            length = float(np.linalg.norm(guess)) or 1.0
            cosine = float(guess @ self._seen) / (length * self._norm)
            value, direction = 1 - cosine, (cosine / length * guess - self._seen / self._norm) / length
        return value, *self._slope(inputs, targets, passes, scale * direction)

    def _trained(self, inputs: Array, targets: Array) -> list[tuple[Array, Array, Any, Any]]:
        """Return, for each local step, the parameters before it and the gradients by them, the inputs and the
        targets."""
        passes: list[tuple[Array, Array, Any, Any]] = []
        parameters = self._parameters
        with np.errstate(over="ignore", invalid="ignore"):  # `distance` refuses what is not finite
            for step in range(self._steps):
                own = () if step == 0 else (self._named(parameters),)
                gradient, *here = self._model.gradients(inputs, targets, *own)
                flat = _flat(gradient, self._names)
                passes.append((parameters, flat, *here))
                parameters = parameters - (self._rate or 0.0) * flat
        return passes

    def _slope(self, inputs: Array, targets: Array, passes: Any, direction: Array) -> tuple[Array, Array]:
        """Return the derivatives by the inputs and the targets, from the one by the sum of the gradients.

        Args:
            inputs: The guess.
            targets: Its labels' probabilities.
            passes: The local steps for this guess.
            direction: The derivative of the distance by the sum of these steps' gradients.
        """
        by_inputs, by_targets = np.zeros(np.shape(inputs)), np.zeros(np.shape(targets))
        for step in reversed(range(self._steps)):
            parameters, *here = passes[step]
            length = 1.0 if self._squared else _REAL_STEP / (float(np.linalg.norm(direction)) or 1.0)
            change: Any = 1j * _COMPLEX_STEP * direction if self._squared else length * direction
            ahead = self._ahead(inputs, targets, self._named(parameters + change), first=step == 0)
            slopes = [
                there.imag / _COMPLEX_STEP if self._squared else (there - before) / length
                for there, before in zip(ahead, here[-len(ahead) :], strict=True)
            ]
            by_inputs, by_targets = by_inputs + slopes[-2], by_targets + slopes[-1]
            if step:
                direction = direction - (self._rate or 0.0) * slopes[0]
        return by_inputs, by_targets

    def _ahead(self, inputs: Array, targets: Array, parameters: Parameters, *, first: bool) -> tuple[Any, ...]:
        """Return the gradients by the parameters (except for the first step), the inputs and the targets."""
        if first:  # no earlier step needs them
            return self._model.input_gradients(inputs, targets, parameters)
        by_parameters, *others = self._model.gradients(inputs, targets, parameters)
        return _flat(by_parameters, self._names), *others

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

    options: Any = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 0.0, "gtol": 0.0}
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
