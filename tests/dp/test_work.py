"""What a query may cost: sizes of windows and numbers of evaluations, and that the answers stay good."""

import math

import numpy as np
import pytest

from secfed import dp
from secfed.dp import lattice, lattice_bounded
from secfed.dp.composition import Composition
from secfed.dp.lattice_masses import LossSum, upper_lattice
from secfed.dp.losses import NoiseLaw


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1001, 10**6])
def test_powers_by_squaring_are_as_near_as_their_bound(count: int) -> None:
    # On the unit circle, and so that nothing underflows within it.
    angles = np.linspace(-np.pi, np.pi, 20_001) / count
    values = np.exp(1j * angles) * (1 - 0.5 / count)
    exact = np.exp(1j * angles * count) * math.exp(count * math.log1p(-0.5 / count))
    # The values are rounded themselves.
    assert np.abs(lattice._power(values, count) - exact).max() <= 8e-16 * (count + 4)


@pytest.mark.parametrize(("scale", "rate", "count", "epsilon"), [(1.0, 0.1, 50, 2.0), (30.0, 1e-3, 1000, 1e-3)])
def test_delta_is_the_mean_of_weights(scale: float, rate: float, count: int, epsilon: float) -> None:
    law = NoiseLaw(scale, rate, "there", laplace=True)
    step = lattice.lattice_step([(law, count)], 0.0, None)
    parts = [(upper_lattice(law, step), count)]
    total = lattice.TiltedSum(parts, step, lattice.tilt(LossSum(parts), epsilon), epsilon, 1 << 16)
    for at in (epsilon * 0.9, epsilon, epsilon * 1.1):
        above = total.places - (at - total.offset)
        weights = np.where(above > 0, -np.exp(-total.order * above) * np.expm1(-above), 0.0)
        scaled = total.log_moment - total.order * (at - total.offset)
        mean = math.exp(scaled) * float((weights * total.masses).sum())
        low, high = total.delta(at, -1), total.delta(at, 1)
        assert low <= mean <= high
        assert high - low <= 1e-6 * mean


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("rate", "scale", "rounds", "delta"),
    [(1e-3, 2.0, 300, 1e-6), (0.3, 20.0, 10_000, 1e-5), (1e-6, 20.0, 50, 1e-20), (0.04, 50.0, 5_000_000, 1e-5)],
)
def test_laplace_noise_takes_windows_of_bounded_size(
    rate: float, scale: float, rounds: int, delta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, window = [], lattice.TiltedSum

    def counted(parts, step, order, epsilon, most):  # type: ignore[no-untyped-def]
        sizes.append(most)
        return window(parts, step, order, epsilon, most)

    event = dp.PoissonSampled(rate, dp.Laplace(scale))
    for module in (lattice, lattice_bounded):
        monkeypatch.setattr(module, "TiltedSum", counted)
    low, high = dp.Accountant().compose(event, rounds).epsilon(delta, bounds=True)
    assert max(sizes) <= 2 * lattice_bounded.WINDOW
    assert len(sizes) <= 20
    monkeypatch.undo()
    fine = lattice.bounds_epsilon([(event, rounds)], "add_remove", delta) if rounds < 10**6 else (8.6850, 8.6860)
    assert low <= fine[1] and fine[0] <= high <= 1.01 * fine[1]
    assert 0 < low <= high
    at = dp.Accountant().compose(event, rounds).delta(high, bounds=True)
    assert at.lower <= delta and at.upper <= 1.5 * delta


def test_cheap_bounds_of_rounds_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ceiling = [], Composition.ceiling

    def counted(self: Composition, delta: float, enough: float = 0.0) -> float:
        asked.append(delta)
        return ceiling(self, delta, enough)

    monkeypatch.setattr(Composition, "ceiling", counted)
    assert dp.rounds(epsilon=0.5, delta=1e-6, noise_multiplier=800.0, sampling_rate=1e-6) == 10**9
    assert len(asked) <= 8
