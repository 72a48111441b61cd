"""FedProx: local training is pulled back toward the round's model. The server does the same as in FedAvg.

T. Li, A. K. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith: *Federated Optimization in Heterogeneous Networks*,
MLSys 2020, Algorithm 2.
"""

import math

from secfed.encoding.flatten import combine
from secfed.errors import ConfigError
from secfed.federated.results import Model


def proximal(gradient: Model, local: Model, model: Model, mu: float) -> Model:
    """Add the gradient of FedProx's proximal term, `mu / 2 * |local - model|**2`, to that of the loss.

    One line in your own local training turns FedAvg into FedProx: `slope = proximal(slope, local, model, mu)`, before
    each step. `secfed.integrations.torch.LocalTraining` does it with `proximal_mu`.

    Args:
        gradient: Of the loss at `local`: an array, or a list or dictionary of arrays.
        local: The client's model at this step, with the same structure.
        model: The model of the round, from which the client started.
        mu: Strength of the pull, at least 0. The paper tried 0.001, 0.01, 0.1 and 1.

    Returns:
        `gradient + mu * (local - model)`, with the gradient's structure and dtypes; for `mu` 0 the gradient itself.

    Raises:
        ConfigError: `mu` is negative or not finite.
        EncodingError: The three do not have the same names and shapes.

    >>> import numpy as np
    >>> gradient, local, model = np.array([1.0, 2.0]), np.array([0.5, 0.0]), np.zeros(2)
    >>> proximal(gradient, local=local, model=model, mu=0.1).round(3).tolist()
    [1.05, 2.0]
    """
    if not 0 <= mu < math.inf:
        raise ConfigError(f"mu {mu} must be at least 0 and finite")
    if mu == 0:
        return gradient
    return combine(lambda slope, now, start: (slope + mu * (now - start)).astype(slope.dtype), gradient, local, model)
