"""The self-audit finds what it missed: coordinates without noise, a clip of 1.2; and it raises no alarm for nothing."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from secfed.attacks import coordinate_checks, self_audit
from secfed.attacks.audit import audit as bound
from secfed.attacks.audit import gaussian_epsilon
from secfed.attacks.canaries import SelfAudit
from secfed.attacks.coordinate_checks import blocks, combs, each_coordinate, scattered

CLIENTS, SIZE, DELTA = 10, 20_000, 1e-5
UPPER = gaussian_epsilon(1.0, DELTA) * (1 + 1e-8)
NEW = ("noise_of_each_coordinate", "noise_of_scattered_coordinates", "noise_of_blocks", "noise_of_combs")
Noise = Callable[[np.random.Generator, int], np.ndarray]


def shares(generator: np.random.Generator, number: int, missing: int = 0, factor: float = 1.0) -> np.ndarray:
    """Noise of ten clients, less the shares that are missing: it has the law of one draw."""
    return factor * math.sqrt(1 - missing / CLIENTS) * generator.standard_normal(SIZE)


def weak(where: Any, factor: float) -> Noise:
    """Noise that is smaller by a factor on some coordinates."""

    def noise(generator: np.random.Generator, number: int) -> np.ndarray:
        drawn = generator.standard_normal(SIZE)
        drawn[where] *= factor
        return drawn

    return noise


def same_in_every_round(generator: np.random.Generator, number: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(SIZE)


def one_seed_for_all(generator: np.random.Generator, number: int) -> np.ndarray:
    """Ten equal shares add up to ten times one of them."""
    return math.sqrt(CLIENTS) * same_in_every_round(generator, number)


def audit(seed: int, noise: Noise = shares, clip: float = 1.0, **changed: Any) -> SelfAudit:
    """Audit a sum with this noise and clip, with the default settings."""

    def pipeline(noise: Noise, chance: np.random.Generator) -> Any:
        def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
            clipped = [update * min(1.0, clip / max(float(np.linalg.norm(update)), 1e-9)) for update in contributions]
            return np.sum(clipped, axis=0) + noise(chance, number)

        return release

    if "quiet" in changed:
        scale = changed.pop("quiet")
        quiet = pipeline(
            lambda generator, number: scale * generator.standard_normal(SIZE), np.random.default_rng([seed, 9])
        )
        changed |= {"quiet_release": quiet, "quiet_noise_multiplier": scale}
    claim: dict[str, Any] = {
        "clients": CLIENTS, "size": SIZE, "clip_norm": 1.0, "noise_multiplier": 1.0, "delta": DELTA,
        "generator": np.random.default_rng([seed, 1]),
    }  # fmt: skip
    return self_audit(pipeline(noise, np.random.default_rng([seed, 2])), **(claim | changed))


SCATTERED = np.random.default_rng(3).permutation(SIZE)
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "one of ten shares missing": ({"noise": lambda g, n: shares(g, n, 1)}, "noise"),
    "noise 10 % small": ({"noise": lambda g, n: shares(g, n, factor=0.9)}, "noise"),
    "noise 2 % small": ({"noise": lambda g, n: shares(g, n, factor=0.98)}, "noise"),
    "one seed for all": ({"noise": one_seed_for_all}, "fresh_rounds"),
    "clip 1.5": ({"clip": 1.5}, "clip"),
    "clip 1.2": ({"clip": 1.2}, "clip"),
    "clip 1.2 when quiet": ({"clip": 1.2, "quiet": 0.05}, "clip_of_each_client_when_quiet"),
    "clip 1.03 when quiet": ({"clip": 1.03, "quiet": 0.05}, "clip_when_quiet"),
    "no noise on every 50th": ({"noise": weak(slice(None, None, 50), 0.0)}, "noise_of_each_coordinate"),
    "no noise on the last 100": ({"noise": weak(slice(-100, None), 0.0)}, "noise_of_each_coordinate"),
    "no noise on one": ({"noise": weak(slice(777, 778), 0.0)}, "noise_of_each_coordinate"),
    "a tenth of the noise on three": ({"noise": weak(SCATTERED[:3], 0.1)}, "noise_of_each_coordinate"),
    "half the noise on 12 neighbors": ({"noise": weak(slice(501, 513), 0.5)}, "noise_of_blocks"),
    "0.8 of the noise on 100 neighbors": ({"noise": weak(slice(4321, 4421), 0.8)}, "noise_of_blocks"),
    "half the noise on 200 anywhere": ({"noise": weak(SCATTERED[:200], 0.5)}, "noise_of_scattered_coordinates"),
    "0.8 of the noise on every 50th": ({"noise": weak(slice(7, None, 50), 0.8)}, "noise_of_combs"),
}  # fmt: skip


@pytest.mark.sampled(6)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found_with_the_default_settings(fault: str, seed: int) -> None:
    setting, check = FAULTS[fault]
    assert check in audit(seed, **setting).failures


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found_with_each_of_50_seeds(fault: str) -> None:
    setting, check = FAULTS[fault]
    assert [seed for seed in range(100, 150) if check not in audit(seed, **setting).failures] == []


def judged(seed: int, noise: Noise = shares) -> None:
    """A right pipeline passes, and what is printed is not above the claim."""
    report = audit(seed, noise, epsilon_upper=UPPER, quiet=0.05, rounds=22)
    assert report.passed, report.describe()
    assert report.epsilon.epsilon_lower <= UPPER


@pytest.mark.sampled(3)
@pytest.mark.parametrize("seed", range(10))
def test_right_pipeline_raises_no_alarm(seed: int) -> None:
    judged(seed)


@pytest.mark.slow
def test_right_pipeline_raises_no_alarm_with_200_seeds() -> None:
    """None are expected: the chance of any is 200 times 1e-6."""
    for seed in range(1000, 1200):
        judged(seed)


def lattice(law: str, units: float) -> Noise:
    """Noise on integers, as it stands; a standard deviation of so many units."""

    def noise(generator: np.random.Generator, number: int) -> np.ndarray:
        if law == "skellam":
            drawn = generator.poisson(units**2 / 2, SIZE) - generator.poisson(units**2 / 2, SIZE)
        else:
            support = np.arange(-int(12 * units) - 2, int(12 * units) + 3)
            weights = np.exp(-(support**2) / (2 * units**2))
            drawn = generator.choice(support, SIZE, p=weights / weights.sum())
        return drawn / units

    return noise


LATTICES = pytest.mark.parametrize(
    ("law", "units"), [("skellam", 1.0), ("gaussian", 1.5), ("skellam", 3.0), ("gaussian", 20.0)]
)


@pytest.mark.sampled(2)
@LATTICES
def test_noise_on_a_lattice_raises_no_alarm(law: str, units: float) -> None:
    """Four rounds: with noise of one unit some coordinates draw zero in all of them, rightly."""
    noise = lattice(law, units)
    for seed in range(3):
        for rounds in (4, 22):
            report = audit(seed, noise, rounds=rounds)
            assert not set(NEW) & set(report.failures), report.describe()


@pytest.mark.slow
@LATTICES
def test_noise_on_a_lattice_raises_no_alarm_with_200_seeds(law: str, units: float) -> None:
    noise = lattice(law, units)
    for seed in range(200):
        report = audit(seed, noise, rounds=(4, 8, 22)[seed % 3])
        assert not set(NEW) & set(report.failures), report.describe()


def test_coordinates_without_noise_are_found_on_a_lattice() -> None:
    def noise(generator: np.random.Generator, number: int) -> np.ndarray:
        drawn = lattice("skellam", 10.0)(generator, number)
        drawn[-100:] = 0
        return drawn

    assert {"noise_of_each_coordinate", "noise_of_blocks"} <= set(audit(1, noise).failures)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("size", "rounds"), [(100, 4), (1000, 4), (20_000, 4), (20_000, 2)])
def test_one_coordinate_without_any_noise_is_found_in_few_rounds(size: int, rounds: int) -> None:
    for seed in range(10):

        def noise(generator: np.random.Generator, number: int, size: int = size) -> np.ndarray:
            drawn = generator.standard_normal(size)
            drawn[size // 3] = 0
            return drawn

        assert "noise_of_each_coordinate" in audit(seed, noise, size=size, rounds=rounds).failures


@pytest.mark.parametrize("runs", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_each_check_alarms_as_often_as_its_share_at_most(runs: int) -> None:
    """At a share of 0.2, with squares drawn from their law; looking at single coordinates wastes nothing."""
    chance, share, rounds = np.random.default_rng(4), 0.2, 6
    counts = dict.fromkeys(NEW, 0)
    for _ in range(runs):
        squares = chance.chisquare(rounds, 500)
        for check in (
            each_coordinate(squares, rounds, 0.0, share)[0],
            scattered(squares, rounds, 0.0, share),
            blocks(squares, rounds, 0.0, share),
            combs(squares, rounds, 0.0, share),
        ):
            counts[check.name] += not check.passed
    for name, count in counts.items():
        assert stats.binom.sf(count - 1, runs, share) > 1e-9, name
    assert stats.binom.cdf(counts["noise_of_each_coordinate"], runs, 1 - (1 - share / 500) ** 500) > 1e-9
    assert min(counts.values()) > 0


@pytest.mark.parametrize(
    ("size", "rounds", "left"),
    [(1000, 8, 0.022), (1000, 64, 0.38), (20_000, 22, 0.13), (20_000, 40, 0.26), (1_000_000, 8, 0.009)],
)
def test_one_coordinate_is_found_at_the_size_of_fault_that_is_stated(size: int, rounds: int, left: float) -> None:
    """The documentation's table: what is left of the noise is seen with 999 chances of 1,000, and it is no less."""
    squares = np.full(size, float(rounds))
    check, resolution = each_coordinate(squares, rounds, 0.0, 1e-6 / 11)
    found = special.gammainc(rounds / 2, rounds * (check.low / left) ** 2 / 2)
    assert found >= 0.999
    assert left <= 1 - resolution < left * 1.12
    squares[size // 2] = (left * check.low / left) ** 2 * rounds * 0.99
    assert not each_coordinate(squares, rounds, 0.0, 1e-6 / 11)[0].passed


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("neighbors", "rounds", "left"), [(12, 22, 0.55), (100, 8, 0.72), (100, 22, 0.82)])
def test_neighbors_are_found_at_the_size_of_fault_that_is_stated(neighbors: int, rounds: int, left: float) -> None:
    chance, missed = np.random.default_rng(6), 0
    for start in range(200):
        squares = chance.chisquare(rounds, SIZE)
        squares[start : start + neighbors] *= left**2
        missed += blocks(squares, rounds, 0.0, 1e-6 / 11).passed
    assert missed <= 2  # 0.2 are expected


def test_the_last_coordinates_belong_to_a_block() -> None:
    for size in (1001, 1023, 1024):
        squares = np.full(size, 8.0)
        squares[-2:] = 0
        assert not blocks(squares, 8, 0.0, 1e-6).passed


def test_resolution_of_one_coordinate_is_reported() -> None:
    report = audit(0)
    assert report.rounds == 22
    assert report.coordinate_resolution == pytest.approx(0.86, abs=0.01)
    assert report.clip_resolution <= 0.2
    assert "in 22 rounds" in report.describe()
    assert "not shown" not in report.describe()
    assert "not shown: whether a clip that is 20% too long" in audit(0, rounds=8).describe()


def test_coarse_lattice_blinds_the_checks_and_raises_no_alarm() -> None:
    squares = np.zeros(100)
    assert each_coordinate(squares, 8, 2.0, 1e-6)[0].passed
    assert each_coordinate(squares, 1000, 1.9, 1e-6)[0].passed
    assert scattered(squares, 8, 2.0, 1e-6).passed
    assert blocks(squares, 8, 2.0, 1e-6).passed
    assert combs(squares, 8, 2.0, 1e-6).passed
    assert not blocks(squares, 8, 0.0, 1e-6).passed


def test_binomial_limit_is_the_smallest_that_keeps_the_chance() -> None:
    for trials, chance, error in [(20_000, 0.1, 1e-8), (20_000, 1e-4, 1e-8), (100, 1e-3, 0.05), (3, 0.1, 1e-8)]:
        limit = coordinate_checks._binomial_limit(trials, chance, error)
        assert stats.binom.sf(limit, trials, chance) <= error
        assert limit == 0 or stats.binom.sf(limit - 1, trials, chance) > error


@pytest.mark.sampled(1)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_printed_epsilon_is_not_above_the_claim_where_the_audit_passes(adjacency: str) -> None:
    """Bounds at 95 % are, in some of these runs; the claim is that of the noise, given or not."""
    small = {"size": 400, "rounds": 4, "adjacency": adjacency}
    above = 0
    claim = gaussian_epsilon(2.0 if adjacency == "replace" else 1.0, DELTA) * (1 + 1e-8)
    for seed in range(60):
        report = audit(seed, lambda generator, number: generator.standard_normal(400), **small)
        assert report.passed
        assert report.epsilon.epsilon_lower <= claim
        loose = bound(report.scores, report.included, delta=DELTA, confidence=0.95, method="gaussian")
        above += loose.epsilon_lower > claim
    assert above > 0


def test_epsilon_above_the_claim_fails_though_none_is_given() -> None:
    """The claim is that of normal noise with the multiplier."""
    report = audit(1, lambda generator, number: 0.01 * generator.standard_normal(SIZE))
    assert "epsilon" in report.failures
    assert report.epsilon.epsilon_lower > UPPER


def test_one_client_with_a_clip_of_a_half_more_is_found_when_quiet() -> None:
    chance = np.random.default_rng(7)

    def pipeline(scale: float) -> Any:
        def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
            clipped = [
                update * min(1.0, (1.5 if client == 7 else 1.0) / max(float(np.linalg.norm(update)), 1e-9))
                for client, update in enumerate(contributions)
            ]
            return np.sum(clipped, axis=0) + scale * chance.standard_normal(SIZE)

        return release

    report = self_audit(
        pipeline(1.0), clients=CLIENTS, size=SIZE, clip_norm=1.0, noise_multiplier=1.0,
        generator=np.random.default_rng(8), quiet_release=pipeline(0.05),
    )  # fmt: skip
    assert "clip_of_each_client_when_quiet" in report.failures
    assert "clip_of_each_client" not in report.failures
    assert report.rounds == 8


def chance_of_little(law: str, units: float, squares: int, limit: float) -> float:
    """Sum the exact law of so many squares on the lattice, up to the limit of the root of their mean."""
    most = math.floor(squares * (limit * units) ** 2 * (1 - 1e-12))
    points = np.arange(math.isqrt(most) + 1)
    if law == "skellam":
        chances = special.ive(points, units**2)
    else:
        everywhere = np.arange(-int(40 * units), int(40 * units) + 1)
        chances = np.exp(-(points**2) / (2 * units**2)) / np.exp(-(everywhere**2) / (2 * units**2)).sum()
    one = np.zeros(most + 1)
    one[points**2] = chances * np.where(points > 0, 2, 1)
    total = one
    for _ in range(squares - 1):
        total = np.convolve(total, one)[: most + 1]
    return float(total.sum())


@pytest.mark.parametrize("law", ["skellam", "gaussian"])
@pytest.mark.parametrize("units", [1.0, 2.0, 3.0, 10.0])
def test_limits_hold_for_the_exact_law_on_a_lattice(law: str, units: float) -> None:
    """Without the factor for a lattice some would not hold."""
    judged = 0
    for squares in (1, 2, 3, 4, 8, 16):
        for chance in (0.6, 0.44, 0.1, 1e-3, 1e-6, 1e-9, 1e-12):
            for limit_of in (coordinate_checks._limit, coordinate_checks._limit_of_group):
                limit = limit_of(squares, chance, 1 / units)
                if limit > 0:
                    judged += 1
                    assert chance_of_little(law, units, squares, limit) <= chance, (squares, chance, limit)
    assert judged > 0
