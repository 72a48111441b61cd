"""Local differential privacy: a client makes its own update private before it leaves."""

from secfed.aggregation.privacy import CentralGaussian
from secfed.aggregation.private_sum import PrivateSum
from secfed.dp.events import Event
from secfed.encoding.flatten import Update


def local_noise(update: Update, *, clip_norm: float, noise_multiplier: float) -> tuple[Update, Event]:
    """Clip an update and add noise to it, so that anyone who sees it learns little of this client's data.

    Use it for algorithms in which the server sees single updates, such as `secfed.FedAsync`, or if clients do not trust
    the protocol. Each client adds enough noise to protect its own update. So for the same epsilon the mean of n clients
    has about `sqrt(n)` times the noise that it has with `secfed.DistributedGaussian` under secure aggregation.

    Args:
        update: Array, or list or dictionary of arrays.
        clip_norm: The update is scaled down to this Euclidean norm, all arrays together.
        noise_multiplier: Standard deviation of the noise, divided by `clip_norm`, as from `dp.noise_multiplier` with
            adjacency `"replace"` and as many rounds as the client will take part in.

    Returns:
        The private update and the event it released. Compose the event in the client's own `dp.Accountant("replace")`,
        once for each update.

    Raises:
        ConfigError: A number is out of range.
        EncodingError: The update holds a value that is not finite.

    Source:
        Kasiviswanathan, Lee, Nissim, Raskhodnikova, Smith: What Can We Learn Privately?, FOCS 2008 (the local model);
        the noise is a discrete Gaussian, as in `secfed.CentralGaussian`.
    """
    transform = PrivateSum.of(CentralGaussian(clip_norm, noise_multiplier), update, clients=1)
    return transform.decode(transform.encode(update), (1,)).mean, transform.worst_event
