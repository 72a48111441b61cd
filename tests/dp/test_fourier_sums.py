"""Sums of exponentials by a fast transform are those of plain sums in extended precision, within the stated error."""

import flint
import numpy as np
import pytest

from secfed.dp.contour.fourier_sums import fourier_sums, transform_work
from secfed.dp.contour.privacy_loss import ROUNDOFF


def exact(weights: np.ndarray, points: np.ndarray, frequency: float) -> complex:
    """The sum at one frequency, in ball arithmetic."""
    flint.ctx.prec = 160
    at, total = flint.arb(frequency), flint.acb(0)
    for weight, point in zip(weights.tolist(), points.tolist(), strict=True):
        total += flint.acb(weight) * (flint.acb(0, at * flint.arb(point)).exp() - 1)
    return complex(float(total.real.mid()), float(total.imag.mid()))


@pytest.mark.parametrize("seed", range(24))
def test_sums_are_within_their_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, count = int(10 ** rng.uniform(0, 2.7)), int(10 ** rng.uniform(0.4, 4))
    step = 10 ** rng.uniform(-4, 0.5)
    spread = 10 ** rng.uniform(-6, 1, size if seed % 2 else 1)  # points near 0 and far from it, or all alike
    points, weights = rng.normal(size=size) * spread, 10 ** rng.uniform(-12, 0, size)
    weights /= weights.sum()
    sums, error = fourier_sums(weights, points, step, count)
    assert sums.shape == (count,) and sums[0] == pytest.approx(0, abs=1e-14)
    for j in {1, count // 3, count - 1, *rng.integers(0, count, 3).tolist()}:
        moved = min(2.0, j * step * float(weights @ np.abs(points)))
        allowed = error + (size + 100) * moved * ROUNDOFF
        assert abs(sums[j] - exact(weights, points, j * step)) <= allowed
    assert error < 1e-9


def test_points_near_zero_lose_no_digits() -> None:
    """Their sums are tiny, and right to the last digits: nothing was subtracted from 1."""
    points = np.random.default_rng(1).normal(size=200) * 1e-9
    weights = np.full(200, 1 / 200)
    sums, error = fourier_sums(weights, points, 0.5, 300)
    assert error == 0
    for j in (1, 150, 299):
        expected = exact(weights, points, j * 0.5)
        assert abs(sums[j] - expected) <= 1e-13 * abs(expected)


def test_a_transform_pays_for_many_points_at_many_frequencies_only() -> None:
    assert transform_work(100, 100) > 100 * 100
    assert transform_work(20_000, 10_000) < 20_000 * 10_000 / 20
