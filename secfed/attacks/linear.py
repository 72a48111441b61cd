"""The inputs of a linear layer from its gradient: exact, without a search.

For a layer z = W x + b the gradient of one record is dL/dW = d x^T and dL/db = d, so each row of the first, divided by
its entry of the second, is the input. A change of the model by any number of steps on the same record is a multiple of
that. For several records, or a sum of several clients, each row gives a mixture: a weighted mean of the inputs.

Threat model: anyone who sees the gradient or change of a first linear layer with a bias: an honest server without
protection, or with a cohort of one record.

What defeats it: a sum over many records of many clients (the mixture looks like an average record), and noise. Secure
aggregation alone helps only as far as its sum is a mixture.

Source: Phong et al., *Privacy-Preserving Deep Learning via Additively Homomorphic Encryption*, IEEE TIFS 2018, section
3; Geiping et al., *Inverting Gradients*, NeurIPS 2020, proposition 3.1.
"""

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]


def linear_inputs(weight_gradient: npt.ArrayLike, bias_gradient: npt.ArrayLike) -> Array:
    """Return the one input that explains the gradient of a linear layer best.

    Args:
        weight_gradient: Gradient or change of the weights, shape `(outputs, inputs)`.
        bias_gradient: That of the biases, shape `(outputs,)`.

    Returns:
        Shape `(inputs,)`: the mean of the rows' quotients, weighted by the squared bias gradient, so that rows with
        much noise count little. Exact for one record.

    Raises:
        ConfigError: The shapes do not fit, a value is not finite, or the bias gradient is zero everywhere.
    """
    weights, biases = _checked(weight_gradient, bias_gradient)
    found: Array = biases @ weights / (biases @ biases)
    return found


def linear_candidates(weight_gradient: npt.ArrayLike, bias_gradient: npt.ArrayLike) -> Array:
    """Return the quotient of each row: in a sum of several records, a unit turned on by one record alone reveals it.

    Args:
        weight_gradient: Gradient or change of the weights, shape `(outputs, inputs)`.
        bias_gradient: That of the biases, shape `(outputs,)`.

    Returns:
        Shape `(rows, inputs)`, of the rows whose bias gradient is not zero, largest first.

    Raises:
        ConfigError: The shapes do not fit, a value is not finite, or the bias gradient is zero everywhere.
    """
    weights, biases = _checked(weight_gradient, bias_gradient)
    used = np.flatnonzero(biases)
    order = used[np.argsort(-np.abs(biases[used]), kind="stable")]
    quotients: Array = weights[order] / biases[order, None]
    return quotients


def layer_gradient(weight_gradient: npt.ArrayLike, bias_gradient: npt.ArrayLike) -> tuple[Array, Array]:
    """Return both gradients in float64.

    Raises:
        ConfigError: The shapes do not fit, or a value is not finite.
    """
    weights, biases = np.asarray(weight_gradient, np.float64), np.asarray(bias_gradient, np.float64)
    if weights.ndim != 2 or biases.shape != weights.shape[:1]:
        raise ConfigError(
            f"the gradients have shapes {weights.shape} and {biases.shape}, needed (outputs, inputs) and (outputs,)"
        )
    if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
        raise ConfigError("a value of the gradient is not finite")
    return weights, biases


def _checked(weight_gradient: npt.ArrayLike, bias_gradient: npt.ArrayLike) -> tuple[Array, Array]:
    weights, biases = layer_gradient(weight_gradient, bias_gradient)
    if not biases.any():
        raise ConfigError("the bias gradient is zero everywhere: no unit was on, so the inputs left no trace")
    return weights, biases
