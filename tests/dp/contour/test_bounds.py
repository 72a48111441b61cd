"""Each bound of sections 4 and 5 of `docs/accountant.md` holds against integrals in ball arithmetic.

A test of a bound takes the largest ratio of an error to its bound over many contours: it must not exceed 1, and it
must not be tiny, or the bound would say nothing.
"""

import numpy as np
import pytest
from flint import acb, arb

from secfed.dp.contour import fixed_size
from secfed.dp.contour.nodes import Cut, Nodes, place
from secfed.dp.contour.privacy_loss import Direction
from secfed.dp.contour.quadrature import grids
from tests.dp.contour.cases import DIRECTIONS, Case, case
from tests.dp.contour.exact import Exact, many_bits

SEEDS = [pytest.param(range(2), id="few"), pytest.param(range(2, 24), id="many", marks=pytest.mark.slow)]
every_direction = pytest.mark.parametrize("direction", DIRECTIONS)
directions_with_cuts = pytest.mark.parametrize("direction", ["remove", "replace", "fixed_size"])
seeds = pytest.mark.parametrize("seeds", SEEDS)


def number(ball: arb) -> float:
    return float(ball.mid())


class Grid:
    """The nodes of a release in ball arithmetic: as many as have any mass, on both sides of those placed."""

    def __init__(self, exact: Exact, nodes: Nodes) -> None:
        self.exact, self.nodes, self.step = exact, nodes, arb(float(nodes.step[0]))
        if isinstance(nodes, fixed_size.PairNodes):
            self.scale = arb(float(nodes.scale[0]))
            # r of the first node: what x is there says it to rounding, and where the grid begins hardly matters.
            first = (((arb(float(self.positive[0])) - arb(0.5)) / self.scale).expm1()).log()
            self.first, self.count = first, len(self.positive)
        else:
            self.first = self.step * round(float(nodes.points[0, 0] / nodes.step[0]))
            self.count = nodes.points.shape[1]

    @property
    def positive(self) -> np.ndarray:
        return np.asarray(self.nodes.points[0, self.nodes.points[0] > 0])

    def value(self, i: int, z: acb, weight: object = None) -> acb:
        """The term of one node; its number may be outside."""
        at = self.first + self.step * i
        if self.exact.direction != "fixed_size":
            x, slope = at, arb(1)
            term = self.exact.terms(acb(x), z)[0]
        else:
            x, slope = arb(0.5) + self.scale * at.exp().log1p(), self.scale / (1 + (-at).exp())
            log = self.exact.mixture(acb(x)).log()
            if weight is None:
                term = self.exact.density(acb(x)) * (((z + 1) * log).exp() - 1) * (1 - (-z * log).exp())
            else:
                term = self.exact.terms(acb(x), z)[0]
        return term * (self.step * slope) * (weight(x) if callable(weight) else 1)

    def outside(self, z: acb) -> tuple[acb, acb]:
        """The sums of what lies left and right of the nodes placed."""
        ends = []
        for start, sign in ((-1, -1), (self.count, 1)):
            total, i, last = acb(0), start, arb(0)
            while True:
                term = self.value(i, z)
                total, i = total + term, i + sign
                if abs(term) < abs(total) * arb(10) ** -12 and abs(term) <= last:
                    break
                last = abs(term)
            ends.append(total)
        return ends[0], ends[1]

    def inside(self, z: acb, weight: object = None) -> acb:
        """The sum over the nodes placed."""
        atom = acb(1) if self.exact.direction == "fixed_size" and weight is None else acb(0)
        return sum((self.value(i, z, weight) for i in range(self.count)), atom)


def shorter(nodes: Nodes, share: float) -> Nodes:
    """Return nodes of the same step that end earlier on the right, and on the left."""
    order, law = nodes.order, nodes.laws
    if isinstance(nodes, fixed_size.PairNodes):
        x = nodes.points[0, nodes.points[0] > 0]
        r = np.log(np.expm1((x - 0.5) / nodes.scale))
        start, end = r[0] * share, np.log(np.expm1((x[-1] - 0.5) * share / nodes.scale[0]))
        size = 2 * max(3, int((end - start) / nodes.step[0])) + 1
        return fixed_size.place(law, np.array([start]), np.array([end]), size, order, nodes.frequency)
    start, stop = nodes.points[:, 0] * share, nodes.points[:, -1] * share
    size = int((stop[0] - start[0]) / nodes.step[0]) + 2
    return place(law, start, stop, size, order)


@every_direction
@seeds
def test_what_lies_beyond_the_nodes_is_bounded(direction: Direction, seeds: range) -> None:
    ratios = []
    for seed in seeds:
        one = case(direction, seed)
        with many_bits():
            log = one.exact.log_moment(one.order)
            for share in (0.1, 0.2, 0.5, 1.0):
                nodes = shorter(one.nodes(), share)
                bound = float(nodes.truncation(one.order, np.array([number(log)]))[0])
                left, right = Grid(one.exact, nodes).outside(acb(one.order))
                ratios.append(number(abs(left + right) / log.exp() / bound))
    assert max(ratios) <= 1 and max(ratios) > 0.1


@every_direction
@seeds
def test_the_trapezoid_rule_is_as_exact_as_its_bound_says(direction: Direction, seeds: range) -> None:
    ratios = []
    for seed in seeds:
        one = case(direction, seed)
        for tolerance, top in ((1.0, one.top), (1e-3, one.top), (1e-12, one.top), (1.0, 0.0), (1e-3, 0.0)):
            [nodes] = grids(one.laws, one.order, top, tolerance * float(one.laws.count[0]))
            bound = float(nodes.discretization(one.order, top)[0])
            assert bound <= 10 * tolerance
            with many_bits():
                grid, scale = Grid(one.exact, nodes), one.exact.moment(complex(one.order)).real
                for u in {0.0, top / 3, top}:
                    z = complex(one.order, u)
                    truth = one.exact.moment(z, scale)
                    found = grid.inside(acb(z.real, z.imag)) + sum(grid.outside(acb(z.real, z.imag)))
                    ratios.append(number(abs(found - truth) / scale / bound))
    assert max(ratios) <= 1 and max(ratios) > 1e-3


def cuts(one: Case) -> list[tuple[float, float]]:
    """Losses and sharpnesses: those of the path, or some that it might have had."""
    if one.path.cut is not None:
        return [(one.path.cut, one.path.stretch)]
    return [(one.epsilon * 0.5, 17.0), (one.epsilon * 0.02, 257.0)]


@directions_with_cuts
@seeds
def test_the_trapezoid_rule_is_as_exact_where_a_law_is_cut(direction: Direction, seeds: range) -> None:
    ratios = []
    for seed in seeds:
        one = case(direction, seed)
        for loss, stretch in cuts(one):
            nodes = one.nodes(1e-4 * float(one.laws.count[0]), stretch)
            if nodes.loss.shape[1] > 4000:
                continue
            cut = Cut.at(nodes, loss, stretch)
            bound = float(nodes.discretization(one.order, one.top, stretch)[0])
            place, width = float(cut.position[0]), float(one.laws.noise[0]) / np.sqrt(stretch - 1)
            assert bound <= 1e-3
            with many_bits():
                scale = one.exact.moment(complex(one.order)).real

                def weight(x: arb, place: float = place, width: float = width) -> arb:
                    return (-(x - place) / arb(width) / arb(2).sqrt()).erfc() / 2

                z = complex(one.order, one.top)
                truth = one.exact.beyond_cut(z, place, width, scale)
                found = Grid(one.exact, nodes).inside(acb(z.real, z.imag), weight)
                ratios.append(number(abs(found - truth) / scale / bound))
    assert max(ratios) <= 1


@every_direction
@seeds
def test_moments_fade_at_least_as_their_bound_says(direction: Direction, seeds: range) -> None:
    gaps, slack = [], []
    for seed in seeds:
        one = case(direction, seed)
        nodes = one.nodes()
        moment = nodes.moments(np.array([one.order]))[0][0]
        tilted = np.exp(nodes.mass + one.order * nodes.loss - moment[:, None])
        for least in (one.top, one.top / 8):
            bound = float(nodes.decay(tilted, one.order, least)[0])
            assert bound <= 0
            with many_bits():
                scale = one.exact.moment(complex(one.order)).real
                logs = [
                    number((abs(one.exact.moment(complex(one.order, least * f), scale)) / scale).log())
                    for f in (1.0, 1.2, 3.0)
                ]
            gaps.append(max(logs) - bound)
            slack.append(bound / logs[0])
    # Rounding of sums that differ from 1 by little.
    assert max(gaps) <= 1e-15 and max(slack) > 0.2


@pytest.mark.parametrize("count", [7, 150, 1500])
def test_squares_of_close_copies_are_bounded_from_below(count: int) -> None:
    rng = np.random.default_rng(count)
    losses = np.sort(rng.normal(size=count) * 10 ** rng.uniform(-4, 0, count))
    masses = rng.uniform(size=count)
    masses /= masses.sum()
    losses -= masses @ losses
    away = np.abs(losses[:, None] - losses)
    powers = range(-3, 20)
    found = fixed_size._Copies(losses[None], masses[None]).squares(powers)[0]
    for power, bound in zip(powers, found.tolist(), strict=True):
        exact = float(masses @ np.where(away <= 1.5**-power, away**2, 0.0) @ masses)
        assert bound <= exact * (1 + 1e-12)
        if power < 0 and count > 100:
            assert bound > 0.7 * exact
    # Equal losses have no distance, and rounding gives them none.
    assert fixed_size._Copies(np.full((1, count), 1e-9), masses[None]).squares([0, 40])[0].max() <= 0


@every_direction
@seeds
def test_the_tail_that_a_path_keeps_is_a_bound(direction: Direction, seeds: range) -> None:
    gaps = []
    for seed in seeds:
        one = case(direction, seed)
        if one.path.tail is None:
            continue
        count = float(one.laws.count[0])
        with many_bits():
            scale = one.exact.moment(complex(one.order)).real
            for factor in (1.0, 1.2, 3.0):
                z = complex(one.order, one.path.frequency * factor)
                log = count * number((abs(one.exact.moment(z, scale)) / scale).log())
                gaps.append((log - one.path.tail) / count)
    # Sums over the nodes of fixed-size cohorts need finer ones.
    assert bool(gaps) == (direction != "fixed_size")
    assert max(gaps, default=0.0) <= 1e-15


@directions_with_cuts
@seeds
def test_moments_beyond_a_cut_fade_at_least_as_their_bound_says(direction: Direction, seeds: range) -> None:
    gaps = []
    for seed in seeds:
        one = case(direction, seed)
        for loss, stretch in cuts(one):
            nodes = one.nodes(stretch=stretch)
            moment = nodes.moments(np.array([one.order]))[0][0]
            tilted = np.exp(nodes.mass + one.order * nodes.loss - moment[:, None])
            cut = Cut.at(nodes, loss, stretch)
            width = float(one.laws.noise[0]) / np.sqrt(stretch - 1)
            for least in (one.top, one.top / 8, one.top / 100):
                bound = float(nodes.decay(tilted, one.order, least, cut)[0])
                with many_bits():
                    scale = one.exact.moment(complex(one.order)).real
                    for factor in (1.0, 1.2, 3.0):
                        z = complex(one.order, least * factor)
                        truth = one.exact.beyond_cut(z, float(cut.position[0]), width, scale)
                        # 0 where the ball holds 0: too small for its digits.
                        if (least_size := truth.abs_lower() / scale) > 0:
                            gaps.append(number(least_size.log()) - bound)
    assert max(gaps) <= 1e-12 and max(gaps) > (-0.1 if len(seeds) > 1 else -2)


@directions_with_cuts
@pytest.mark.parametrize(
    "seeds", [pytest.param(range(1), id="few"), pytest.param(range(1, 24), id="many", marks=pytest.mark.slow)]
)
def test_what_a_cut_leaves_out_is_bounded(direction: Direction, seeds: range) -> None:
    gaps = []
    for seed in seeds:
        one = case(direction, seed)
        for loss, stretch in cuts(one):
            # As in `path`: nodes for low orders serve for high ones, for losses below the cut are small.
            [nodes] = grids(one.laws, one.order, 0.0, 1e-8, stretch=stretch)
            cut = Cut.at(nodes, loss, stretch)
            orders = np.array([1.0, 10.0, 300.0]) / one.epsilon
            bounds = nodes.remainder(cut, orders)[:, 0]
            width = float(one.laws.noise[0]) / np.sqrt(stretch - 1)
            with many_bits():
                for order, bound in zip(orders, bounds, strict=True):
                    gaps.append(number(one.exact.below_cut(order, float(cut.position[0]), width).log()) - float(bound))
    assert max(gaps) <= 0 and max(gaps) > -1e-5


def moduli(exact: Exact, order: float, u: float, angle: float, x: np.ndarray) -> np.ndarray:
    """The integrand's modulus on a line moved by an angle, without the factor of the noise's density."""
    q, s = exact.rate, exact.noise

    def factor(at: np.ndarray, turned: float) -> tuple[np.ndarray, np.ndarray]:
        # 1 + y on the moved line, over 1 + y on the real one: with the posterior, no power of e overflows.
        log = (at - 0.5) / s**2
        part = 1 / (1 + (1 - q) / q * np.exp(-log))
        ratio = 1 - part + part * np.exp(1j * turned)
        return np.logaddexp(np.log1p(-q), np.log(q) + log), np.log(ratio)

    plain, turned = factor(x, -angle if exact.direction == "add" else angle)
    real = (-order if exact.direction == "add" else order + 1) * (plain + turned.real)
    phase = (-1 if exact.direction == "add" else 1) * turned.imag
    if exact.direction == "replace":
        other, back = factor(-x, -angle)
        real, phase = real - order * (other + back.real), phase - back.imag
    return np.asarray(-((x / s) ** 2) / 2 + real - u * phase)


@pytest.mark.parametrize("direction", ["remove", "add", "replace"])
@seeds
def test_what_the_trapezoid_rule_misses_on_a_moved_line_is_bounded(direction: Direction, seeds: range) -> None:
    """Near a right angle the line can be moved only a little further: once the bound did not hold there."""
    ratios = []
    for seed in seeds:
        one = case(direction, seed)
        if one.exact.rate == 1:
            continue
        [fine] = grids(one.laws, one.order, one.top, 1.0)
        width = float(fine.points[0, -1] - fine.points[0, 0])
        for size in (8, 12, 16, 24, 48):  # so coarse that what is missed can be seen
            nodes = place(one.laws, fine.points[:, 0], fine.points[:, -1], size, one.order)
            step = float(nodes.step[0])
            # All nodes that have any mass, and 64 times as many: exact to rounding.
            whole = np.arange(-int(width / step) - 2, 2 * int(width / step) + 3) * step + float(nodes.points[0, 0])
            dense = np.arange(len(whole) * 64) * (step / 64) + whole[0]
            for angle in (0.3, 1.0, 1.5, 1.57, np.pi / 2):
                bound = np.log(2) + float(
                    nodes.missed(one.order, np.array([[angle]]), np.array([one.exact.noise**2]))[0, 0]
                )
                scale = moduli(one.exact, one.order, 0.0, 0.0, dense)
                top = float(scale.max())
                moment = float(np.exp(scale - top).sum()) * step / 64
                for u in (0.0, one.top / 4, one.top):
                    rough, exact = (
                        float(np.exp(moduli(one.exact, one.order, u, angle, x) - top).sum()) * each
                        for x, each in ((whole, step), (dense, step / 64))
                    )
                    error = max(0.0, abs(rough - exact) - 1e-12 * exact) / moment
                    ratios.append(error / np.exp(min(bound, 700.0)))
    assert max(ratios) <= 1 and max(ratios) > 1e-3
