"""Local differential privacy: a client makes its own update private before it leaves."""

from secfed.aggregation.privacy import CentralGaussian
from secfed.aggregation.private_sum import PrivateSum
from secfed.dp.events import Event
from secfed.encoding.flatten import Update


def local_noise(update: Update, *, clip_norm: float, noise_multiplier: float) -> tuple[Update, Event]:
    """Clip an update and add noise to it, so that anyone who sees it learns little of this client's data.

    It is for algorithms in which the server sees single updates, such as `secfed.FedAsync`, and for clients that trust
    no protocol. The noise is that of one client for itself alone: for the same epsilon the mean of n clients has
    about `sqrt(n)` times the noise that it has with `secfed.DistributedGaussian` under secure aggregation.

    Args:
        update: Array, or list or dictionary of arrays.
        clip_norm: The update is scaled down to this Euclidean norm, all arrays together.
        noise_multiplier: Standard deviation of the noise, divided by `clip_norm`, as from `dp.noise_multiplier` with
            adjacency `"replace"` and as many rounds as the client will take part in.

    Returns:
        The private update, and what was released: compose it in a `dp.Accountant("replace")` of the client's own, once
        for each update.

    Raises:
        ConfigError: A number is out of range.
        EncodingError: The update holds a value that is not finite.

    Source:
        Kasiviswanathan, Lee, Nissim, Raskhodnikova, Smith: What Can We Learn Privately?, FOCS 2008 (the local model);
        the noise is a discrete Gaussian, as in `secfed.CentralGaussian`.
    """
    transform = PrivateSum.of(CentralGaussian(clip_norm, noise_multiplier), update, clients=1)
    return transform.decode(transform.encode(update), (1,)).mean, transform.worst_event
