"""The self-audit through the real pipelines: right ones pass, and each planted error is found.

Sums go through whole sessions. The rotation is held fixed: behind a new one for every sum, noise that repeats would not
be seen in the values (it would be by who undoes the rotation).
"""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import secfed
from secfed import dp
from secfed.aggregation import (
    CentralGaussian,
    DistributedGaussian,
    private_sum,
)
from secfed.attacks import SelfAudit, self_audit
from secfed.crypto.entropy import SystemEntropy
from secfed.dp.noise import samplers, shares
from secfed.encoding import conditional_rounding

CLIENTS, SIZE, CLIP = 10, 4000, 2.5
SECURE = secfed.SecAgg(threshold=7)
PRIVACIES: dict[str, Any] = {
    "central": CentralGaussian(CLIP, 1.5),
    "discrete_gaussian": DistributedGaussian(CLIP, 1.5),
    "skellam": DistributedGaussian(CLIP, 1.5, mechanism="skellam"),
    "layers": DistributedGaussian(CLIP, 1.5, layers=4),
}
EVERY_PRIVACY = pytest.mark.parametrize("privacy", PRIVACIES.values(), ids=PRIVACIES)
DEFAULT = (1.25, "central")  # the wrong clip of the default run
# The default run plants errors in the mechanism with most parts.
DISTRIBUTED = pytest.mark.parametrize(
    "privacy",
    [
        pytest.param(PRIVACIES[name], id=name, marks=[] if name == "layers" else [pytest.mark.slow])
        for name in ("discrete_gaussian", "skellam", "layers")
    ],
)


@pytest.fixture(autouse=True)
def fixed_rotation(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_as(monkeypatch, lambda label, size: None)


def draw_as(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[str, int], bytes | None]) -> None:
    """Let some draws from the system be chosen by hand."""

    def draw(self: SystemEntropy, label: str, size: int) -> bytes:
        return bytes(size) if label == "rotation" else chosen(label, size) or os.urandom(size)

    monkeypatch.setattr(SystemEntropy, "draw", draw)


def audit(privacy: Any, aggregator: Any = SECURE, **changed: Any) -> SelfAudit:
    """Hold what the aggregator releases against what its event says."""
    transform: Any = aggregator.prepare(np.zeros(SIZE), range(1, CLIENTS + 1), privacy=privacy).transform
    event = transform.event(CLIENTS)
    step = transform.lattice.step * CLIP  # the transform's own unit is the clip

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        return np.asarray(aggregator.aggregate(contributions, privacy=privacy, round=number).mean) * CLIENTS

    claim: dict[str, Any] = {
        "clients": CLIENTS, "size": SIZE, "clip_norm": CLIP, "rounds": 10, "generator": np.random.default_rng(4),
        "false_alarm": 1e-9,
        "noise_multiplier": math.sqrt(event.noise_variance * event.clients) * step / CLIP,
        "rounding_std": math.sqrt(CLIENTS / 4) * step,
        "epsilon_upper": dp.Accountant().compose(event).epsilon(1e-5),
    }  # fmt: skip
    return self_audit(release, **(claim | changed))


@pytest.mark.sampled(1)
@EVERY_PRIVACY
def test_right_pipeline_passes(privacy: Any) -> None:
    report = audit(privacy)
    assert report.passed, report.describe()
    assert report.noise_resolution < 0.05


def test_right_pipeline_in_the_clear_passes() -> None:
    report = audit(PRIVACIES["central"], secfed.Plain())
    assert report.passed, report.describe()


@DISTRIBUTED
def test_missing_share_of_noise_is_found(privacy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ten clients leaves out the layer that would stay in the sum (with one layer: all), in every sum."""
    made = []

    class Forgetful(shares.NoiseShare):
        def draw(self) -> Any:
            made.append(self)
            forgotten = shares.layer_of_noise(self._plan, 0, self._seeds[0])
            return super().draw() - forgotten * (len(made) % CLIENTS == 0)

    monkeypatch.setattr(private_sum, "NoiseShare", Forgetful)
    assert "noise" in audit(privacy).failures


@EVERY_PRIVACY
@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.slow
def test_noise_of_a_wrong_size_is_found(privacy: Any, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("discrete_gaussian", "skellam"):
        right = getattr(samplers, name)
        monkeypatch.setattr(samplers, name, lambda variance, size, seed, right=right: right(
            variance * factor**2, size, seed))  # fmt: skip
    assert "noise" in audit(privacy).failures


@pytest.mark.parametrize(
    ("factor", "privacy"),
    [
        pytest.param(factor, privacy, id=f"{factor:g}-{name}", marks=[pytest.mark.slow] * ((factor, name) != DEFAULT))
        for factor in (0.8, 1.25, 1e9)
        for name, privacy in PRIVACIES.items()
    ],
)
def test_wrong_clip_is_found(privacy: Any, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long takes two errors: the rounding clips once more. What is beyond its bound is rounded towards zero."""
    right = conditional_rounding.clip_by_norm

    def clip(values: Any, clip_norm: float) -> Any:
        return right(values, clip_norm * factor)

    monkeypatch.setattr(private_sum, "clip_by_norm", clip)
    monkeypatch.setattr(conditional_rounding, "clip_by_norm", clip)
    little = replace(privacy, noise_multiplier=0.2)
    if isinstance(little, DistributedGaussian):
        little = replace(little, bits=20)
    assert "clip" in audit(little).failures


@EVERY_PRIVACY
@pytest.mark.slow
def test_clip_of_1_3_is_found_with_the_default_rounds(privacy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a noise multiplier of 1; with more bits, so that the longer sums do not wrap around.

    Conditional rounding takes a part of it back: about 1.24 is left.
    """
    right = conditional_rounding.clip_by_norm

    def clip(values: Any, clip_norm: float) -> Any:
        return right(values, clip_norm * 1.3)

    monkeypatch.setattr(private_sum, "clip_by_norm", clip)
    monkeypatch.setattr(conditional_rounding, "clip_by_norm", clip)
    found = replace(privacy, noise_multiplier=1.0)
    if isinstance(found, DistributedGaussian):
        found = replace(found, bits=20)
    report = audit(found, rounds=None)
    assert report.rounds > 20
    assert report.clip_resolution <= 0.2
    assert "clip" in report.failures


def test_coordinates_without_noise_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Central noise stays where it was drawn: the last five of 4,000 coordinates get none."""
    right = samplers.discrete_gaussian

    def forgetful(variance: float, size: int, seed: bytes) -> Any:
        drawn = np.array(right(variance, size, seed))
        drawn[SIZE - 5 : SIZE] = 0
        return drawn

    monkeypatch.setattr(samplers, "discrete_gaussian", forgetful)
    assert "noise_of_each_coordinate" in audit(PRIVACIES["central"]).failures


@EVERY_PRIVACY
@pytest.mark.slow
def test_right_pipeline_passes_with_the_default_rounds_and_a_quiet_release(privacy: Any) -> None:
    """The quiet one is the same pipeline at a noise multiplier of 0.1."""
    quiet = replace(privacy, noise_multiplier=0.1)
    if isinstance(quiet, DistributedGaussian):
        quiet = replace(quiet, bits=20)

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        return np.asarray(SECURE.aggregate(contributions, privacy=quiet, round=number).mean) * CLIENTS

    report = audit(privacy, rounds=None, quiet_release=release, quiet_noise_multiplier=0.1)
    assert report.passed, report.describe()
    assert report.clip_resolution < 0.1
    assert report.epsilon.epsilon_lower <= {check.name: check.high for check in report.checks}["epsilon"]


@EVERY_PRIVACY
@pytest.mark.slow
def test_the_same_noise_in_every_round_is_found(privacy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client's seeds are its own, but those of the round before."""
    drawn: dict[str, int] = {}

    def chosen(label: str, size: int) -> bytes | None:
        if not label.startswith("noise"):
            return None
        drawn[label] = drawn.get(label, 0) + 1
        client = 0 if isinstance(privacy, CentralGaussian) else drawn[label] % CLIENTS
        return f"{label} {client}".encode().ljust(size, b".")

    draw_as(monkeypatch, chosen)
    assert "fresh_rounds" in audit(privacy).failures


@DISTRIBUTED
def test_the_same_noise_of_two_clients_is_found(privacy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, int] = {}

    def chosen(label: str, size: int) -> bytes | None:
        if not label.startswith("noise"):
            return None
        drawn[label] = drawn.get(label, 0) + 1
        number, client = divmod(drawn[label] - 1, CLIENTS)
        return f"{label} {number} {max(1, client)}".encode().ljust(size, b".")  # 0 and 1 are one

    draw_as(monkeypatch, chosen)
    assert "noise" in audit(privacy).failures
