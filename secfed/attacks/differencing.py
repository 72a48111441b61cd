"""One client's update from two sums that differ by this client.

Threat model: anyone who sees two weighted means of the same updates, one of them without one client: an honest server
that repeats a round, or statistics of overlapping groups.

What defeats it: noise, or never using an update in two sums. Secure aggregation and encryption do not help, because
they are meant to reveal both sums.

Source: Denning, *Secure Statistical Databases with Random Sample Queries*, ACM TODS 1980 (trackers).
"""

from typing import Any

import numpy as np

from secfed.errors import ConfigError


def difference(mean: Any, weight: float, mean_without: Any, weight_without: float) -> dict[str, Any]:
    """Return the update of the one client that is only in the first mean.

    Args:
        mean: Weighted mean with the client: a dictionary of arrays.
        weight: Sum of its weights.
        mean_without: Weighted mean of the others, with the same names and shapes.
        weight_without: Sum of their weights.

    Raises:
        ConfigError: The names or shapes differ, or the first weight is not above the second.
    """
    if not weight > weight_without > 0:
        raise ConfigError(f"weights {weight} with the client and {weight_without} without: needed the first larger")
    if mean.keys() != mean_without.keys():
        raise ConfigError(f"the means have different arrays: {sorted(set(mean) ^ set(mean_without))[:3]}")
    found = {}
    for name, array in mean.items():
        with_client, without = np.asarray(array, np.float64), np.asarray(mean_without[name], np.float64)
        if with_client.shape != without.shape:
            raise ConfigError(f"{name} has shapes {with_client.shape} and {without.shape}: needed the same")
        found[name] = (with_client * weight - without * weight_without) / (weight - weight_without)
    return found
