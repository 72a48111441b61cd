"""The self-audit: right pipelines pass, each planted error fails the check that is there for it."""

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from secfed.attacks import canaries, self_audit
from secfed.attacks.audit import audit, gaussian_epsilon
from secfed.attacks.canaries import SelfAudit
from secfed.errors import ConfigError

CLIENTS, SIZE, CLIP = 20, 1 << 15, 3.0
Release = Callable[[list[np.ndarray], int], np.ndarray]


def clipped(update: np.ndarray, clip: float = CLIP) -> np.ndarray:
    return update * min(1.0, clip / max(float(np.linalg.norm(update)), 1e-300))


def independent(client: int, number: int) -> list[int]:
    return [client, number]


def distributed(
    seed: int,
    *,
    clients: int = CLIENTS,
    size: int = SIZE,
    noise_multiplier: float = 1.0,
    clip: Callable[[np.ndarray], np.ndarray] = clipped,
    seeds: Callable[[int, int], Any] = independent,
    silent: tuple[int, ...] = (),
) -> Release:
    """A sum in which each client has its own share of the noise, except the silent ones."""

    share = noise_multiplier * CLIP / math.sqrt(clients)
    alike = seeds is independent and not silent

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        total = sum(map(clip, contributions), np.zeros(size))
        if alike:  # the sum of independent shares has the law of one draw, which costs a fraction of them
            return total + math.sqrt(clients) * share * np.random.default_rng([seed, number]).standard_normal(size)
        for client in range(clients):
            if client not in silent:
                total += share * np.random.default_rng([seed, *seeds(client, number)]).standard_normal(size)
        return total

    return release


def run(release: Release, **changed: Any) -> SelfAudit:
    claim: dict[str, Any] = {
        "clients": CLIENTS,
        "size": SIZE,
        "clip_norm": CLIP,
        "noise_multiplier": 1.0,
        "generator": np.random.default_rng(11),
    }
    return self_audit(release, **(claim | changed))


def test_example_in_the_documentation_runs() -> None:
    outcome = doctest.testmod(canaries)
    assert outcome.attempted == 5
    assert outcome.failed == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 8.0])
def test_right_pipeline_passes(noise_multiplier: float, adjacency: str) -> None:
    sensitivity = 1 if adjacency == "add_remove" else 2
    upper = gaussian_epsilon(sensitivity / noise_multiplier, 1e-5)
    release = distributed(1, noise_multiplier=noise_multiplier)
    report = run(release, noise_multiplier=noise_multiplier, adjacency=adjacency, epsilon_upper=upper)
    assert report.failures == ()
    assert report.passed
    assert len(report.checks) == 11
    assert report.epsilon.consistent_with(upper)


@pytest.mark.parametrize("runs", [60, pytest.param(250, marks=pytest.mark.slow)])
def test_false_alarms_are_no_oftener_than_stated(runs: int) -> None:
    """At a chance of one half, and one eleventh of it for each check; each count is within the binomial law."""
    share = 0.5 / 11
    counts: dict[str, int] = {}
    for seed in range(runs):
        random = np.random.default_rng([seed, 1])

        def release(contributions: list[np.ndarray], number: int, random: np.random.Generator = random) -> np.ndarray:
            return sum(map(clipped, contributions)) + random.normal(0, 1.5 * CLIP, 1024)

        setting = {"clients": 8, "size": 1024, "noise_multiplier": 1.5, "rounds": 4, "false_alarm": 0.5}
        report = run(release, generator=np.random.default_rng(seed), **setting)
        for name in [*report.failures, "any"] if report.failures else []:
            counts[name] = counts.get(name, 0) + 1
    assert stats.binom.sf(counts.pop("any") - 1, runs, 0.5) > 1e-9
    for name, count in counts.items():
        assert stats.binom.sf(count - 1, runs, share) > 1e-9, name
    # Exact ones are as often as stated too, so that no power is wasted.
    for name in ("noise", "noise_of_parts", "clip"):
        assert stats.binom.cdf(counts.get(name, 0), runs, share) > 1e-9, name


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", range(20))
def test_right_pipeline_passes_whatever_the_seed(seed: int) -> None:
    report = run(
        distributed(seed, clients=5, size=4096), clients=5, size=4096, rounds=2, generator=np.random.default_rng(seed)
    )
    assert report.passed, report.describe()


@pytest.mark.parametrize("client", [0, 13])
def test_missing_share_of_noise_is_found(client: int) -> None:
    report = run(distributed(2, silent=(client,)))
    assert "noise" in report.failures
    assert {"clip", "fresh_rounds", "fresh_parts"}.isdisjoint(report.failures)
    assert report.noise_resolution < 1 - math.sqrt(1 - 1 / CLIENTS)  # as announced


@pytest.mark.sampled(2)
@pytest.mark.parametrize("factor", [0.9, 1.1, 0.97, 1.03])
def test_wrong_noise_is_found(factor: float) -> None:
    assert "noise" in run(distributed(3, noise_multiplier=factor)).failures


def per_layer(update: np.ndarray) -> np.ndarray:
    return np.concatenate([clipped(layer) for layer in np.array_split(update, [100, 5000, 20_000])])


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "clip",
    [
        lambda update: clipped(update, 1.5 * CLIP),
        lambda update: clipped(update, 0.5 * CLIP),
        lambda update: update,
        lambda update: np.clip(update, -CLIP, CLIP),
        lambda update: update * min(1.0, CLIP / max(np.abs(update).sum(), 1e-300)),
        lambda update: 0 * update,
        per_layer,
    ],
    ids=["loose", "tight", "none", "of each coordinate", "of the sum of sizes", "to nothing", "of each layer"],
)
def test_wrong_clip_is_found(clip: Callable[[np.ndarray], np.ndarray]) -> None:
    report = run(distributed(4, clip=clip))
    assert "clip" in report.failures
    assert report.clip_resolution < 0.25


def test_one_client_that_does_not_clip_is_found() -> None:
    """Also where it hides among many: its own canary is ten times too long."""
    inner = distributed(5)

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        return inner(contributions, number) + contributions[7] - clipped(contributions[7])

    assert {"clip", "clip_of_each_client"} <= set(run(release).failures)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("seeds", "check"),
    [
        (lambda client, number: [client, 0], "fresh_rounds"),
        (lambda client, number: [client, min(number, 6)], "fresh_rounds"),
        (lambda client, number: [client, number if client else 0], "fresh_rounds"),
        (lambda client, number: [client + number, 0], "fresh_rounds"),
        (lambda client, number: [min(client, 18), number], "noise"),
        (lambda client, number: [0, number], "noise"),
    ],
    ids=["every round", "the last two rounds", "one client", "a neighbour's", "two clients", "all clients"],
)
def test_reused_seed_is_found(seeds: Callable[[int, int], Any], check: str) -> None:
    report = run(distributed(6, seeds=seeds))
    assert check in report.failures
    assert "clip" not in report.failures or check == "noise"


def test_noise_that_repeats_within_a_round_is_found() -> None:
    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        noise = np.random.default_rng([7, number]).normal(0, CLIP, SIZE // 4)
        return sum(map(clipped, contributions)) + np.tile(noise, 4)

    assert run(release).failures == ("fresh_parts",)


def test_noise_that_leaves_a_part_out_is_found() -> None:
    """The right variance over all, but the last sixteenth has none."""

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        noise = np.random.default_rng([8, number]).normal(0, CLIP * math.sqrt(16 / 15), SIZE)
        noise[-SIZE // 16 :] = 0
        return sum(map(clipped, contributions)) + noise

    assert "noise_of_parts" in run(release).failures


def test_no_noise_fails_and_refutes_every_epsilon() -> None:
    report = run(lambda contributions, number: sum(map(clipped, contributions)), epsilon_upper=100.0)
    assert {"noise", "noise_of_parts", "epsilon"} <= set(report.failures)
    assert report.epsilon.epsilon_lower > 1e6


def test_too_small_a_claim_of_epsilon_is_refuted() -> None:
    report = run(distributed(9, noise_multiplier=0.3), noise_multiplier=0.3, epsilon_upper=2.0)
    assert report.failures == ("epsilon",)


def lattice(seed: int, modulus_bits: int) -> tuple[Release, float, float]:
    """Signs, rotation, randomized rounding, Skellam noise, a sum that wraps, and back; the multiplier, the rounding."""
    step, clients, variance = CLIP / 400, CLIENTS, 90_000 / CLIENTS

    def rotated(values: np.ndarray) -> np.ndarray:
        values, width = values.copy(), 1
        while width < SIZE:
            pairs = values.reshape(-1, 2, width)
            values = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
            width *= 2
        return values / math.sqrt(SIZE)

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        random = np.random.default_rng([seed, number])
        signs, total = random.integers(0, 2, SIZE) * 2 - 1, np.zeros(SIZE, np.int64)
        for update in contributions:
            values = rotated(clipped(update) * signs) / step
            total += np.floor(values + random.random(SIZE)).astype(np.int64)
            total += random.poisson(variance / 2, SIZE) - random.poisson(variance / 2, SIZE)
        half = 1 << (modulus_bits - 1)
        return rotated(((total + half) % (2 * half) - half) * step) * signs

    return release, math.sqrt(clients * variance) * step / CLIP, math.sqrt(clients / 4) * step


def test_integer_pipeline_passes_and_one_that_wraps_around_fails() -> None:
    release, noise_multiplier, rounding_std = lattice(10, 16)
    setting: dict[str, Any] = {"noise_multiplier": noise_multiplier, "rounding_std": rounding_std, "rounds": 2}
    assert run(release, **setting).failures == ()
    assert "noise" in run(lattice(10, 10)[0], **setting).failures


def test_rounding_that_is_announced_is_allowed_for_and_no_more() -> None:
    release = distributed(11, noise_multiplier=math.hypot(1.0, 0.2))
    assert "noise" in run(release).failures
    assert run(release, rounding_std=0.25 * CLIP).passed
    assert "noise" in run(distributed(11, noise_multiplier=0.97), rounding_std=0.25 * CLIP).failures


def test_scores_are_those_of_fair_canaries() -> None:
    """What is handed out may be audited by any method; the mean of those in is 1, of those out 0 or -1."""
    for adjacency, excluded in (("add_remove", 0.0), ("replace", -1.0)):
        release = distributed(12, noise_multiplier=0.2)
        report = run(release, noise_multiplier=0.2, adjacency=adjacency, rounds=10)
        assert report.scores.shape == report.included.shape == (100,)
        assert report.scores[report.included].mean() == pytest.approx(1, abs=0.2)
        assert report.scores[~report.included].mean() == pytest.approx(excluded, abs=0.2)
        one_run = audit(report.scores, report.included, delta=1e-5)
        gaussian = audit(report.scores, report.included, delta=1e-5, method="gaussian")
        assert 1 < one_run.epsilon_lower < gaussian.epsilon_lower


@pytest.mark.parametrize("runs", [8, pytest.param(40, marks=pytest.mark.slow)])
def test_announced_resolutions_are_kept(runs: int) -> None:
    """Errors just as large as announced are found in all of so many runs: each is missed once in 1,000 at most."""
    setting: dict[str, Any] = {"clients": 6, "size": 4096, "rounds": 4, "noise_multiplier": 0.5, "false_alarm": 1e-3}

    def each(client: int, number: int) -> list[int]:  # not `independent`: here the noise comes share by share
        return [client, number]

    right = run(distributed(13, clients=6, size=4096, noise_multiplier=0.5, seeds=each), **setting)
    assert 0 < right.noise_resolution < 0.1
    for seed in range(runs):
        noise = 0.5 * (1 - right.noise_resolution)
        weak = distributed(seed + 100, clients=6, size=4096, noise_multiplier=noise, seeds=each)
        long = distributed(
            seed + 200,
            clients=6,
            size=4096,
            noise_multiplier=0.5,
            seeds=each,
            clip=lambda update: clipped(update, CLIP * (1 + right.clip_resolution)),
        )
        assert "noise" in run(weak, **setting).failures
        # The coins are those of `right`, so the resolution is the same.
        assert "clip" in run(long, **setting).failures


def test_contributions_are_too_long_and_the_callers_own() -> None:
    seen: list[float] = []

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        seen.extend(float(np.linalg.norm(update)) for update in contributions)
        total = np.random.default_rng([14, number]).normal(0, CLIP, SIZE)
        for update in contributions:  # in place, as a pipeline may
            update *= CLIP / max(float(np.linalg.norm(update)), CLIP)
            total += update
            update[:] = math.nan
        return total

    assert run(release, oversize=4.0, rounds=2).passed
    assert np.unique(np.round(seen, 9)).tolist() == [0.0, 4 * CLIP]


def test_description_names_what_failed_and_what_would_be_found() -> None:
    text = run(distributed(15, noise_multiplier=0.9), epsilon_upper=5.0).describe()
    assert "FAIL noise: standard deviation of the noise / claimed is 0.9" in text
    assert "ok   clip:" in text
    assert "one share of noise missing among up to" in text


@pytest.mark.parametrize("clients", [1, 2])
def test_few_clients_are_enough(clients: int) -> None:
    setting = {"clients": clients, "size": 4 * clients, "rounds": 2}
    report = run(distributed(16, clients=clients, size=4 * clients), **setting)
    assert report.passed
    assert report.noise_resolution > 0.5  # and it says that it saw next to nothing


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"clip_norm": 0.0}, "clip_norm 0.0 must be"),
        ({"clip_norm": math.nan}, "clip_norm nan"),
        ({"noise_multiplier": -1.0}, "noise_multiplier -1.0"),
        ({"noise_multiplier": math.inf}, "noise_multiplier inf"),
        ({"oversize": 0.9}, "oversize 0.9"),
        ({"oversize": math.nan}, "oversize nan"),
        ({"rounding_std": -1.0}, "rounding_std -1.0"),
        ({"rounding_std": math.nan}, "rounding_std nan"),
        ({"clients": 0}, "0 clients"),
        ({"size": 4 * CLIENTS - 1}, "79 coordinates"),
        ({"rounds": 1}, "1 rounds"),
        ({"adjacency": "substitute"}, "adjacency 'substitute'"),
        ({"false_alarm": 0.0}, "false_alarm 0.0"),
        ({"delta": 1.0}, "delta 1.0"),
        ({"epsilon_upper": math.nan}, "epsilon_upper nan"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_released(changed: dict[str, Any], text: str) -> None:
    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        raise AssertionError("released")

    with pytest.raises(ConfigError, match=text):
        run(release, **changed)


@pytest.mark.parametrize("wrong", [np.zeros(SIZE - 1), np.zeros((SIZE, 1)), np.full(SIZE, math.nan)])
def test_wrong_release_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ConfigError, match=f"needed {SIZE} finite numbers"):
        run(lambda contributions, number: wrong)
