"""Small networks in NumPy, with their gradients: the model of a gradient-matching attack.

Names and layouts of the parameters are those of a `torch.nn.Sequential` of the same layers: `"0.weight"` of shape
`(outputs, inputs)` or `(outputs, inputs, height, width)`, `"0.bias"` of shape `(outputs,)`.

Gradients are first-order only. The parameters may be complex, which yields the directional derivative of a gradient
(`inversion.py`). A ReLU then uses the sign of the real part.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError

Array = npt.NDArray[Any]
Parameters = Mapping[str, Array]


class Pass(NamedTuple):
    """What a layer returns for an input.

    Attributes:
        output: Its output.
        to_inputs: From the output's gradient to the input's.
        to_parameters: From the output's gradient to those of the layer's parameters.
    """

    output: Array
    to_inputs: Callable[[Array], Array]
    to_parameters: Callable[[Array], tuple[Array, ...]] = lambda slope: ()


class Layer(Protocol):
    """One layer."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of its weight and its bias; empty if it has none."""

    def forward(self, parameters: Sequence[Array], inputs: Array) -> Pass:
        """Return the output, and how gradients go back."""


@dataclass(frozen=True, slots=True)
class Linear:
    """`y = W x + b`."""

    inputs: int
    outputs: int

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weight and the bias."""
        return (self.outputs, self.inputs), (self.outputs,)

    def forward(self, parameters: Sequence[Array], inputs: Array) -> Pass:
        """Return the output, shape `(records, outputs)`, and how gradients go back."""
        weight, bias = parameters
        return Pass(
            inputs @ weight.T + bias,
            lambda slope: slope @ weight,
            lambda slope: (slope.T @ inputs, slope.sum(axis=0)),
        )


@dataclass(frozen=True, slots=True)
class Conv2d:
    """Cross-correlation with square kernels."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the weight and the bias."""
        return (self.outputs, self.inputs, self.kernel, self.kernel), (self.outputs,)

    def forward(self, parameters: Sequence[Array], inputs: Array) -> Pass:
        """Return the output, shape `(records, outputs, height, width)`, and how gradients go back.

        Raises:
            ConfigError: The inputs do not have four dimensions, have other channels, or are smaller than the kernel.
        """
        weight, bias = parameters
        pad, stride, kernel = self.padding, self.stride, self.kernel
        if inputs.ndim != 4 or inputs.shape[1] != self.inputs or min(inputs.shape[2:]) + 2 * pad < kernel:
            raise ConfigError(
                f"a convolution found inputs of shape {inputs.shape}, needed (records, {self.inputs}, height, width) "
                f"of at least {kernel} x {kernel} with the padding of {pad}"
            )
        padded = np.ascontiguousarray(inputs)
        if pad:  # np.pad is several times slower
            size, channels, *sides = inputs.shape
            padded = np.zeros((size, channels, *(side + 2 * pad for side in sides)), inputs.dtype)
            padded[:, :, pad:-pad, pad:-pad] = inputs
        records = len(padded)
        height, width = ((side - kernel) // stride + 1 for side in padded.shape[2:])
        # One column for each place, so that the whole convolution is one matrix product. Neighboring places are
        # adjacent in memory, as in the inputs; with one row per place, attacks take an eighth longer.
        by_record, by_channel, by_row, by_value = padded.strides
        steps = (by_channel, by_row, by_value, by_record, stride * by_row, stride * by_value)
        windows = np.ndarray((self.inputs, kernel, kernel, records, height, width), padded.dtype, padded, 0, steps)
        columns = windows.reshape(-1, records * height * width)
        flat = weight.reshape(self.outputs, -1)
        output = (flat @ columns + bias[:, None]).reshape(self.outputs, records, height, width).swapaxes(0, 1)

        def rows(slope: Array) -> Array:
            return slope.swapaxes(0, 1).reshape(self.outputs, -1)

        def to_inputs(slope: Array) -> Array:
            places = (flat.T @ rows(slope)).reshape(windows.shape)
            back = np.zeros((self.inputs, records, *padded.shape[2:]), places.dtype)
            for y in range(kernel):
                for x in range(kernel):
                    back[:, :, y : y + stride * height : stride, x : x + stride * width : stride] += places[:, y, x]
            return back[:, :, pad : back.shape[2] - pad, pad : back.shape[3] - pad].swapaxes(0, 1)

        def to_parameters(slope: Array) -> tuple[Array, ...]:
            return (rows(slope) @ columns.T).reshape(weight.shape), slope.sum(axis=(0, 2, 3))

        return Pass(output, to_inputs, to_parameters)


@dataclass(frozen=True, slots=True)
class Activation:
    """An activation function of each value."""

    name: Literal["relu", "sigmoid", "tanh"]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """None."""
        return ()

    def forward(self, parameters: Sequence[Array], inputs: Array) -> Pass:
        """Return the output, of the same shape, and how gradients go back."""
        factor: Array
        if self.name == "relu":
            factor = inputs.real > 0
            output = inputs * factor
        elif self.name == "tanh":
            output = np.tanh(inputs)
            factor = 1 - output * output
        else:
            output = 0.5 * (1 + np.tanh(0.5 * inputs))
            factor = output * (1 - output)
        return Pass(output, lambda slope: slope * factor)


@dataclass(frozen=True, slots=True)
class AvgPool2d:
    """Means over disjoint squares of `size` by `size`; leftover rows and columns at the end are dropped."""

    size: int

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """None."""
        return ()

    def forward(self, parameters: Sequence[Array], inputs: Array) -> Pass:
        """Return the output, shape `(records, channels, height // size, width // size)`, and how gradients go back."""
        size, (records, channels, height, width) = self.size, inputs.shape
        rows, columns = height // size, width // size
        squares = inputs[:, :, : rows * size, : columns * size].reshape(records, channels, rows, size, columns, size)

        def to_inputs(slope: Array) -> Array:
            back = np.zeros(inputs.shape, slope.dtype)
            spread = np.repeat(np.repeat(slope, size, axis=2), size, axis=3) / (size * size)
            back[:, :, : rows * size, : columns * size] = spread
            return back

        return Pass(squares.mean(axis=(3, 5)), to_inputs)


@dataclass(frozen=True, slots=True)
class Flatten:
    """One row for each record."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """None."""
        return ()

    def forward(self, parameters: Sequence[Array], inputs: Array) -> Pass:
        """Return the output, shape `(records, values)`, and how gradients go back."""
        return Pass(inputs.reshape(len(inputs), -1), lambda slope: slope.reshape(inputs.shape))


@dataclass(frozen=True)
class Network:
    """A sequence of layers and their parameters; the loss is the softmax cross-entropy, averaged over the records.

    Args:
        layers: In order.
        parameters: By name, as `names` lists them.

    Raises:
        ConfigError: A parameter is missing, unknown, not finite, or of the wrong shape.
    """

    layers: tuple[Layer, ...]
    parameters: Parameters = field(repr=False)

    def __post_init__(self) -> None:
        checked = checked_arrays(self.parameters, self.shapes, "parameter")
        object.__setattr__(self, "parameters", checked)

    @classmethod
    def drawn(cls, layers: Sequence[Layer], random: np.random.Generator, scale: float = 1.0) -> "Network":
        """Draw parameters uniformly between +-scale / sqrt(inputs of a unit), as PyTorch does.

        Args:
            layers: In order.
            random: Draws them.
            scale: 1 is PyTorch's own.
        """
        drawn = {}
        for number, layer in enumerate(layers):
            if layer.shapes:
                most = scale / math.sqrt(math.prod(layer.shapes[0][1:]))
                for name, shape in zip(("weight", "bias"), layer.shapes, strict=True):
                    drawn[f"{number}.{name}"] = random.uniform(-most, most, shape)
        return cls(tuple(layers), drawn)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each parameter by name, in the order of the layers."""
        return {
            f"{number}.{name}": shape
            for number, layer in enumerate(self.layers)
            for name, shape in zip(("weight", "bias"), layer.shapes, strict=False)
        }

    def logits(self, inputs: Array) -> Array:
        """Return the outputs before the softmax, shape `(records, classes)`.

        Args:
            inputs: One row for each record.
        """
        for number, layer in enumerate(self.layers):
            inputs = layer.forward(self._of(number, layer, self.parameters), inputs).output
        return inputs

    def gradients(
        self, inputs: Array, targets: Array, parameters: Parameters | None = None
    ) -> tuple[dict[str, Array], Array, Array]:
        """Return the gradients of the loss by the parameters, by the inputs and by the targets.

        Args:
            inputs: The first layer's, one record a row.
            targets: Probabilities of the classes, shape `(records, classes)`.
            parameters: Real or complex, by name; by default the network's own.

        Returns:
            By name; the inputs' shape; the targets' shape.
        """
        passes, slope, of_targets = self._passes(inputs, targets, self.parameters if parameters is None else parameters)
        found: dict[str, Array] = {}
        for number in reversed(range(len(passes))):
            for name, array in zip(("weight", "bias"), passes[number].to_parameters(slope), strict=False):
                found[f"{number}.{name}"] = array
            slope = passes[number].to_inputs(slope)
        return found, slope, of_targets

    def input_gradients(self, inputs: Array, targets: Array, parameters: Parameters) -> tuple[Array, Array]:
        """Return the gradients of the loss by the inputs and by the targets at other, real or complex, parameters.

        Args:
            inputs: The first layer's, one record a row.
            targets: Probabilities of the classes, shape `(records, classes)`.
            parameters: By name; used instead of the network's own.
        """
        passes, slope, of_targets = self._passes(inputs, targets, parameters)
        for one in reversed(passes):
            slope = one.to_inputs(slope)
        return slope, of_targets

    def _passes(self, inputs: Array, targets: Array, parameters: Parameters) -> tuple[list[Pass], Array, Array]:
        """Return the pass through each layer, and the loss's gradients by the logits and by the targets."""
        passes = []
        for number, layer in enumerate(self.layers):
            passes.append(layer.forward(self._of(number, layer, parameters), inputs))
            inputs = passes[-1].output
        shifted = inputs - inputs.real.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        sums = exponentials.sum(axis=1, keepdims=True)
        slope = (exponentials / sums * targets.sum(axis=1, keepdims=True) - targets) / len(inputs)
        return passes, slope, (np.log(sums) - shifted) / len(inputs)

    @staticmethod
    def _of(number: int, layer: Layer, parameters: Parameters) -> list[Array]:
        return [parameters[f"{number}.{name}"] for name in ("weight", "bias")] if layer.shapes else []


def softmax(logits: Array) -> Array:
    """Return probabilities of the classes, along the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return found


def checked_arrays(arrays: Mapping[str, npt.ArrayLike], shapes: Mapping[str, tuple[int, ...]], what: str) -> Parameters:
    """Return arrays in float64, by the names and in the order of `shapes`.

    Raises:
        ConfigError: One is missing, unknown, not finite, or of the wrong shape.
    """
    if odd := sorted(set(arrays) ^ set(shapes)):
        raise ConfigError(f"{what}s {odd[:4]} are missing or unknown: needed {list(shapes)[:4]} and so on")
    found = {}
    for name, shape in shapes.items():
        array = np.asarray(arrays[name], np.float64)
        if array.shape != shape:
            raise ConfigError(f"{what} {name} has shape {array.shape}, needed {shape}")
        if not np.isfinite(array).all():
            raise ConfigError(f"{what} {name} has a value that is not finite")
        found[name] = array
    return found
