"""The labels of a classifier's training records, from the gradient of its last layer's biases.

With softmax and cross-entropy the gradient of class c's bias is the mean of p_c - y_c over the records: its prediction
minus the label. For one record only the label's entry is negative. A mean over many records is a mixture of the changes
that each label causes. An adversary can compute those, because it knows the model and has its own records.

Threat model: anyone who sees the gradient or change of the last layer, from one client or from a sum of any size.

What defeats it: noise. A sum over many clients does not help: it shows how many records have each label.

Source: Zhao, Mopuri, Bilen, *iDLG*, 2020; Wainakh et al., *User-Level Label Leakage from Gradients in Federated
Learning*, PoPETs 2022.
"""

import numpy as np
import numpy.typing as npt

from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]


def label(bias_gradient: npt.ArrayLike) -> int:
    """Return the label of the one record behind a gradient of the last layer's biases.

    Args:
        bias_gradient: Shape `(classes,)`; for a change of the model, pass its negative.

    Raises:
        ConfigError: The shape does not fit, or a value is not finite.
    """
    return int(np.argmin(_checked(bias_gradient)))


def label_counts(change: npt.ArrayLike, change_by_label: npt.ArrayLike, records: int) -> npt.NDArray[np.int64]:
    """Estimate how many records have each label.

    Args:
        change: Gradient, or change of the biases, of a mean over the records, shape `(classes,)`.
        change_by_label: The same for records of each label alone, which the adversary computes from the model and its
            own records, shape `(labels, classes)`.
        records: Number of records in the mean.

    Returns:
        Counts that sum to `records`, shape `(labels,)`: the non-negative least-squares solution whose shares sum to 1,
        rounded by largest remainder.

    Raises:
        ConfigError: The shapes do not fit, a value is not finite, or there is no record.
    """
    from scipy.optimize import lsq_linear  # before SciPy 1.15, nnls fails on one exact mixture in ten

    found, known = _checked(change), np.asarray(change_by_label, np.float64)
    if known.ndim != 2 or known.shape[1] != len(found) or not np.isfinite(known).all():
        raise ConfigError(f"changes by label have shape {known.shape}, needed finite values of {len(found)} classes")
    if records < 1:
        raise ConfigError(f"{records} records: needed at least 1")
    # The changes of all classes sum to 0, so a mixture in which they cancel would be undetermined. Requiring that the
    # shares sum to 1 fixes it; this equation has a weight like the others.
    weight = float(np.abs(known).max()) or 1.0
    mixtures = np.vstack((known.T, np.full(len(known), weight)))
    shares = lsq_linear(mixtures, np.append(found, weight), bounds=(0, np.inf), method="bvls").x
    exact = shares * (records / shares.sum())
    counts: npt.NDArray[np.int64] = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: records - int(counts.sum())]
    counts[largest] += 1
    return counts


def _checked(values: npt.ArrayLike) -> Array:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ConfigError(f"found shape {array.shape}, needed one value for each of at least two classes")
    if not np.isfinite(array).all():
        raise ConfigError("a value of the gradient is not finite")
    return array
