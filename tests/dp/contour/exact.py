"""Moments and deltas of single releases, integrated in ball arithmetic: nothing here is from `secfed.dp.contour`.

A direction, a rate and a noise name a pair of laws, as in the table of `docs/accountant.md`. Noise is in units of the
shift.
Balls have 200 bits. What a function returns holds the truth, and `narrow` refuses a ball that is too wide to tell.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from flint import acb, arb, ctx

BITS = 200
# Integrals stop this many standard deviations beyond where their mass may be: less than exp(-700) is left out.
_SIGMAS = 38


@contextmanager
def many_bits() -> Iterator[None]:
    """Compute with balls of 200 bits."""
    before, ctx.prec = ctx.prec, BITS
    try:
        yield
    finally:
        ctx.prec = before


def narrow(ball: arb, scale: arb | float = 1) -> arb:
    """Return a ball that is known to 25 digits of a scale, or fail."""
    assert ball.rad() < arb(10) ** -25 * scale, f"{ball} is too wide"
    return ball


def beyond(x: acb | arb) -> acb | arb:
    """Return the standard normal probability of all above x."""
    return (x / arb(2).sqrt()).erfc() / 2


@dataclass(frozen=True)
class Exact:
    """One release.

    Attributes:
        direction: "remove", "add", "replace" or "fixed_size".
        rate: Probability that the client takes part.
        noise: Standard deviation of the noise over the shift.
    """

    direction: str
    rate: float
    noise: float

    def mixture(self, x: acb) -> acb:
        """The likelihood ratio (1 + y)(x)."""
        q, s = arb(self.rate), arb(self.noise)
        return 1 - q + q * ((x - arb(0.5)) / s**2).exp()

    def density(self, x: acb) -> acb:
        """The density of N(0, noise^2)."""
        s = arb(self.noise)
        return (-((x / s) ** 2) / 2).exp() / (s * (2 * arb.pi()).sqrt())

    def terms(self, x: acb, z: acb, analytic: bool = False) -> list[acb]:
        """Densities under P times exp(z loss), one for each sign of the loss that a point has."""
        log = self.mixture(x).log(analytic=analytic)
        if self.direction == "add":
            return [self.density(x) * (-z * log).exp()]
        if self.direction == "replace":
            other = self.mixture(-x).log(analytic=analytic)
            return [self.density(x) * ((z + 1) * log - z * other).exp()]
        above = self.density(x) * ((z + 1) * log).exp()
        return [above, self.density(x) * (-z * log).exp()] if self.direction == "fixed_size" else [above]

    def ends(self, order: float) -> tuple[float, float]:
        """Return between which points all of the mass is."""
        near = _SIGMAS * self.noise
        far = near + {"add": order, "replace": 2 * order + 1}.get(self.direction, order + 1)
        if self.direction == "fixed_size":
            return 0.5, far
        return (-far, near) if self.direction == "add" else (-near, far)

    def integral(self, function: object, low: float, high: float, scale: arb | float = 1) -> acb:
        """Integrate in pieces of ten standard deviations, to 45 digits of a scale."""
        count = max(1, min(400, round((high - low) / (10 * self.noise))))
        joints = [arb(low) + (arb(high) - arb(low)) * i / count for i in range(count + 1)]
        tolerance = arb(10) ** -45 * scale
        total = acb(0)
        for left, right in pairwise(joints):
            total += acb.integral(function, left, right, abs_tol=tolerance, rel_tol=arb(2) ** -170, eval_limit=400_000)
        return total

    def moment(self, z: complex, scale: arb | float = 1) -> acb:
        """Return E[exp(z loss)] under P."""
        at = acb(z.real, z.imag)
        if self.direction != "fixed_size":
            return self.integral(lambda x, a: self.terms(x, at, a)[0], *self.ends(z.real), scale)

        def both(x: acb, analytic: bool) -> acb:
            log = self.mixture(x).log(analytic=analytic)
            return self.density(x) * (((at + 1) * log).exp() - 1) * (1 - (-at * log).exp())

        return 1 + self.integral(both, *self.ends(z.real), scale)

    def beyond_cut(self, z: complex, position: float, width: float, scale: arb | float = 1) -> acb:
        """Return E[exp(z loss) W] for W(x) = Phi((x - position) / width), of losses above 0 only (`fixed_size`)."""
        at = acb(z.real, z.imag)

        def weighted(x: acb, analytic: bool) -> acb:
            return self.terms(x, at, analytic)[0] * beyond((arb(position) - x) / arb(width))

        return self.integral(weighted, *self.ends(z.real), scale)

    def below_cut(self, order: float, position: float, width: float) -> arb:
        """Return E[exp(t loss)] of what `beyond_cut` leaves."""
        t, low = acb(order), self.ends(0.0)[0]
        # The weight falls like a normal density of the cut's width, whatever the order is.
        high = min(self.ends(order)[1], max(position, 0.5) + 40 * width + 40 * self.noise)

        def weighted(x: acb, analytic: bool) -> acb:
            weight = beyond((x - arb(position)) / arb(width))
            above, *others = self.terms(x, t, analytic)
            # Fixed size: the atom's density, and that of losses below 0, are left out as a whole.
            return above * weight + sum(others, acb(0)) - (self.mixture(x) + 1) * self.density(x) * bool(others)

        return self.integral(weighted, low, high).real + (1 if self.direction == "fixed_size" else 0)

    def log_moment(self, order: float) -> arb:
        """Return log E[exp(t loss)]."""
        return narrow(self.moment(complex(order)).real.log())

    def delta(self, epsilon: float) -> arb:
        """Return delta of one release at an epsilon of at least 0: P - e^epsilon Q beyond the point of that loss."""
        q, s, alpha = arb(self.rate), arb(self.noise), arb(epsilon).exp()

        def above(x: arb, *shares: arb) -> arb:
            absent, present, mirrored = shares
            return absent * beyond(x / s) + present * beyond((x - 1) / s) + mirrored * beyond((x + 1) / s)

        if self.direction == "add":
            factor = (1 / alpha - 1 + q) / q
            if not factor > 0:
                return arb(0)
            x = arb(0.5) + s**2 * factor.log()
            whole = above(-x, 1 - alpha * (1 - q), arb(0), arb(0))
            return narrow(whole - alpha * q * beyond((1 - x) / s))
        if self.direction == "replace":
            # a (1 - q) (alpha - 1) and a quadratic equation for exp(x / s^2).
            unit, linear = q * (-1 / (2 * s**2)).exp(), (1 - q) * (alpha - 1)
            root = (linear + (linear**2 + 4 * alpha * unit**2).sqrt()) / (2 * unit)
            return narrow(above(s**2 * root.log(), (1 - q) * (1 - alpha), q, -alpha * q))
        x = arb(0.5) + s**2 * ((alpha - 1 + q) / q).log()
        return narrow(above(x, 1 - q - alpha, q, arb(0)))


def gaussian_delta(noise: float, rounds: int, epsilon: float) -> arb:
    """Return delta of unsampled Gaussian releases."""
    mu = arb(rounds).sqrt() / arb(noise)
    e = arb(epsilon)
    return narrow(beyond(e / mu - mu / 2) - e.exp() * beyond(e / mu + mu / 2))
