"""K(t), the moments of a composition at real orders: they choose the contour and bound what it misses."""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from scipy.special import erfcx, ndtr

from secfed.dp.contour.nodes import Nodes
from secfed.dp.contour.privacy_loss import ROUNDOFF, Laws, Reals
from secfed.dp.contour.quadrature import REAL_TOLERANCE, all_nodes, grids, most_nodes

# Most nodes of one law.
MOST_NODES = 20_000
# Nodes of a composition that cost little more than the calls to place them.
_FEW_NODES = 400
# Ratio of neighboring orders on the grid, and the most orders above and below the first.
_RATIO = 2.0**0.5
_HIGHEST, _LOWEST = 200, 40


class NoOrderError(Exception):
    """Every order needs too many nodes, so engines that use moments have no answer."""


@dataclass(frozen=True, slots=True)
class Releases:
    """A composition: sampled releases, and the summed mu^2 of all unsampled Gaussian ones.

    Attributes:
        laws: Sampled releases, by direction.
        gaussian: Sum of 1 / noise^2.
    """

    laws: tuple[Laws, ...]
    gaussian: float

    @property
    def variation(self) -> float:
        """Bound delta(0): the sum of the releases' total variations; above 0."""
        sums = [2 * float(ndtr(np.sqrt(self.gaussian) / 2)) - 1]
        for part in self.laws:
            shift = 2.0 if part.direction == "replace" else 1.0
            sums.append(float(part.count @ (part.rate * (2 * ndtr(shift / 2 / part.noise) - 1))))
        return max(sum(sums) * (1 + 1e-12), 1e-300)

    @property
    def unsampled(self) -> float:
        """Return mu of unsampled Gaussian releases that reveal at least as much; above 0.

        Each distribution of a sampled pair mixes the unsampled one (weight `rate`) with one that both share, and delta
        is jointly convex in the two. If each release is dominated, so is the composition.
        """
        square = self.gaussian
        for part in self.laws:
            shift = 2.0 if part.direction == "replace" else 1.0
            square += float(part.count @ (shift / part.noise) ** 2)
        return float(np.sqrt(square)) * (1 + 1e-12)

    def most_nodes(self, order: float, frequency: float = 0.0) -> int:
        """Return the most nodes that any law needs for moments up to a real and an imaginary part."""
        return max((most_nodes(laws, order, frequency) for laws in self.laws), default=0)

    def joined(self, extra: "Releases", times: float) -> "Releases":
        """Return this composition followed by `times` copies of another."""
        parts = tuple(Laws(part.direction, part.rate, part.noise, part.count * times) for part in extra.laws)
        return Releases(self.laws + parts, self.gaussian + extra.gaussian * times)


class RealNodes:
    """Nodes of a composition for moments at real orders. If they are few, they are kept and serve lower orders too."""

    def __init__(self, releases: Releases) -> None:
        self._releases, self._kept = releases, list[Nodes]()

    def up_to(self, order: float, rows: int) -> Iterable[Nodes]:
        """Place nodes for orders up to one; `rows` as in `quadrature.grids`."""
        if not self.kept(order):
            placed = (
                found for laws in self._releases.laws for found in grids(laws, order, 0.0, REAL_TOLERANCE, rows=rows)
            )
            if not self.few(order):
                return placed
            self._kept = list(placed)
        return self._kept

    def kept(self, order: float) -> bool:
        """Return whether the nodes that are kept serve an order."""
        return bool(self._kept) and order <= self._kept[0].order

    def few(self, order: float) -> bool:
        """Return whether there are few nodes for an order."""
        return sum(all_nodes(laws, order, 0.0, REAL_TOLERANCE, 1.0) for laws in self._releases.laws) <= _FEW_NODES


def log_chernoff(order: Reals) -> Reals:
    """Return log of max over x of (1 - e^-x)+ e^-tx: delta <= that times exp(K(t) - t epsilon)."""
    return np.asarray(-np.log1p(order) - order * np.log1p(1 / order))  # nothing cancels


def chernoff(columns: Reals, log_delta: float | None, epsilon: float | Reals | None) -> Reals:
    """Return Chernoff's bound on epsilon, or on the logarithm of delta, at each order.

    Args:
        columns: The orders, and K at each; shape `(2 or more, m)`, or `(2, rows, m)` for several compositions.
        log_delta: Logarithm of delta, to bound epsilon.
        epsilon: To bound delta, when `log_delta` is None; a number, or of shape `(rows, 1)`.
    """
    tilt = columns[0] * epsilon if log_delta is None and epsilon is not None else 0.0
    # At huge orders, which losses with a maximum have, rounding counts.
    rounding = 16 * ROUNDOFF * (np.abs(columns[1]) + tilt)
    exponent = columns[1] - tilt + log_chernoff(columns[0]) + rounding
    return np.asarray(exponent if log_delta is None else (exponent - log_delta) / columns[0])


@dataclass(frozen=True, slots=True)
class Moments:
    """K, its slope and its curvature on a grid of orders, shape `(m,)` each, ascending.

    Attributes:
        order: t.
        log: K(t).
        mean: K'(t), the mean of the tilted loss.
        variance: K''(t), its variance.
        nodes: Nodes that were placed for sampled Gaussian releases.
    """

    order: Reals
    log: Reals
    mean: Reals
    variance: Reals
    nodes: RealNodes | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, releases: Releases, log_delta: float | None, epsilon: float | None, enough: float = -np.inf
    ) -> "Moments":
        """Evaluate a composition on a grid of orders around the best of Chernoff's bounds; see `around_best`.

        Raises:
            NoOrderError: No order is cheap enough.
        """
        squares = sum(float((part.count * part.spread_of_loss**2).sum()) for part in releases.laws)
        start = 0.3 / float(np.sqrt(squares + releases.gaussian))
        nodes, tops = RealNodes(releases), start * _RATIO ** np.arange(14.0)
        # Usually the best order is among the first 14: one step in place of three, unless large orders cost much more.
        many = next((many for many in (14, 10) if nodes.few(float(tops[many - 1]))), 6)
        columns_at = partial(_cheap_columns, releases, nodes)
        return replace(cls.around_best(columns_at, start, log_delta, epsilon, enough, many), nodes=nodes)

    @classmethod
    def around_best(
        cls,
        columns_at: Callable[[Reals], Reals],
        start: float,
        log_delta: float | None,
        epsilon: float | None,
        enough: float = -np.inf,
        many: int = 6,
    ) -> "Moments":
        """Extend a grid of orders until Chernoff's bound is best inside it, or good enough.

        Args:
            columns_at: Returns orders, K, mean and variance, shape `(4, m)`, for ascending orders; it leaves out the
                largest ones where they are too much work.
            start: The order to start from.
            log_delta: Logarithm of delta, where epsilon is asked.
            epsilon: Used where there is no delta.
            enough: A bound that is good enough.
            many: How many orders to evaluate at first.

        Raises:
            NoOrderError: No order is cheap enough.
        """
        first, last, highest = 0, many, _HIGHEST
        columns = columns_at(start * _RATIO ** np.arange(float(first), last))
        while columns.shape[1] == 0:
            if first < -_LOWEST:
                raise NoOrderError
            first, last = first - 6, first
            columns = columns_at(start * _RATIO ** np.arange(float(first), last))
        while True:
            orders, bound = columns[0], chernoff(columns, log_delta, epsilon)
            best = int(np.argmin(bound))
            if bound[best] <= enough:
                return cls(*columns)
            if len(orders) - best <= 5 and last < highest:
                piece = columns_at(start * _RATIO ** np.arange(float(last), last + 4))
                last = last + 4 if piece.shape[1] == 4 else highest
                columns = np.concatenate([columns, piece], axis=1)
            elif best < 3 and first > -_LOWEST:
                piece = columns_at(start * _RATIO ** np.arange(first - 6.0, first))
                first -= 6
                columns = np.concatenate([piece, columns], axis=1)
            else:
                break
        # Moments explode where rare participation dominates: refine the grid around the best order.
        near = orders[max(best - 2, 0) : best + 3]
        close = (near[:-1, None] * (near[1:, None] / near[:-1, None]) ** (np.arange(1, 4) / 4)).ravel()
        columns = np.concatenate([columns, columns_at(close)], axis=1)
        return cls(*columns[:, np.argsort(columns[0])])

    @classmethod
    def at(cls, releases: Releases, orders: Reals) -> "Moments":
        """Evaluate at given orders, all of which must be small enough."""
        return cls(*_columns(releases, RealNodes(releases), orders))

    def exponent(self, epsilon: float) -> Reals:
        """Return the log of Chernoff's bound on delta at each order."""
        return chernoff(np.array([self.order, self.log]), None, epsilon)

    def epsilon_bound(self, log_delta: float) -> float:
        """Return Chernoff's bound on epsilon, as in Renyi differential privacy."""
        return float(chernoff(np.array([self.order, self.log]), log_delta, None).min())

    def saddle(self) -> tuple[Reals, Reals]:
        """Estimate one (epsilon, log delta) pair per order from a tilted normal: a starting point, not a bound."""
        scale = np.sqrt(self.variance / 2)
        size = 0.5 * (erfcx(self.order * scale) - erfcx((self.order + 1) * scale))
        return self.mean, self.log - self.order * self.mean + np.log(np.maximum(size, 1e-300))

    def epsilon_guess(self, log_delta: float) -> float:
        """Estimate epsilon at a delta: a starting point, not a bound."""
        means, logs = self.saddle()
        ranked = np.argsort(-logs)
        return float(np.interp(-log_delta, -logs[ranked], means[ranked]))

    def log_delta_guess(self, epsilon: float) -> float:
        """Estimate the log of delta at an epsilon: a starting point, not a bound."""
        means, logs = self.saddle()
        ranked = np.argsort(means)
        return float(np.interp(epsilon, means[ranked], logs[ranked]))


def _cheap_columns(releases: Releases, nodes: RealNodes, orders: Reals) -> Reals:
    """Return the orders, K, and the tilted loss's mean and variance at each; shape `(4, m)`.

    Leave out orders so large that rare participation makes up the whole moment: they give no useful bound.
    """
    last = float(orders[-1]) if len(orders) else 0.0
    if not nodes.kept(last) and releases.most_nodes(last) > MOST_NODES:
        orders = orders[: bisect_right(orders.tolist(), MOST_NODES, key=releases.most_nodes)]
    return _columns(releases, nodes, orders)


def _columns(releases: Releases, nodes: RealNodes, orders: Reals) -> Reals:
    gaussian = releases.gaussian
    columns = np.array([orders, gaussian * orders * (orders + 1) / 2, gaussian * (orders + 0.5), gaussian + 0 * orders])
    for found in nodes.up_to(float(orders[-1]), len(orders)) if len(orders) else ():
        columns[1:] += np.array(found.moments(orders)) @ found.laws.count
    return columns
