"""Masses and losses of `pairs` against integrals in ball arithmetic: the error of a mass is at most `MASS_ERROR`."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from flint import acb, arb

from secfed.dp.contour.pairs import MASS_ERROR, Law, MixtureLaw, NoiseLaw, Pair, RangeLaw
from secfed.dp.contour.privacy_loss import ROUNDOFF
from tests.dp.contour.exact import many_bits

Term = Callable[[acb, acb, bool], acb]


def off(law: Law, z: complex, exact: acb, scale: arb) -> tuple[float, float]:
    """Return the error of the sum over a law's atoms relative to E[exp(t loss)], and what is allowed.

    The sum itself is exact. Losses are doubles: each moves its term by a few roundings of z times the loss.
    """
    masses, losses = law.atoms(abs(z))
    at, total = acb(z.real, z.imag), acb(0)
    for mass, loss in zip(masses.tolist(), losses.tolist(), strict=True):
        total += arb(mass) * (at * arb(loss)).exp()
    tilted = masses * np.exp(z.real * losses)
    moved = abs(z) * float((tilted * np.abs(losses)).sum() / tilted.sum())
    return float((abs(total - exact) / scale).mid()), MASS_ERROR + 8 * ROUNDOFF * moved


def integral(term: Term, z: complex, joints: list[float]) -> acb:
    at = acb(z.real, z.imag)
    return sum(
        (
            acb.integral(lambda x, a: term(x, at, a), arb(low), arb(high), rel_tol=arb(2) ** -150, eval_limit=200_000)
            for low, high in pairwise(joints)
        ),
        acb(0),
    )


def noise_moment(law: NoiseLaw, z: complex) -> acb:
    """Return E[exp(z loss)] over the noise that the law keeps."""
    q, s = arb(law.rate), arb(law.scale)

    def gain(w: acb, analytic: bool) -> acb:
        return (1 - q + q * w.exp()).log(analytic=analytic)

    def ratio(x: acb) -> acb:
        return (2 * x - 1) / s if law.laplace else (x - arb(0.5)) / s**2

    def density(x: acb) -> acb:
        if law.laplace:
            return (-x / s).exp() / (2 * s)
        return (-((x / s) ** 2) / 2).exp() / (s * (2 * arb.pi()).sqrt())

    def powers(above: acb, other: acb, at: acb) -> acb:
        """Masses times exp(z loss) over the mass of noise alone; `other` is the logarithm at the mirrored point."""
        if law.direction == "add":
            return (-at * above).exp()
        if law.direction == "replace":
            return ((at + 1) * above - at * other).exp()
        if law.direction == "fixed_size":  # the loss of 0 has what is left
            return ((at + 1) * above).exp() + (-at * above).exp() - above.exp() - 1
        return ((at + 1) * above).exp()

    def term(x: acb, at: acb, analytic: bool) -> acb:
        if law.laplace and law.direction == "replace":  # at x and at -x; on the far side, the ratio is constant
            near, far = gain(ratio(x), analytic), gain(acb(-1 / s), analytic)
            return density(x) * (powers(near, far, at) + powers(far, near, at))
        other = gain(-ratio(x) - 1 / s**2, analytic) if law.direction == "replace" else acb(0)
        return density(x) * powers(gain(ratio(x), analytic), other, at)

    low, high = max(float(law._edges[0]), 0.0 if law.laplace else -np.inf), float(law._edges[-1])
    total = integral(term, z, np.linspace(low, high, 2 + round((high - low) / (10 * law.scale))).tolist())
    if law.laplace:  # beyond 0 and 1 the loss is constant
        far = (-1 / s).exp() / 2
        ends = [(1 / s, far), (-1 / s, far if law.direction == "replace" else arb(0.5))]
        for w, mass in ends[:1] if law.direction == "fixed_size" else ends:
            total += mass * powers(gain(acb(w), False), gain(acb(-w), False), acb(z.real, z.imag))
    return total + (1 if law.direction == "fixed_size" else 0)


@pytest.mark.parametrize("direction", ["remove", "add", "replace", "fixed_size"])
@pytest.mark.parametrize("laplace", [False, True])
@pytest.mark.parametrize(
    "seeds", [pytest.param(range(4), id="few"), pytest.param(range(4, 24), id="many", marks=pytest.mark.slow)]
)
def test_atoms_of_noise_sum_to_its_moments(direction: str, laplace: bool, seeds: range) -> None:
    ratios = []
    for seed in seeds:
        rng = np.random.default_rng([seed, laplace, len(direction)])
        rate, scale = (
            1.0 if seed % 5 == 4 and direction != "replace" else 10 ** rng.uniform(-5, 0),
            0.4 * 20 ** rng.uniform(),
        )
        law = NoiseLaw(scale, rate, direction, laplace=laplace, beyond=None if laplace else 1e-40)
        for size in (2.0, 30.0, 200.0):
            # Real parts as on contours, so that few losses are beyond the noise that is kept.
            z = complex(1.0, size) if seed % 2 else complex(min(size, 3.0), size / 3)
            with many_bits():
                scaled = noise_moment(law, complex(z.real)).real
                error, allowed = off(law, z, noise_moment(law, z), scaled)
            ratios.append(error / allowed)
    assert 1e-4 < max(ratios) <= 1


@pytest.mark.parametrize("length", [1e-3, 0.5, 3.0, 20.0])
def test_atoms_of_bounded_range_sum_to_its_moments(length: float) -> None:
    law, ratios = RangeLaw(length), []
    for z in (0j, 1 + 2j, 3 + 40j, 0.5 + 300j):
        with many_bits():
            # The density e^(l / 2) / 4 sinh(length / 2), against e^(z l).
            power, wide = acb(z.real, z.imag) + arb(0.5), arb(length)
            exact = 2 * (power * wide).sinh() / power / (4 * (wide / 2).sinh())
            real = arb(z.real) + arb(0.5)
            error, allowed = off(law, z, exact, 2 * (real * wide).sinh() / real / (4 * (wide / 2).sinh()))
        ratios.append(error / allowed)
    assert max(ratios) <= 1


def test_noise_that_is_left_out_is_no_more_than_stated() -> None:
    for beyond in (1e-6, 1e-12, 1e-30):
        law = NoiseLaw(0.8, 0.1, "remove", laplace=False, beyond=beyond)
        with many_bits():
            kept = noise_moment(law, 0j).real
            assert arb(beyond) / 20 < 1 - kept <= arb(law.infinite)


@pytest.mark.parametrize(
    ("laplace", "direction"), [(False, "remove"), (False, "add"), (False, "replace"), (True, "remove"), (True, "add")]
)
@pytest.mark.parametrize(("scale", "rate"), [(0.3, 1.0), (0.9, 0.2), (4.0, 1e-3)])
def test_total_variation_is_half_the_distance_of_the_densities(
    laplace: bool, direction: str, scale: float, rate: float
) -> None:
    x = np.linspace(-1 - 30 * scale, 2 + 30 * scale, 400_001)

    def density(center: float) -> np.ndarray:
        away = np.abs(x - center) / scale
        return np.exp(-away if laplace else -(away**2) / 2)

    other = -1.0 if direction == "replace" else 0.0
    difference = rate * np.abs(density(1.0) - density(other))
    expected = difference.sum() / density(0.5).sum() / 2
    law = NoiseLaw(scale, rate, direction, laplace=laplace)
    assert law.variation() == pytest.approx(expected, rel=1e-6)
    # The same from the masses and losses, which are inexact only where the loss changes its sign.
    masses, losses = law.atoms(1.0)
    assert (masses * -np.expm1(-np.maximum(losses, 0.0))).sum() == pytest.approx(law.variation(), rel=0.03)


def test_total_variation_of_a_pair_and_of_a_range() -> None:
    assert Pair([0.7, 0.3], [0.2, 0.8]).variation() == pytest.approx(0.5, rel=1e-12)
    assert RangeLaw(0.8).variation() == pytest.approx(RangeLaw(0.8).delta(0.0)[1])
    mixture = MixtureLaw(1.0, (0.0, 1.0), (0.9, 0.1), "remove")
    assert mixture.variation() == pytest.approx(NoiseLaw(1.0, 0.1, "remove", laplace=False).variation(), rel=1e-12)


@pytest.mark.parametrize(("direction", "rate"), [("add", 1e-4), ("add", 0.01), ("replace", 1e-3)])
def test_losses_that_hardly_count_take_few_atoms(direction: str, rate: float) -> None:
    """At real part t, losses below lowest add at most exp(t lowest)."""
    law = NoiseLaw(0.4, rate, direction, laplace=False, beyond=1e-30)
    order, top = (0.5 / rate, 20 / rate) if direction == "add" else (3.0, 100.0)
    all_masses, all_losses = law.atoms(np.hypot(order, top))
    whole = float((all_masses * np.exp(order * all_losses)).sum())
    lowest = (np.log(whole) - 45) / order
    masses, losses = law.atoms(np.hypot(order, top), lowest)
    assert law.size(np.hypot(order, top), lowest) == pytest.approx(len(masses), abs=32)
    assert masses.sum() == pytest.approx(all_masses.sum(), rel=1e-14)
    if direction == "add":
        assert len(masses) < 0.5 * len(all_masses)
    for part in (0.0, 0.3, 1.0):
        z = complex(order, part * top)
        first, second = (
            (weights * np.exp(z * values)).sum() for weights, values in ((masses, losses), (all_masses, all_losses))
        )
        turned = abs(z) * (all_masses * np.exp(order * all_losses) * np.abs(all_losses)).sum() / whole
        assert abs(first - second) <= (MASS_ERROR + 8 * ROUNDOFF * turned) * whole
