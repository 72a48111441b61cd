"""Every kind of sum over HTTP, and what a client refuses of it."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from secfed.aggregation import (
    AdaptiveClipping,
    CentralGaussian,
    DistributedGaussian,
    LowRank,
    PrivateSum,
    RandomRotation,
    SecAgg,
)
from secfed.errors import ConfigError, FaultyServerError
from secfed.transport import Driver, SessionParameters, Store, Terms, join
from tests.transport.sessions import serving

EXAMPLE = {"w": np.zeros((8, 6), np.float32), "b": np.zeros(3)}
IDS = (1, 2, 3)
ROTATED = (LowRank(2), RandomRotation())
CENTRAL = CentralGaussian(clip_norm=2.0, noise_multiplier=0.01)
DISTRIBUTED = DistributedGaussian(clip_norm=2.0, noise_multiplier=0.01, minimum_survivors=3)


def update_of(client_id: int) -> dict[str, Any]:
    values = np.random.default_rng(client_id).normal(size=51) / 10
    return {"w": values[:48].reshape(8, 6).astype(np.float32), "b": values[48:]}


def announced(privacy: Any = None, **options: Any) -> tuple[SessionParameters, Any]:
    aggregator = SecAgg(**{"threshold": 3, "clip": 1.0, "max_weight": 4, **options})
    transform: Any = aggregator.transform(EXAMPLE, len(IDS), None, privacy)
    return SessionParameters.of(bytes(32), aggregator.config(IDS, transform), transform), transform


def run(parameters: SessionParameters, terms: Terms, weights: tuple[int, ...] = (1, 1, 1)) -> Driver:
    driver = Driver(parameters, Store(), threads=1)

    async def session() -> None:
        async with serving(driver) as url:
            each = zip(IDS, weights, strict=True)
            await asyncio.gather(
                *(join(url, i, update_of(i), weight=weight, terms=terms, timeout=20) for i, weight in each)
            )

    asyncio.run(session())
    return driver


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({"scale_weights": True, "bits": 16}, Terms(scale_weights=True, bits=16, clip=1.0, max_weight=4)),
        ({"compression": RandomRotation(), "bits": 14}, Terms(compression=RandomRotation(), bits=14)),
        (
            {"compression": RandomRotation(), "scale_weights": True, "bits": 16},
            Terms(compression=RandomRotation(), scale_weights=True),
        ),
    ],
    ids=["scaled", "rotated", "both"],
)
def test_mean_over_http_is_that_of_the_updates(options: dict[str, Any], terms: Terms) -> None:
    parameters, transform = announced(**options)
    driver = run(parameters, terms, (1, 2, 4))
    found = transform.decode(driver.sum, driver.survivors)
    assert found.weight == 7
    for name, array in found.mean.items():
        mean = sum(weight * update_of(i)[name] for i, weight in zip(IDS, (1, 2, 4), strict=True)) / 7
        np.testing.assert_allclose(array, mean, atol=2e-3)


def test_compression_over_http_sends_a_shorter_vector() -> None:
    parameters, transform = announced(compression=LowRank(2))
    driver = run(parameters, Terms(compression=LowRank(2)))
    assert len(driver.sum) < 52
    decoded = transform.decode(driver.sum, driver.survivors).mean
    mean = {name: np.mean([update_of(i)[name] for i in IDS], axis=0) for name in EXAMPLE}
    expected = transform.maps.expand(transform.maps.compress(mean))
    np.testing.assert_allclose(np.concatenate([decoded["b"], decoded["w"].ravel()]), expected, atol=2e-3)


@pytest.mark.parametrize("privacy", [CENTRAL, DISTRIBUTED], ids=["central", "distributed"])
@pytest.mark.parametrize("compression", [None, LowRank(2)], ids=["whole", "compressed"])
def test_private_sum_over_http_has_its_noise_and_its_event(privacy: Any, compression: Any) -> None:
    """The noise is small beside the clip, so that the mean can be checked; whether there is noise, twice decoded."""
    parameters, transform = announced(privacy, compression=compression)
    driver = run(parameters, Terms(privacy=privacy, compression=compression))
    first, second = (transform.decode(driver.sum, driver.survivors) for _ in range(2))
    assert first.event == transform.inner.event(3)
    assert np.array_equal(first.mean["w"], second.mean["w"]) == isinstance(privacy, DistributedGaussian)
    if compression is None:
        for name, array in first.mean.items():
            np.testing.assert_allclose(array, np.mean([update_of(i)[name] for i in IDS], axis=0), atol=0.1)


def test_clients_noise_is_in_the_sum() -> None:
    """With noise of ten clips the sum is far from that of the updates: sampled, wrong once in 10^30 runs."""
    parameters, transform = announced(replace(DISTRIBUTED, noise_multiplier=10.0, bits=20))
    driver = run(parameters, Terms(privacy=replace(DISTRIBUTED, noise_multiplier=10.0)))
    values = transform.inner.values(transform.inner.centre(driver.sum))
    assert 10 < np.std(values) < 40


@pytest.mark.parametrize(
    ("server", "terms", "message"),
    [
        ({}, Terms(compression=LowRank(2)), "has no compression, this client agreed to one with"),
        ({"compression": LowRank(2)}, Terms(), "has compression, this client agreed to one without"),
        ({"compression": LowRank(2)}, Terms(compression=LowRank(1)), "T7"),
        ({"scale_weights": True, "bits": 9}, Terms(), "has scaled weights, this client agreed to one without"),
        ({}, Terms(scale_weights=True), "has no scaled weights"),
        ({"bits": 8}, Terms(bits=9), "announced bits 8, this client agreed to 9"),
        ({}, Terms(privacy=CENTRAL), "has no noise, this client agreed to one with"),
        ({}, Terms(privacy=DISTRIBUTED), "has no noise, this client agreed to one with"),
        ({"privacy": CENTRAL}, Terms(), "has noise, this client agreed to one without"),
        ({"privacy": CENTRAL}, Terms(privacy=DISTRIBUTED), "T4"),
        ({"privacy": DISTRIBUTED}, Terms(privacy=CENTRAL), "T4"),
        ({"privacy": CENTRAL}, Terms(privacy=replace(CENTRAL, clip_norm=1.0)), "T3"),
        ({"privacy": CENTRAL}, Terms(privacy=replace(CENTRAL, noise_multiplier=1.0)), "T6"),
        ({"privacy": DISTRIBUTED}, Terms(privacy=replace(DISTRIBUTED, clip_norm=1.0)), "T3"),
        ({"privacy": DISTRIBUTED}, Terms(privacy=replace(DISTRIBUTED, noise_multiplier=0.02)), "T5"),
        ({"privacy": DISTRIBUTED}, Terms(privacy=replace(DISTRIBUTED, minimum_survivors=4)), "T4"),
    ],
    ids=str,
)
def test_sum_that_the_client_did_not_agree_to_is_refused(server: dict[str, Any], terms: Terms, message: str) -> None:
    parameters, _ = announced(**server)
    with pytest.raises(FaultyServerError, match=message) as found:
        terms.agree(SessionParameters.from_bytes(parameters.to_bytes()), 1, update_of(1), 1)
    assert found.value.args


def test_client_insists_on_as_many_survivors_as_the_noise_is_for() -> None:
    parameters, _ = announced(DISTRIBUTED)
    terms = Terms(privacy=replace(DISTRIBUTED, minimum_survivors=None))
    transform = terms.agree(parameters, 1, update_of(1), 1)
    assert isinstance(transform, PrivateSum) and terms.session_policy(transform).minimum_cohort == 3
    assert terms.policy.minimum_cohort == 2


def test_noise_that_is_for_fewer_clients_than_the_session_has_is_refused() -> None:
    aggregator = SecAgg(threshold=3, clip=1.0)
    transform = aggregator.transform(EXAMPLE, 3, None, DISTRIBUTED)
    parameters = SessionParameters.of(bytes(32), aggregator.config(range(1, 5), transform), transform)
    with pytest.raises(FaultyServerError, match="the encoding is for 3 clients, the session has 4"):
        Terms(privacy=DISTRIBUTED).agree(parameters, 1, update_of(1), 1)


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        (replace(DISTRIBUTED, layers=2), "noise in 2 layers needs another message"),
        (replace(CENTRAL, adaptive=AdaptiveClipping()), "adaptive clipping, needed a fixed clip_norm"),
    ],
)
def test_noise_that_is_not_carried_is_refused_on_both_sides(privacy: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Terms(privacy=privacy)
    privacy = replace(privacy, noise_multiplier=0.05)
    with pytest.raises(ConfigError, match=message):
        announced(privacy)


def test_terms_that_have_no_effect_on_a_private_sum_are_refused() -> None:
    with pytest.raises(ConfigError, match="a clip_norm for each array"):
        Terms(privacy=CentralGaussian(clip_norm={"w": 1.0, "b": 1.0}, noise_multiplier=1.0))
    for name, value in (("clip", 4.0), ("bits", 8), ("max_weight", 2), ("scale_weights", True)):
        with pytest.raises(ConfigError, match=f"{name}.* has no effect on a private sum"):
            Terms(privacy=CENTRAL, **{name: value})
    parameters, _ = announced(CENTRAL)
    with pytest.raises(ConfigError, match="weight 2 has no effect"):
        Terms(privacy=CENTRAL).agree(parameters, 1, update_of(1), 2)
