"""Every client's inputs from the sum of their gradients: exact, although only the sum is seen.

For a layer z = W x + b before a ReLU, the sum of n records' gradients is [dL/dW | dL/db] = Z^T [X | 1]: row i of X is
record i, row i of Z the slope of its loss by z. That product has rank n, so singular vectors give it as A B, and Z^T
is A Q for some matrix Q of n x n. A record leaves no slope where its unit was off (about half of the units of an
untrained network), so the columns of A Q are far sparser than any other combination of A's columns. Any direction can
be made zero in n - 1 rows; the attack searches for combinations that are zero in more. With n independent ones, Z is
known up to a factor for each record. Least squares then give [X | 1], and its last column gives the factor.

How a sparse combination is found: among combinations of one length, the mean absolute value over the rows is least at
the sparse ones. Many random starts descend a smooth version of it together, followed by reweighted least squares. Each
result is then solved again from its zero rows alone, which is exact. Later starts are orthogonal to what was found.

The singular values beyond the n largest show the noise left by fixed-point rounding, which decides what counts as zero.

A change of the model by several small steps on the same records is Z^T [X | 1] too; Z is zero where a unit was off in
all steps. So the sum of clients' updates after local training gives all records of all clients.

Threat model: anyone who sees the sum or mean of the gradients or changes of a first linear layer with a bias before a
ReLU, including an honest server under secure aggregation or encryption. It need not know the model.

What defeats it: noise of the size of a gradient's entries; more records than about a tenth of the layer's units;
convolutions; a network in which most units are on for most records; large steps. With one or two outputs, every slope
is the same vector wherever its unit is on, so differences of records are as sparse as records. The attack then sees
that several explanations fit, and returns none.

Source: Dimitrov, Baader, Müller, Vechev, *SPEAR: Exact Gradient Inversion of Batches in Federated Learning*, NeurIPS
2024, which samples rows instead of descending, so its cost doubles with each record; Sun, Qu, Wright, *Complete
Dictionary Recovery over the Sphere*, IEEE Transactions on Information Theory 2017 (the descent).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secfed.attacks.linear import layer_gradient
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Most records tried: with more, no setting succeeded in our tests, and a start costs a second.
_MOST_RECORDS = 64
_BATCH = 64  # starts that descend together
# The smooth descent: its steps, and how the smoothing, relative to a row's typical value, shrinks with each.
_STEPS, _SHRINKING = 100, 0.98
# Reweighted least squares: how often, the first smoothing, and how it shrinks.
_SOLUTIONS, _SMOOTHING, _FASTER = 20, 0.2, 0.6
# An entry is zero if it is below this many standard deviations of the noise.
_DEVIATIONS = 5.0
# A row with a leverage above this fixes some part of a direction alone, or with one other row.
_MOST_LEVERAGE = 0.45
# Least share of the other zero rows' mean square that every direction except one must have.
_LEAST_SPREAD = 0.02
# The largest share of a layer's units for which an input and its slopes may disagree: further local steps turn units on
# or off (up to 12 % in three epochs), and rounding hides small slopes. In wrong answers, some record had 45 % or more.
_MOST_DISAGREEMENT = 0.15
# The weakest record's singular value must be at least this many times the largest one of noise alone.
_LEAST_STRENGTH = 1.2
# Rounding of doubles, relative to the longest row.
_ROUNDING = 1e-14


@dataclass(frozen=True, slots=True)
class ExactInputs:
    """What was found.

    Attributes:
        inputs: Shape `(records, inputs)`, in no particular order; no rows if the attack failed.
        residual: Relative distance of the gradient of these inputs from the one seen; 1 if the attack failed. After a
            success it is the rounding in what was seen.
        records: Number of records that the attack assumed.
        attempts: Random starts used.
    """

    inputs: Array = field(repr=False)
    residual: float
    records: int
    attempts: int

    @property
    def found(self) -> bool:
        """Whether the attack succeeded."""
        return len(self.inputs) > 0


def exact_inputs(
    weight_gradient: npt.ArrayLike,
    bias_gradient: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    biases: npt.ArrayLike | None = None,
    records: int | None = None,
    noise: float | None = None,
    attempts: int = 4096,
    seed: int = 0,
) -> ExactInputs:
    """Find the inputs of all records behind a sum of gradients of a linear layer before a ReLU.

    Args:
        weight_gradient: Gradient or change of the weights, any multiple of the sum, shape `(outputs, inputs)`.
        bias_gradient: That of the biases, shape `(outputs,)`.
        weights: The layer's weights before the gradient was taken, shape `(outputs, inputs)`; None if unknown. The
            server of a federation knows them.
        biases: Its biases, shape `(outputs,)`; needed if `weights` is given.
        records: Number of records in the sum; None: estimated from the largest gap of the singular values.
        noise: Standard deviation of the rounding in an entry; None: estimated from the smaller singular values.
        attempts: Random starts before the attack gives up.
        seed: Seed of the random starts.

    Returns:
        Inputs for all records, or none. Failure is not an error. Without `weights` the inputs can be wrong, especially
        on trained networks. With `weights` the attack checks that each input turns on exactly the units in which it
        left a slope, with up to 15 % exceptions. It repairs inputs that fail, and returns none if it cannot. Then the
        answer is wrong only if records turn on almost the same units.

    Raises:
        ConfigError: The shapes do not match, a value is not finite, the gradient is zero, only one of `weights` and
            `biases` is given, or a parameter is out of range.
    """
    seen = _checked(weight_gradient, bias_gradient)
    layer = _layer(weights, biases, seen)
    if records is not None and records < 1:
        raise ConfigError(f"{records} records: needed at least 1")
    if attempts < 1:
        raise ConfigError(f"{attempts} attempts: needed at least 1")
    if noise is not None and not 0 <= noise < np.inf:
        raise ConfigError(f"noise {noise} must be a finite number, at least 0")
    empty = np.zeros((0, seen.shape[1] - 1))
    # Units that no record turned on and inputs that are zero in all records carry no information and no rounding.
    units = np.abs(seen).max(axis=1) > 0
    columns = np.abs(seen).max(axis=0) > 0
    product = seen[np.ix_(units, columns)]
    least = _ROUNDING * float(np.linalg.norm(product, axis=1).max())
    _, values, right = np.linalg.svd(product, full_matrices=False)
    count = _rank(values, least) if records is None else records
    if count > min(*product.shape, _MOST_RECORDS):
        return ExactInputs(empty, 1.0, count, 0)
    if noise is None:
        rest = (product.shape[0] - count) * (product.shape[1] - count)
        noise = float(np.sqrt((values[count:] ** 2).sum() / max(rest, 1)))
    # A record weaker than the strongest direction of the rounding cannot be distinguished from it.
    if values[count - 1] < _LEAST_STRENGTH * noise * (np.sqrt(product.shape[0]) + np.sqrt(product.shape[1])):
        return ExactInputs(empty, 1.0, count, 0)
    search = _Search(product @ right[:count].T, max(noise, least), np.random.default_rng(seed))
    slopes = search.run(attempts)
    expected = max(noise, least) * np.sqrt(product.size) / float(np.linalg.norm(product))
    best, fewest = ExactInputs(empty, 1.0, count, search.attempts), np.inf
    for _ in range(count + 1):  # each repair fixes at least one record
        if slopes is None:
            break
        if noise > least:
            slopes = _refined(product, slopes)
        found = np.linalg.lstsq(slopes, product, rcond=None)[0]
        residual = float(np.linalg.norm(product - slopes @ found) / np.linalg.norm(product))
        # The last column is of ones, times the factor of each record.
        if not (columns[-1] and residual < 2 * expected and (np.abs(found[:, -1]) > 0).all()):
            break
        inputs = np.zeros((count, len(columns)))
        inputs[:, columns] = found / found[:, -1:]
        on = np.zeros((len(units), count), bool) if layer is None else layer @ inputs.T > 0
        wrong = np.zeros(count) if layer is None else _disagreement(on, units, slopes)
        if wrong.max() <= _MOST_DISAGREEMENT and wrong.sum() < fewest:
            best, fewest = ExactInputs(inputs[:, :-1], residual, count, search.attempts), wrong.sum()
        slopes = search.repaired(slopes, on[units], wrong) if wrong.any() else None
    return best


class _Search:
    """The search for sparse combinations of columns.

    Args:
        rows: The matrix A, shape `(outputs, records)`, in coordinates where rounding is the same in all directions.
        noise: Standard deviation of an entry.
        random: Source of the starts: not a secret.
    """

    def __init__(self, rows: Array, noise: float, random: np.random.Generator) -> None:
        self._rows, self._random = rows, random
        self.attempts = 0
        # Rows of equal length, so that a few units with large weights do not dominate, and orthonormal columns.
        self._lengths = np.sqrt((rows**2).sum(axis=1) + rows.shape[1] * noise**2)
        self._even, self._back = np.linalg.qr(rows / self._lengths[:, None])
        self._limit = _DEVIATIONS * noise  # smaller entries are zero
        self._directions = np.zeros((0, rows.shape[1]))  # found, in coordinates of the even rows, of length 1
        self._slopes: list[Array] = []

    def run(self, attempts: int) -> Array | None:
        """Return Z^T up to a factor for each column, shape `(outputs, records)`; None if it was not found."""
        count = self._rows.shape[1]
        if count == 1:
            return self._rows
        if np.linalg.cond(self._back) > 1e12:  # fewer records than the caller stated
            return None
        batch = 0
        while self.attempts < attempts:
            starts = min(_BATCH, attempts - self.attempts)
            self.attempts += starts
            ends = self._without_one(starts) if batch % 3 and self._slopes else self._among_all(starts)
            batch += 1
            if count == 2:
                ends = np.array([*ends, *self._lines(np.eye(2))])
            for direction in ends:
                for candidate in (direction, *self._pair(direction)):
                    known = (np.abs(self._directions @ _unit(candidate)) > 0.9999).any()
                    slope = None if known else self._solved(candidate)
                    if slope is not None and not self._added(slope):
                        return None
            if len(self._slopes) == count:
                return None if self._hidden() else np.stack(self._slopes, axis=1)
        return None

    def repaired(self, slopes: Array, on: Bools, wrong: Array) -> Array | None:
        """Return the slopes, with those of wrong records solved from the units that they turn off; None if none fits.

        If one slope is a mixture of two, its own input is right and the other's is wrong. The units that its input
        turns off then give the slope that is not mixed.
        """
        slopes, changed = slopes.copy(), False
        for record in np.flatnonzero(wrong):
            off = ~on[:, record]
            if off.sum() < slopes.shape[1] - 1:
                continue
            slope = self._rows @ np.linalg.svd(self._rows[off])[2][-1]
            zero = np.abs(slope) < self._limit
            if np.mean(zero != off) > _MOST_DISAGREEMENT / 10:  # rounding hides some
                continue
            slope[zero] = 0.0
            slopes[:, record], changed = slope, True
        return slopes if changed and np.linalg.cond(slopes / np.linalg.norm(slopes, axis=0)) < 1e12 else None

    def _among_all(self, starts: int) -> Array:
        """Return where searches end, half of them from starts that are orthogonal to what was found."""
        guess = self._random.normal(size=(starts, self._rows.shape[1]))
        if 0 < len(self._directions) < self._rows.shape[1]:
            basis = np.linalg.qr(self._directions.T)[0]
            guess[::2] -= guess[::2] @ basis @ basis.T
        return _distinct(_descended(self._even, guess), self._directions, 0.9999)

    def _without_one(self, starts: int) -> Array:
        """Return where searches end that use only the rows in which a found record is off.

        The record has no part in them, so the minima between it and others of its label are gone. The ends are known up
        to a multiple of it: `_pair` finds which.
        """
        one = int(self._random.integers(len(self._slopes)))
        known = self._directions[one]
        complement = np.linalg.qr(np.column_stack((known, np.eye(len(known)))))[0][:, 1:]
        rows = self._even[self._slopes[one] == 0] @ complement
        if len(rows) < 2 * len(known) or complement.shape[1] < 2:
            return self._among_all(starts)
        even, back = np.linalg.qr(rows)
        if np.linalg.cond(back) > 1e6:
            return self._among_all(starts)
        ends = _descended(even, self._random.normal(size=(starts, even.shape[1])))
        return _unit(np.linalg.solve(back, ends.T).T @ complement.T)

    def _pair(self, direction: Array) -> list[Array]:
        """Return the two records' directions behind a combination of two; empty if it is not one.

        Records of one label have minima between them, which are zero where both are off. The rows that are off for both
        leave a plane; in it, the rows that only one of them turned on are multiples of one vector.
        """
        size = np.abs(self._even @ direction)
        zero = np.flatnonzero(size < 1e-3 * size.mean())
        for _ in range(6):
            if len(zero) < len(direction):
                return []
            values, vectors = np.linalg.eigh(self._even[zero].T @ self._even[zero])
            if values[1] < 1e-9:
                break
            along = np.abs(self._even[zero] @ vectors[:, 1])
            if along.max() ** 2 < 0.2 * values[1]:  # no single row dominates
                return []
            zero = np.delete(zero, along.argmax())
        else:
            return []
        return self._lines(vectors[:, :2])

    def _lines(self, plane: Array) -> list[Array]:
        """Return the directions in a plane, columns of shape `(records, 2)`, zero in most rows: three at most."""
        seen = self._even @ plane
        seen = _unit(seen[np.linalg.norm(seen, axis=1) > 1e-4 * np.linalg.norm(self._even, axis=1)])
        found: list[Array] = []
        while len(seen) and len(found) < 3:
            across = np.abs(np.outer(seen[:, 0], seen[:, 1]) - np.outer(seen[:, 1], seen[:, 0])) < 1e-4
            most = int(across.sum(axis=1).argmax())
            found.append(plane @ np.array([-seen[most, 1], seen[most, 0]]))
            seen = seen[~across[most]]
        return found

    def _hidden(self) -> bool:
        """Return whether a combination of two results is as sparse as one of them, so that several explanations fit."""
        for first, one in enumerate(self._slopes):
            for second, other in enumerate(self._slopes):
                both = (one != 0) & (other != 0)
                if first == second or not both.any():
                    continue
                ratios = np.sort(one[both] / other[both])
                limit = self._limit * (1 + np.abs(ratios)) / np.median(np.abs(other[both]))
                width = 2 * (limit + 1e-7 * np.abs(ratios))
                most = (np.searchsorted(ratios, ratios + width, side="right") - np.arange(len(ratios))).max()
                if most > max(4.0, 0.9 * int(((one == 0) & (other != 0)).sum())):
                    return True
        return False

    def _solved(self, direction: Array) -> Array | None:
        """Return the combination solved from its zero rows, with exact zeros there; None if it is not sparse."""
        size = np.abs(self._even @ direction)
        combination = np.linalg.solve(self._back, direction)
        limit = self._limit * float(np.linalg.norm(combination))
        near = np.flatnonzero((size < 1e-3 * size.mean()) | (np.abs(self._rows @ combination) < limit))
        # Keep the closest two thirds: the others may be close to zero by chance.
        near = near[np.argsort(size[near], kind="stable")][: max(2 * len(near) // 3, len(combination) - 1)]
        zero = np.zeros(len(size), bool)
        zero[near] = True
        for _ in range(3):
            if zero.sum() < len(combination) - 1:
                return None
            few = bool(zero.sum() < len(combination))  # full only if needed: all left vectors are costly
            combination = np.linalg.svd(self._rows[zero], full_matrices=few)[2][-1]
            slope = self._rows @ combination
            zero = np.abs(slope) < self._limit
        # Expected number of entries of an arbitrary direction that are zero by chance, on top of the n - 1 of any
        # vertex.
        chance = len(slope) * self._limit / float(np.sqrt((slope**2).mean()))
        if zero.sum() < len(combination) + 2 + chance + 5 * np.sqrt(chance):
            return None
        # A combination of two records is zero where both are off, and can be made zero in any one further row. So the
        # zero rows must fix the direction even without the few that alone fix some part of it.
        rows = self._even[zero]
        for _ in range(2):
            left = np.linalg.svd(rows, full_matrices=False)[0][:, :-1]
            rows = rows[(left**2).sum(axis=1) < _MOST_LEVERAGE]
            if len(rows) < len(combination):
                return None
        second = np.linalg.svd(rows, compute_uv=False)[-2] ** 2
        if second * len(zero) < _LEAST_SPREAD * len(rows):
            return None
        slope[zero] = 0.0
        return np.asarray(slope, np.float64)

    def _added(self, slope: Array) -> bool:
        """Add a combination; return whether all are still independent."""
        direction = _unit((slope / self._lengths) @ self._even)
        if len(self._directions):
            if np.abs(self._directions @ direction).max() > 0.999:
                return True
            basis = np.linalg.qr(self._directions.T)[0]
            if np.linalg.norm(direction - basis @ (basis.T @ direction)) < 0.01:
                return False
        self._directions = np.vstack((self._directions, direction))
        self._slopes.append(slope)
        return True


def _descended(even: Array, guess: Array) -> Array:
    """Return the different ends of searches, shape `(ends, records)`.

    Args:
        even: The rows, with orthonormal columns.
        guess: The starts, shape `(starts, records)`.
    """
    guess = _unit(guess)
    smoothing = 1 / np.sqrt(len(even))  # a typical entry of a column of length 1
    for _ in range(_STEPS):
        values = guess @ even.T
        slope = (values / np.sqrt(values**2 + smoothing**2)) @ even / np.sqrt(len(even))
        slope -= (slope * guess).sum(axis=1, keepdims=True) * guess
        guess = _unit(guess - slope)
        smoothing *= _SHRINKING
    none = guess[:0]
    guess = _distinct(guess, none, 0.99)
    relative = _SMOOTHING
    for _ in range(_SOLUTIONS):
        values = guess @ even.T
        typical = np.abs(values).mean(axis=1, keepdims=True)
        weights = (values**2 + (relative * typical) ** 2) ** -0.75
        squares = (even.T * weights[:, None, :]) @ even
        guess = _unit(np.linalg.solve(squares, guess[:, :, None])[:, :, 0])
        relative *= _FASTER
    return _distinct(guess, none, 0.9999)


def _refined(product: Array, slopes: Array) -> Array:
    """Return the slopes that explain the product best, with the same zeros, which reduces the effect of rounding."""
    used = slopes != 0
    for _ in range(3):
        found = np.linalg.lstsq(slopes, product, rcond=None)[0]
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        squares, fits = found @ found.T, product @ found.T
        slopes = np.zeros(slopes.shape)
        for unit, on in enumerate(used):
            slopes[unit, on] = np.linalg.lstsq(squares[np.ix_(on, on)], fits[unit, on], rcond=None)[0]
    return slopes


def _rank(values: Array, least: float) -> int:
    """Return the number of singular values before the largest gap."""
    values = np.maximum(values, least)
    if len(values) == 1:
        return 1
    return int(np.argmax(values[:-1] / values[1:])) + 1 if values[-1] * 2 < values[0] else len(values)


def _disagreement(on: Bools, units: Bools, slopes: Array) -> Array:
    """Return each record's share of units that are on without a slope, or off with one; `slopes` are of `units`."""
    left = np.zeros(on.shape, bool)
    left[units] = slopes != 0
    return np.asarray((left != on).mean(axis=0), np.float64)


def _unit(vectors: Array) -> Array:
    found: Array = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found


def _distinct(directions: Array, known: Array, most: float) -> Array:
    """Return the directions that differ from each other and from the known ones, up to the sign."""
    alike = np.abs(directions @ np.vstack((known, directions)).T) > most
    earlier = np.tri(len(directions), k=-1, dtype=bool)
    repeated = alike[:, : len(known)].any(axis=1) | (alike[:, len(known) :] & earlier).any(axis=1)
    return np.asarray(directions[~repeated], np.float64)


def _checked(weight_gradient: npt.ArrayLike, bias_gradient: npt.ArrayLike) -> Array:
    """Return both as one matrix, the biases last."""
    weights, biases = layer_gradient(weight_gradient, bias_gradient)
    if not weights.size:
        raise ConfigError(f"the weights' gradient has shape {weights.shape}, needed at least one output and one input")
    seen = np.hstack((weights, biases[:, None]))
    if not seen.any():
        raise ConfigError("the gradient is zero everywhere: no unit was on, so the inputs left no trace")
    return seen


def _layer(weights: npt.ArrayLike | None, biases: npt.ArrayLike | None, seen: Array) -> Array | None:
    """Return the layer's weights and biases as one matrix of the gradient's shape; None if they are unknown."""
    if weights is None and biases is None:
        return None
    if weights is None or biases is None:
        raise ConfigError("found only one of the layer's weights and biases: needed both, or none of them")
    known = np.column_stack(layer_gradient(weights, biases))
    if known.shape != seen.shape:
        raise ConfigError(
            f"the layer has {known.shape[0]} outputs and {known.shape[1] - 1} inputs, needed those of the gradient, "
            f"{seen.shape[0]} and {seen.shape[1] - 1}"
        )
    return known
