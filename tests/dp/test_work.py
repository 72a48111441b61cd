"""What a query may cost: lengths of contours and numbers of evaluations, and that the answers stay good."""

import pytest

from secfed import dp
from secfed.dp.composition import Composition
from secfed.dp.contour import smoothed


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("rate", "scale", "rounds", "delta"),
    [(1e-3, 2.0, 300, 1e-6), (0.3, 20.0, 10_000, 1e-5), (1e-6, 20.0, 50, 1e-20), (0.04, 50.0, 5_000_000, 1e-5)],
)
def test_laplace_noise_takes_contours_of_bounded_length(
    rate: float, scale: float, rounds: int, delta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths, build = [], smoothed.build

    def counted(*arguments):  # type: ignore[no-untyped-def]
        contour = build(*arguments)
        lengths.append(len(contour.waves))
        return contour

    event = dp.PoissonSampled(rate, dp.Laplace(scale))
    monkeypatch.setattr(smoothed, "build", counted)
    low, high = dp.Accountant().compose(event, rounds).epsilon(delta, bounds=True)
    assert max(lengths) <= 50_000 and len(lengths) <= 6
    assert 0 < low <= high <= low * (1 + 1e-5)
    at = dp.Accountant().compose(event, rounds).delta(high, bounds=True)
    assert at.lower <= delta and at.upper <= 1.01 * delta


def test_cheap_bounds_of_rounds_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ceiling = [], Composition.ceiling

    def counted(self: Composition, delta: float, enough: float = 0.0) -> float:
        asked.append(delta)
        return ceiling(self, delta, enough)

    monkeypatch.setattr(Composition, "ceiling", counted)
    assert dp.rounds(epsilon=0.5, delta=1e-6, noise_multiplier=800.0, sampling_rate=1e-6) == 10**9
    assert len(asked) <= 8
