"""What the server saw: everything of a plain sum, nothing of an update under secure aggregation."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

import secfed
from secfed.aggregation import Transcript
from secfed.crypto.packing import pack
from secfed.errors import EncodingError
from secfed.secagg import Stage

PROTECTIONS: dict[str, dict[str, Any]] = {
    "complete": {},
    "k_regular": {"neighbors": 6, "threshold": 3},
    "malicious_server": {"adversary": "malicious_server"},
    "malicious_server_k_regular": {"adversary": "malicious_server", "neighbors": 8, "threshold": 5},
}
EVERY_PROTECTION = pytest.mark.parametrize("settings", PROTECTIONS.values(), ids=PROTECTIONS)
CLIENTS = 10


def updates_of(size: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(CLIENTS, size)).clip(-3.9, 3.9))


def recorded(aggregator: Any, *arguments: Any, **options: Any) -> tuple[Any, Transcript]:
    result = aggregator.aggregate(*arguments, record=True, **options)
    assert result.transcript is not None
    return result, result.transcript


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8"])
def test_server_of_a_plain_sum_sees_every_update(dtype: str) -> None:
    updates = [update.astype(dtype) for update in updates_of(100)]
    _, transcript = recorded(secfed.Plain(), updates, range(1, 11))
    for client_id, update in enumerate(updates, start=1):
        assert np.array_equal(transcript.contribution(client_id), update)
        resemblance = transcript.resemblance(client_id, update)
        assert resemblance.correlation == pytest.approx(1.0)
        assert not resemblance.hidden


@pytest.mark.sampled(3)
@EVERY_PROTECTION
@pytest.mark.parametrize("size", [64, 200, 5000])
def test_server_of_a_secure_sum_sees_no_update(settings: dict[str, Any], size: int) -> None:
    """Each of the 10 verdicts is wrong once in a billion runs."""
    updates = updates_of(size)
    _, transcript = recorded(secfed.SecAgg(**settings), updates, range(1, 11))
    for client_id, update in enumerate(updates, start=1):
        resemblance = transcript.resemblance(client_id, update)
        assert resemblance.hidden, resemblance
        assert abs(resemblance.correlation) < 6.2 / np.sqrt(size)


def test_resemblance_finds_an_update_that_was_sent_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: the same look at vectors that nobody masked."""
    monkeypatch.setattr("secfed.crypto.prg.accumulate", lambda *_: None)
    updates = updates_of(5000)
    _, transcript = recorded(secfed.SecAgg(), updates)
    resemblance = transcript.resemblance(4, updates[3])
    assert resemblance.correlation > 0.999
    assert resemblance.uniformity_p_value < 1e-9
    assert not resemblance.hidden
    assert not transcript.resemblance(4, updates[4]).hidden  # another's update: no correlation, but no uniform noise


@pytest.mark.parametrize("value", [0.0, 1.5])
@pytest.mark.filterwarnings("default")
def test_constant_update_is_hidden_too(value: float) -> None:
    updates = [np.full(2000, value) for _ in range(CLIENTS)]
    _, transcript = recorded(secfed.SecAgg(), updates)
    assert transcript.resemblance(1, updates[0]).hidden


def test_resemblance_of_other_or_too_few_values_is_refused() -> None:
    _, transcript = recorded(secfed.SecAgg(), updates_of(70))
    with pytest.raises(EncodingError, match="the update has 71 values, the contribution 70"):
        transcript.resemblance(1, np.zeros(71))
    _, transcript = recorded(secfed.SecAgg(), updates_of(63))
    with pytest.raises(EncodingError, match="at least 64"):
        transcript.resemblance(1, np.zeros(63))


@pytest.mark.parametrize("aggregator", [secfed.Plain(), secfed.SecAgg()])
def test_client_that_sent_nothing_has_no_contribution(aggregator: Any) -> None:
    _, transcript = recorded(aggregator, updates_of(70), dropouts={3: Stage.SHARE_KEYS})
    with pytest.raises(EncodingError, match="client 3 sent no input"):
        transcript.contribution(3)
    with pytest.raises(EncodingError, match="client 99 sent no input"):
        transcript.resemblance(99, np.zeros(70))


@pytest.mark.sampled(2)
@EVERY_PROTECTION
def test_masked_contributions_add_up_to_the_sum_only_without_their_masks(settings: dict[str, Any]) -> None:
    updates = updates_of(70)
    result, transcript = recorded(secfed.SecAgg(**settings), updates)
    bits = transcript.transform.modulus_bits
    masked = sum(transcript.contribution(client_id).astype(object) for client_id in result.survivors) % (1 << bits)
    assert transcript.total is not None
    assert masked.tolist() != transcript.total[:-1].tolist()
    assert transcript.transform.decode(transcript.total, transcript.survivors).mean.tolist() == result.mean.tolist()
    assert transcript.survivors == result.survivors


@pytest.mark.sampled(3)
@EVERY_PROTECTION
@pytest.mark.parametrize("dropouts", [{}, {2: Stage.SHARE_KEYS, 5: Stage.MASKED_INPUT_COLLECTION, 7: Stage.UNMASKING}])
def test_every_message_is_recorded_with_all_its_bytes(settings: dict[str, Any], dropouts: dict[int, Stage]) -> None:
    result, transcript = recorded(secfed.SecAgg(**settings), updates_of(70), dropouts=dropouts)
    down, up = Counter[int](), Counter[int]()
    messages = Counter((entry.stage, entry.direction) for entry in transcript.entries)
    for entry in transcript.entries:
        (down if entry.direction == "to_client" else up)[entry.client_id] += len(entry.data)
    assert {client_id: up[client_id] for client_id in range(1, 11)} == result.bytes_up
    assert {client_id: down[client_id] for client_id in range(1, 11)} == result.bytes_down
    stages = [stage for stage in list(Stage)[:5] if stage is not Stage.CONSISTENCY_CHECK or "adversary" in settings]
    assert set(result.seconds) == set(stages)
    here = CLIENTS
    for stage in stages:
        assert messages[stage, "to_client"] == here
        here -= list(dropouts.values()).count(stage)
        assert messages[stage, "to_server"] == here
    order = [(entry.stage, entry.direction) for entry in transcript.entries]
    assert [stage for stage, _ in order] == sorted(stage for stage, _ in order)


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", "f8"])
def test_bytes_of_a_plain_sum_are_those_recorded(dtype: str) -> None:
    result, transcript = recorded(secfed.Plain(), [update.astype(dtype) for update in updates_of(70)])
    assert {entry.client_id: len(entry.data) for entry in transcript.entries} == result.bytes_up
    assert set(result.bytes_down.values()) == {0}


@pytest.mark.sampled(2)
@EVERY_PROTECTION
def test_no_piece_of_an_update_is_in_any_message(settings: dict[str, Any]) -> None:
    """Updates of whole steps are encoded without chance: their 12-byte pieces, in every form, occur nowhere."""
    aggregator = secfed.SecAgg(clip=32767.0, bits=16, **settings)
    generator = np.random.default_rng(5)
    updates = [generator.integers(-32767, 32768, 100).astype(float) for _ in range(CLIENTS)]
    weights = [int(weight) for weight in generator.integers(100, 1000, CLIENTS)]
    _, transcript = recorded(aggregator, updates, weights)
    traffic = b"|".join(entry.data for entry in transcript.entries)
    fixed = transcript.transform.fixed_point
    for update, weight in zip(updates, weights, strict=True):
        vector = fixed.encode(update, weight, seed=bytes(32))
        assert vector.tolist() == fixed.encode(update, weight, seed=bytes([1]) * 32).tolist()
        forms = [update.tobytes(), update.astype("f4").tobytes(), vector.tobytes(), vector.astype("<u8").tobytes()]
        for form in [*forms, pack(vector, fixed.modulus_bits)]:
            assert not any(form[i : i + 12] in traffic for i in range(0, len(form) - 12, 4))
    _, plain = recorded(secfed.Plain(), updates, weights)
    assert updates[0].tobytes() in b"|".join(entry.data for entry in plain.entries)


@pytest.mark.parametrize("sessions", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_weight_of_a_client_looks_uniform_to_the_server(sessions: int) -> None:
    """Chi-square over the sessions, top 3 bits of the masked weight of client 1: wrong once in a billion runs."""
    seen = []
    for _ in range(sessions):
        _, transcript = recorded(secfed.SecAgg(), [np.zeros(1)] * 3, [600, 5, 17])
        assert transcript.config is not None
        entry = next(e for e in transcript.entries if e.client_id == 1 and e.stage == 3 and e.direction == "to_server")
        bits = transcript.config.modulus_bits
        packed = int.from_bytes(entry.data[6:], "little")
        seen.append(packed >> bits & (1 << bits) - 1)
    counts = np.bincount([value >> bits - 3 for value in seen], minlength=8)
    assert stats.chisquare(counts).pvalue > 1e-9
    assert len(set(seen)) > 0.94 * sessions


def test_number_of_bytes_does_not_depend_on_the_update_or_its_weight() -> None:
    sizes = set()
    aggregator = secfed.SecAgg(max_weight=1000)
    for value, weight in ((0.0, 1), (3.9, 1000), (-1.0, 17)):
        _, transcript = recorded(aggregator, [np.full(70, value)] * 3, [weight] * 3)
        sizes.add(tuple((entry.stage, entry.direction, len(entry.data)) for entry in transcript.entries))
    assert len(sizes) == 1


def test_representation_shows_no_message() -> None:
    _, transcript = recorded(secfed.SecAgg(), updates_of(70))
    assert "entries" not in repr(transcript)
    assert "data" not in repr(transcript.entries[0])
