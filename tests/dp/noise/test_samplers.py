"""Noise from a seed: its law, that the seed alone decides it, and what is refused."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import chdtrc, ive, ndtr

from secfed.dp.noise import samplers
from secfed.dp.noise.samplers import Sampler, discrete_gaussian, skellam
from secfed.dp.noise.tables import GaussianWeights, SkellamWeights
from secfed.errors import ConfigError

Draw = Callable[[Any, int, bytes], npt.NDArray[np.int64]]
BOTH = pytest.mark.parametrize("draw", [discrete_gaussian, skellam])
# Tables alone; blocks, with words of 32 and of 64 bits; a sum of several draws.
EVERY_WAY = pytest.mark.parametrize(
    ("draw", "variance"),
    [
        (discrete_gaussian, 0.3),
        (discrete_gaussian, 1e6),
        (discrete_gaussian, 1e9),
        (discrete_gaussian, 1e18),
        (skellam, 0.3),
        (skellam, 1e6),
        (skellam, 1e7),
        (skellam, 4e8),
    ],
)


def seed(number: int) -> bytes:
    return number.to_bytes(32, "little")


def chance_of_chi_square(observed: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Chance of a worse fit, after cells of few expected counts are joined."""
    cells, counts, shares = [], 0.0, 0.0
    for count, share in zip(np.asarray(observed, float), np.asarray(expected, float), strict=True):
        counts, shares = counts + count, shares + share
        if shares >= 20:
            cells.append((counts, shares))
            counts = shares = 0.0
    cells[-1] = (cells[-1][0] + counts, cells[-1][1] + shares)
    statistic = sum((count - share) ** 2 / share for count, share in cells)
    return float(chdtrc(len(cells) - 1, statistic))


def counts_up_to(samples: npt.NDArray[np.int64], reach: int) -> npt.NDArray[np.int64]:
    assert abs(samples).max() <= reach
    return np.bincount(samples + reach, minlength=2 * reach + 1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.5, 1.0, 2.342, 10.0, 100.0, 1000.0])
def test_discrete_gaussian_has_its_law(sigma: float) -> None:
    size, reach = 1 << 19, int(12 * sigma) + 3
    law = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    observed = counts_up_to(discrete_gaussian(Fraction(sigma) ** 2, size, seed(1)), reach)
    if sigma == 0.1:  # one in 2.6e21 is not 0
        assert observed[reach] == size
    else:
        assert chance_of_chi_square(observed, size * law / law.sum()) > 1e-6


@pytest.mark.sampled(3)
@pytest.mark.parametrize("variance", [0.01, 0.25, 1.0, 7.3, 100.0, 1e4, 1e6])
def test_skellam_has_its_law(variance: float) -> None:
    size, reach = 1 << 18, int(12 * variance**0.5) + 12
    law = ive(np.abs(np.arange(-reach, reach + 1)), variance)
    observed = counts_up_to(skellam(variance, size, seed(2)), reach)
    assert chance_of_chi_square(observed, size * law / law.sum()) > 1e-6


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("draw", "variance", "size"),
    [
        (discrete_gaussian, 1e9, 1 << 18),
        (discrete_gaussian, 1e18, 1 << 18),
        (skellam, 1e7, 1 << 18),
        (skellam, 1e8, 1 << 18),
        (skellam, 4e8, 1 << 18),
    ],
)
def test_wide_noise_has_the_law_of_the_normal_to_which_it_is_close(draw: Draw, variance: float, size: int) -> None:
    edges = np.ceil(np.linspace(-4, 4, 161) * variance**0.5)
    observed = np.histogram(draw(variance, size, seed(3)), np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    # An integer x stands for the interval from x - 1/2 to x + 1/2.
    reached = np.concatenate([[0.0], ndtr((edges - 0.5) / variance**0.5), [1.0]])
    assert chance_of_chi_square(observed, size * np.diff(reached)) > 1e-6


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [GaussianWeights, SkellamWeights])
def test_blocks_give_the_law_of_the_table(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small law through blocks, where all its integers can be counted; one proposal in three is refused."""
    monkeypatch.setattr(samplers, "TABLE_VARIANCE", 4)
    sampler = Sampler(kind(Fraction(200)))
    assert sampler.shift == 3
    samples = np.zeros(1 << 15, np.int64)
    sampler.add_to(samples, seed(4))
    positions = np.arange(-200, 201)
    law = np.exp(-(positions**2) / 400) if kind is GaussianWeights else ive(np.abs(positions), 200.0)
    assert chance_of_chi_square(counts_up_to(samples, 200), len(samples) * law / law.sum()) > 1e-6


def test_a_head_kept_at_first_sight_is_kept_for_all_weights_within_their_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "TABLE_VARIANCE", 4)
    weights = GaussianWeights(Fraction(200))
    error = weights.at(40, 1, 1)[0]
    monkeypatch.setattr(samplers, "WEIGHT_ERROR", error)
    sampler = Sampler(weights)
    span = 1 << sampler.shift
    for block in range(5):
        high, low = weights.at(block * span, 1, 1)[0], weights.at((block + 1) * span - 1, 1, 1)[0]
        least = Fraction(max(0, low - error), high + error)
        kept = Fraction(int(sampler._kept[block - sampler.table.lowest]), 1 << 16)
        assert least - Fraction(1, 1 << 15) <= kept <= least


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("variance", "width"), [(1e7, 32), (2.0**54, 32), (2.0**54 + 4, 64), (2.0**80, 64)])
def test_member_and_head_come_from_the_two_ends_of_a_word(
    variance: float, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = Sampler(GaussianWeights(Fraction(variance)))
    seen = []
    monkeypatch.setattr(sampler.weights, "keeps", lambda *found: seen.append(found[:3]) or found[0] % 2 == 1)
    span = 1 << sampler.shift
    words = [0, span - 1, (1 << width) - 1, (1 << width) - span, (0x8000 << width - 16) + 1, (0xFFFF << width - 16) + 1]

    class Given:
        def words(self, count: int, dtype: str) -> npt.NDArray[Any]:
            assert (count, dtype) == (6, f"<u{width // 8}")
            return np.array(words, dtype)

    tails = samplers._Stream(seed(0))
    kept = sampler._choose(np.array([0, 1, 2, -3, 4, -1], np.int16), Given(), tails)  # type: ignore[arg-type]
    assert seen == [
        (3 * span - 1, 2 * span, 0xFFFF),
        (-3 * span, -2 * span - 1, 0xFFFF),
        (-span + 1, -1, 0xFFFF),
    ]
    assert kept.tolist() == [0, 2 * span - 1, 3 * span - 1, 4 * span + 1, -span + 1]


@pytest.mark.sampled(3)
@EVERY_WAY
def test_moments_and_symmetry(draw: Draw, variance: float) -> None:
    size = 1 << 18
    samples = draw(variance, size, seed(5)).astype(np.float64)
    if draw is skellam or variance > 1:
        truth, fourth = variance, 3 * variance**2 + (variance if draw is skellam else 0)
    else:
        law = np.exp(-(np.arange(-20, 21) ** 2) / (2 * variance))
        truth, fourth = (float(law @ np.arange(-20.0, 21) ** power / law.sum()) for power in (2, 4))
    assert abs(samples.mean()) < 5 * (truth / size) ** 0.5
    assert abs((samples**2).mean() - truth) < 5 * ((fourth - truth**2) / size) ** 0.5
    spread = np.abs(samples)
    assert abs((np.sign(samples) * spread**3).mean()) < 5 * ((spread**6).mean() / size) ** 0.5
    signs = np.count_nonzero(samples > 0), np.count_nonzero(samples < 0)
    assert abs(signs[0] - signs[1]) < 5 * sum(signs) ** 0.5


def test_neighbouring_samples_are_not_related() -> None:
    for samples in (discrete_gaussian(1e9, 1 << 18, seed(6)), skellam(30.0, 1 << 18, seed(6))):
        scaled = samples / samples.std()
        for lag in (1, 2, 3, 4, 8, 1 << 15):
            assert abs((scaled[lag:] * scaled[:-lag]).mean()) < 5 / len(scaled[lag:]) ** 0.5


def test_sum_of_skellams_has_the_law_of_skellam() -> None:
    size, reach = 1 << 19, 60
    summed = skellam(2.5, size, seed(7)) + skellam(Fraction(13, 3), size, seed(8))
    law = ive(np.abs(np.arange(-reach, reach + 1)), 2.5 + 13 / 3)
    assert chance_of_chi_square(counts_up_to(summed, reach), size * law) > 1e-6


@pytest.mark.sampled(4)
@EVERY_WAY
def test_same_seed_same_noise_however_many_are_drawn(draw: Draw, variance: float) -> None:
    many = draw(variance, 70_000, seed(9))
    assert many.dtype == np.int64
    for size in (0, 1, 2, 1000, 32_767, 32_768, 32_769, 70_000):
        few = draw(variance, size, seed(9))
        assert few.shape == (size,)
        assert np.array_equal(few, many[:size])


@pytest.mark.sampled(4)
@EVERY_WAY
def test_another_seed_gives_other_noise(draw: Draw, variance: float) -> None:
    first, *others = (draw(variance, 4096, bytes(at) + b"\1" + bytes(31 - at)) for at in (0, 15, 16, 31))
    for other in others:
        assert np.mean(first == other) < 0.75
        scaled = np.corrcoef(first, other)[0, 1]
        assert abs(scaled) < 5 / 64


def test_noise_of_a_seed_does_not_change_from_version_to_version() -> None:
    """Noise layers are taken off by whoever holds the seed, perhaps with another release of the library."""
    assert discrete_gaussian(4.0, 12, seed(10)).tolist() == [-1, -1, 1, -2, 1, 3, -2, -1, 1, 3, 0, -3]
    assert discrete_gaussian(1e9, 5, seed(10)).tolist() == [-9223, -18253, 19200, -34464, 20385]
    assert skellam(4.0, 12, seed(10)).tolist() == [0, 2, 0, -2, -3, 4, 0, 4, 3, -1, -2, -3]
    assert skellam(1e7, 5, seed(10)).tolist() == [-556, 3537, 107, -3553, -4483]


@BOTH
def test_variance_is_the_fraction_that_the_number_is(draw: Draw) -> None:
    samples = draw(0.1, 1000, seed(11))
    assert np.array_equal(samples, draw(Fraction(3602879701896397, 2**55), 1000, seed(11)))
    assert np.array_equal(samples, draw(np.float64(0.1), 1000, seed(11)))
    assert np.array_equal(draw(7, 1000, seed(11)), draw(np.int64(7), 1000, seed(11)))
    assert np.array_equal(draw(7, 1000, seed(11)), draw(np.float32(7), 1000, seed(11)))


def test_a_fraction_is_taken_as_it_is_and_large_whole_numbers_too() -> None:
    for variance in (Fraction(1, 3), 2**60 + 1, np.int64(2**60 + 1)):
        assert samplers._checked(variance, samplers.MAX_GAUSSIAN_VARIANCE, 1, seed(0)) == Fraction(variance)


@BOTH
def test_the_least_variances_give_zeros(draw: Draw) -> None:
    for variance in (5e-324, 1e-200, 1e-30):
        assert not draw(variance, 1000, seed(12)).any()


def test_the_largest_variances_are_drawn() -> None:
    wide = discrete_gaussian(samplers.MAX_GAUSSIAN_VARIANCE, 4096, seed(13)) / 2.0**40
    assert abs((wide**2).mean() - 1) < 5 * (2 / 4096) ** 0.5
    wide = skellam(samplers.MAX_SKELLAM_VARIANCE, 256, seed(13)) / 2.0**18
    assert abs((wide**2).mean() - 1) < 5 * (2 / 256) ** 0.5


@BOTH
@pytest.mark.parametrize(
    "variance", [0, 0.0, -1, -0.5, float("nan"), float("inf"), 2.0**81, 10**400, True, "1", None, 1j]
)
def test_what_is_no_variance_is_refused(draw: Draw, variance: Any) -> None:
    with pytest.raises(ConfigError, match="variance"):
        draw(variance, 1, bytes(32))


@BOTH
@pytest.mark.parametrize("size", [-1, 1.0, True, None])
def test_what_is_no_size_is_refused(draw: Draw, size: Any) -> None:
    with pytest.raises(ConfigError, match="size"):
        draw(1.0, size, bytes(32))


@BOTH
@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33), "0" * 32, None, 7])
def test_what_is_no_seed_is_refused_and_not_told(draw: Draw, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"^the seed is .*, needs 32 bytes$"):
        draw(1.0, 1, wrong)


def test_tables_of_many_layers_are_made_once() -> None:
    before = samplers._of_little_variance.cache_info()
    for _ in range(3):
        for layer in range(20):
            discrete_gaussian(Fraction(100003, 7 + layer), 2, seed(1))
    after = samplers._of_little_variance.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (20, 40)
