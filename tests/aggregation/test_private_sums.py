"""Private means through the aggregators: the right noise, the right survivors, and nothing decoded from too few."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import secfed
from secfed import dp
from secfed.aggregation import AdaptiveClipping, CentralGaussian, DistributedGaussian
from secfed.dp import DiscreteGaussianSum, SkellamSum
from secfed.errors import ConfigError, EncodingError, TooFewSurvivorsError
from secfed.secagg import Policy, Stage
from tests.examples import examples

CLIENTS, SIZE = 12, 3000
SECURE = secfed.SecAgg(threshold=7)
MODES: dict[str, tuple[Any, Any]] = {
    "plain": (secfed.Plain(), CentralGaussian(1.0, 2.0)),
    "central": (SECURE, CentralGaussian(1.0, 2.0)),
    "discrete_gaussian": (SECURE, DistributedGaussian(1.0, 2.0)),
    "skellam": (SECURE, DistributedGaussian(1.0, 2.0, mechanism="skellam")),
    "layers": (SECURE, DistributedGaussian(1.0, 2.0, layers=3)),
    "neighbors": (secfed.SecAgg(neighbors=8, threshold=5), DistributedGaussian(1.0, 2.0, minimum_survivors=8)),
    "malicious_server": (
        secfed.SecAgg(threshold=8, adversary="malicious_server"), DistributedGaussian(1.0, 2.0, layers=2),
    ),
}  # fmt: skip
EVERY_MODE = pytest.mark.parametrize(("aggregator", "privacy"), MODES.values(), ids=MODES)
SECRET_MODES = pytest.mark.parametrize(("aggregator", "privacy"), list(MODES.values())[1:], ids=list(MODES)[1:])


def updates_of(clients: int = CLIENTS, size: int = SIZE, seed: int = 0, norm: float = 0.5) -> list[np.ndarray]:
    drawn = np.random.default_rng(seed).normal(size=(clients, size))
    return list(norm * drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def noise_of(event: Any) -> float:
    """Standard deviation of the noise that an event says is there, in units of the sensitivity."""
    return math.sqrt(event.noise_variance * event.clients) / event.sensitivity


@pytest.mark.sampled(3)
@EVERY_MODE
@pytest.mark.parametrize("late", [False, True])
def test_mean_is_that_of_the_survivors_and_noise_of_the_size_in_the_event(
    aggregator: Any, privacy: Any, late: bool
) -> None:
    """The deviation of 3000 noises, within what is exceeded once in a billion runs; 1 % for rounding and margins."""
    updates = updates_of()
    dropouts = {3: Stage.MASKED_INPUT_COLLECTION, 8: Stage.SHARE_KEYS} if late else {}
    result = aggregator.aggregate(updates, dropouts=dropouts, privacy=privacy)
    assert result.survivors == tuple(i for i in range(1, 13) if i not in dropouts)
    assert result.dropouts == tuple(dropouts)
    assert result.weight == CLIENTS  # also if two are missing
    total = np.sum([updates[i - 1] for i in result.survivors], axis=0)
    noise = result.mean * CLIENTS - total
    limit = 6.2 / math.sqrt(2 * SIZE) + 0.01
    assert noise.std() / noise_of(result.event) == pytest.approx(1.0, abs=limit)
    assert abs(noise.mean()) < 6.2 * noise.std() / math.sqrt(SIZE)


@pytest.mark.sampled(2)
@EVERY_MODE
def test_event_keeps_the_guarantee_of_the_gaussian_asked_for(aggregator: Any, privacy: Any) -> None:
    result = aggregator.aggregate(updates_of(), privacy=privacy)
    epsilon = dp.Accountant().compose(result.event).epsilon(1e-5)
    gaussian = dp.Accountant().compose(dp.Gaussian(2.0)).epsilon(1e-5)
    assert epsilon <= gaussian * (1.1 if isinstance(result.event, SkellamSum) else 1.0)


@pytest.mark.sampled(2)
@EVERY_MODE
def test_updates_are_clipped_as_a_whole_and_count_alike(aggregator: Any, privacy: Any) -> None:
    """With little noise the sum is seen: weights play no part, and long updates are scaled down."""
    privacy = type(privacy)(**{**vars(privacy), "clip_norm": 40.0, "noise_multiplier": 0.02} | (
        {"bits": 24} if isinstance(privacy, DistributedGaussian) else {}
    ))  # fmt: skip
    updates = updates_of(norm=1.0)
    long = [update * scale for update, scale in zip(updates, [1e6, 80.0, *[20.0] * 10], strict=True)]
    result = aggregator.aggregate(
        [{"a": update[:5], "b": [update[5:]]} for update in long], [1e6, *range(1, 12)], privacy=privacy
    )
    expected = 40 * (updates[0] + updates[1]) + 20 * np.sum(updates[2:], axis=0)
    found = np.concatenate([result.mean["a"], result.mean["b"][0]]) * CLIENTS
    assert np.abs(found - expected).max() < 6.5 * 1.4 * 0.02 * 40


@pytest.mark.parametrize("aggregator", [secfed.Plain(), SECURE])
def test_weights_count_up_to_the_cap(aggregator: Any) -> None:
    updates = [np.full(1000, 1.0), np.full(1000, -1.0), np.full(1000, 1.0)] * 4
    norm = math.sqrt(1000)
    privacy = CentralGaussian(norm, 1e-3, weight_cap=10)
    result = aggregator.aggregate(updates, [5, 10, 1e9] * 4, privacy=privacy)
    assert result.weight == CLIENTS
    assert result.mean == pytest.approx(np.full(1000, 4 * (0.5 - 1 + 1) / 12), abs=0.02)


@pytest.mark.parametrize("aggregator", [secfed.Plain(), SECURE])
def test_count_of_clients_within_the_clip_comes_with_its_noise(aggregator: Any) -> None:
    inside = [updates_of(norm=0.5)[i] if i < 9 else updates_of(norm=3.0)[i] for i in range(12)]
    privacies: list[Any] = [CentralGaussian(1.0, 0.02, adaptive=AdaptiveClipping(count_noise=0.05))]
    if aggregator is SECURE:
        adaptive = AdaptiveClipping(count_noise=0.5)
        privacies.append(DistributedGaussian(1.0, 0.3, adaptive=adaptive))
    for privacy in privacies:
        result = aggregator.aggregate(inside, privacy=privacy)
        limit = 6.5 * 1.4 * privacy.adaptive.count_noise / 12
        assert result.within_clip == pytest.approx(9 / 12, abs=limit + 0.01)
    assert aggregator.aggregate(inside, privacy=CentralGaussian(1.0, 1.0)).within_clip is None


@examples(6, 20)
@given(st.dictionaries(st.integers(1, 9), st.sampled_from([*list(Stage)[:3], Stage.UNMASKING]), max_size=5))
def test_event_is_of_those_that_really_arrived_or_there_is_none(dropouts: dict[int, Stage]) -> None:
    updates = updates_of(9, 20)
    privacy = DistributedGaussian(1.0, 3.0, layers=2, minimum_survivors=6)
    aggregator = secfed.SecAgg(threshold=5)
    arrived = 9 - sum(stage <= Stage.MASKED_INPUT_COLLECTION for stage in dropouts.values())
    if arrived < 6 or 9 - len(dropouts) < 5:
        with pytest.raises(TooFewSurvivorsError):
            aggregator.aggregate(updates, dropouts=dropouts, privacy=privacy)
        return
    result = aggregator.aggregate(updates, dropouts=dropouts, privacy=privacy)
    assert len(result.survivors) == arrived
    assert isinstance(result.event, DiscreteGaussianSum)
    assert result.event.clients == arrived


@pytest.mark.sampled(3)
@pytest.mark.parametrize("neighbors", [None, 8])
@pytest.mark.parametrize("stage", list(Stage)[:3])
@pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])
def test_clients_do_not_unmask_a_sum_with_too_little_noise(
    neighbors: int | None, stage: Stage, adversary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threshold of 7 (of 6 neighbors) alone would let the sum of 9 through."""

    def decode(*_: object) -> None:
        raise AssertionError("something was decoded")

    monkeypatch.setattr("secfed.aggregation.private_sum.PrivateSum.decode", decode)
    aggregator = secfed.SecAgg(threshold=7 if neighbors is None else 5, neighbors=neighbors, adversary=adversary)
    privacy = DistributedGaussian(1.0, 2.0, minimum_survivors=10)
    with pytest.raises(TooFewSurvivorsError) as caught:
        aggregator.aggregate(updates_of(size=20), dropouts=dict.fromkeys((2, 5, 11), stage), privacy=privacy)
    assert (caught.value.survivors, caught.value.threshold) == (9, 10)


def test_no_share_leaves_a_client_if_too_few_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    """No UnmaskingResponse is ever made: the server could not unmask whatever it does."""
    monkeypatch.setattr("secfed.secagg.messages.UnmaskingResponse.__init__", lambda *_: pytest.fail("a share left"))
    privacy = DistributedGaussian(1.0, 2.0, minimum_survivors=12)
    with pytest.raises(TooFewSurvivorsError):
        SECURE.aggregate(updates_of(size=20), dropouts={1: Stage.MASKED_INPUT_COLLECTION}, privacy=privacy)


def test_policy_of_the_caller_holds_too() -> None:
    aggregator = secfed.SecAgg(threshold=7, policy=Policy(minimum_colluders=3))
    for privacy in (None, DistributedGaussian(1.0, 2.0)):
        with pytest.raises(ConfigError, match=r"policy of this aggregator does not allow this session: .* colluders"):
            aggregator.aggregate(updates_of(size=20), privacy=privacy)


def test_fewer_survivors_than_the_policy_of_the_caller_allows_are_too_few() -> None:
    aggregator = secfed.SecAgg(threshold=7, policy=Policy(minimum_cohort=12))
    for privacy in (None, CentralGaussian(1.0, 2.0)):
        with pytest.raises(TooFewSurvivorsError, match="11 survivors are fewer than the policy allows, needed 12"):
            aggregator.aggregate(updates_of(size=20), dropouts={1: Stage.SHARE_KEYS}, privacy=privacy)


def test_secret_cohort_below_its_minimum_is_too_small() -> None:
    secret: dict[str, Any] = {"secret_cohort": True, "layers": 60}
    privacy = DistributedGaussian(1.0, 2.0, minimum_survivors=20, population=60, sampling_rate=0.5, **secret)
    with pytest.raises(TooFewSurvivorsError, match="the cohort has 12 clients, needed at least 20"):
        secfed.SecAgg().aggregate(updates_of(size=20), privacy=privacy)


def test_colluders_of_the_aggregator_bring_no_noise() -> None:
    for aggregator, privacy, honest in (
        (secfed.SecAgg(threshold=8, colluders=3), DistributedGaussian(1.0, 2.0), 9),
        (secfed.SecAgg(threshold=8, colluders=1), DistributedGaussian(1.0, 2.0, colluders=4), 8),
    ):
        event: Any = aggregator.aggregate(updates_of(size=20), privacy=privacy).event
        assert event.clients == honest
        worst: Any = aggregator.prepare(np.zeros(20), range(1, 13), privacy=privacy).worst_event
        assert worst.clients == honest - 4
        assert noise_of(worst) >= 2.0


def test_distributed_noise_needs_secure_aggregation_and_a_number_of_survivors() -> None:
    with pytest.raises(ConfigError, match="Plain shows the server every update, DistributedGaussian needs"):
        secfed.Plain().aggregate(updates_of(size=20), privacy=DistributedGaussian(1.0, 2.0))
    with pytest.raises(ConfigError, match="needs minimum_survivors"):
        secfed.SecAgg(neighbors=6).aggregate(updates_of(size=20), privacy=DistributedGaussian(1.0, 2.0))
    with pytest.raises(ConfigError, match="threshold 13 must be above colluders 0 and at most clients 12"):
        SECURE.aggregate(updates_of(size=20), privacy=DistributedGaussian(1.0, 2.0, minimum_survivors=13))


@EVERY_MODE
def test_what_does_not_fit_is_refused_by_name(aggregator: Any, privacy: Any) -> None:
    updates = updates_of(size=20)
    updates[4] = np.full(20, math.inf)
    with pytest.raises(EncodingError, match=r"client 5: the array holds a value that is not finite, at index \[0\]"):
        aggregator.aggregate(updates, privacy=privacy)
    with pytest.raises(EncodingError, match="client 1: the weight must be positive"):
        aggregator.aggregate(updates_of(size=20), [-1] + [1] * 11, privacy=privacy)


def test_noise_is_released_in_the_clear_also_if_nobody_is_left() -> None:
    """Whether there is a release must not depend on who came."""
    silent, privacy = dict.fromkeys((1, 2), Stage.SHARE_KEYS), CentralGaussian(1.0, 1.0)
    some = secfed.Plain().aggregate(updates_of(2, 20), privacy=privacy)
    left = secfed.Plain().aggregate(updates_of(2, 20), dropouts=silent, privacy=privacy)
    nobody = secfed.Plain().aggregate({}, privacy=replace(privacy, population=2), example=np.zeros(20))
    for aggregate in (left, nobody):
        assert aggregate.survivors == () and aggregate.event == some.event
        assert 0.2 < np.std(aggregate.mean) < 1.0  # noise of deviation 1, divided by 2
    with pytest.raises(EncodingError, match="found no update"):
        secfed.Plain().aggregate({}, privacy=privacy)


@pytest.mark.sampled(2)
@EVERY_MODE
def test_noise_is_fresh_although_rounding_is_repeatable(aggregator: Any, privacy: Any) -> None:
    if isinstance(aggregator, secfed.SecAgg):
        aggregator = type(aggregator)(**{**vars(aggregator), "rounding_seed": 5})
    first, second = (aggregator.aggregate(updates_of(size=1500), privacy=privacy).mean for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
    assert not np.array_equal(first, second)


# The transcript.


@pytest.mark.sampled(2)
@SECRET_MODES
def test_server_sees_no_update(aggregator: Any, privacy: Any) -> None:
    updates = updates_of(norm=0.9)
    result = aggregator.aggregate(updates, privacy=privacy, record=True)
    for client_id in result.survivors:
        assert result.transcript.resemblance(client_id, updates[client_id - 1]).hidden
    assert result.transcript.survivors == result.survivors
    transform = result.transcript.transform
    if transform.plan:
        again = transform.decode(result.transcript.total, result.survivors).mean
        assert np.array_equal(again, result.mean)


def test_resemblance_finds_an_update_that_was_sent_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: little noise, no masks; the rotation does not hide."""
    monkeypatch.setattr("secfed.crypto.prg.accumulate", lambda *_: None)
    updates = updates_of(norm=0.9)
    privacy = DistributedGaussian(1.0, 0.01, bits=24)
    transcript = SECURE.aggregate(updates, privacy=privacy, record=True).transcript
    assert transcript is not None
    resemblance = transcript.resemblance(3, updates[2])
    assert resemblance.correlation > 0.9 and not resemblance.hidden


def test_server_of_a_plain_sum_sees_every_clipped_update_and_the_sum_without_noise() -> None:
    updates = updates_of(norm=2.0)
    result = secfed.Plain().aggregate(updates, privacy=CentralGaussian(0.5, 1.0), record=True)
    transcript = result.transcript
    assert transcript is not None and transcript.total is not None
    for client_id in result.survivors:
        assert transcript.contribution(client_id) * 0.5 == pytest.approx(updates[client_id - 1] / 4, abs=1e-3)
        assert not transcript.resemblance(client_id, updates[client_id - 1]).hidden
    transform: Any = transcript.transform
    assert np.abs(transform.read(transform.centre(transcript.total)).mean - np.mean(updates, axis=0) / 4).max() < 1e-3


@pytest.mark.sampled(2)
@EVERY_MODE
def test_every_byte_is_recorded(aggregator: Any, privacy: Any) -> None:
    result = aggregator.aggregate(updates_of(size=70), privacy=privacy, record=True, dropouts={4: Stage.UNMASKING})
    up = dict.fromkeys(result.bytes_up, 0)
    for entry in result.transcript.entries:
        if entry.direction == "to_server":
            up[entry.client_id] += len(entry.data)
    assert up == result.bytes_up
