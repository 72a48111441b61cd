"""FedBuff and FedAsync: who is ready when, how stale updates count, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import secfed
from secfed import dp
from secfed.errors import ConfigError, EncodingError
from secfed.federated import Training, TrainingState
from secfed.secagg import Stage

START = np.array([8.0, -4.0])


def half_way(model: np.ndarray, data: float) -> tuple[np.ndarray, int]:
    return 0.5 * (data - model), 1


def fedbuff(**options: Any) -> Training:
    return secfed.FedBuff(half_way, **{"aggregator": secfed.Plain(), "buffer_size": 2, "concurrency": 3} | options)


def test_buffer_takes_the_clients_that_are_ready_first() -> None:
    took = {1: 1.0, 2: 2.0, 3: 10.0}
    training = fedbuff()
    reports = list(training.rounds(START, [0.0, 1.0, 2.0], 3, durations=lambda client_id, number: took[client_id]))
    # Clients 1 and 2 are in every buffer: client 1 waits in it for client 2, then both begin again.
    assert [(report.time, report.cohort) for report in reports] == [(2.0, (1, 2)), (4.0, (1, 2)), (6.0, (1, 2))]
    first = START + np.mean([half_way(START, data)[0] for data in (0.0, 1.0)], axis=0)
    assert np.array_equal(reports[0].model, first)


def test_slow_client_trained_from_an_old_model_and_counts_less() -> None:
    took = {1: 1.0, 2: 1.0, 3: 2.5}
    training = fedbuff(staleness_exponent=0.5, server_learning_rate=0.7)
    reports = list(training.rounds(START, [0.0, 1.0, 5.0], 3, durations=lambda client_id, number: took[client_id]))
    assert [report.time for report in reports] == [1.0, 2.0, 3.0]
    assert reports[2].cohort[1] == 3
    assert reports[2].staleness[3] == 2
    first, second, third = (report.model for report in reports)
    other = reports[2].cohort[0]
    updates = [half_way(second, float(other - 1))[0], half_way(START, 5.0)[0] / np.sqrt(3)]
    assert reports[2].staleness[other] == 0
    assert np.allclose(third, second + 0.7 * np.mean(updates, axis=0), rtol=1e-15)
    assert not np.array_equal(first, second)


def test_clients_that_are_all_alike_and_all_in_the_buffer_are_fedavg() -> None:
    clients = [1.0, 2.0, 4.0, 8.0]
    synchronous = secfed.FedAvg(half_way, aggregator=secfed.Plain()).rounds(START, clients, 4)
    buffered = fedbuff(buffer_size=4, concurrency=4).rounds(START, clients, 4)
    for one, other in zip(synchronous, buffered, strict=True):
        assert np.array_equal(one.model, other.model)
        assert set(other.staleness.values()) == {0}


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_secure_sums_of_buffers_give_the_plain_models_within_rounding(exponent: float) -> None:
    def models(aggregator: Any) -> list[Any]:
        training = fedbuff(aggregator=aggregator, buffer_size=4, concurrency=6, staleness_exponent=exponent)
        return list(training.rounds(START, range(9), 6, seed=5, durations=lambda i, n: 1 + i**2 / 9, dropouts=silent))

    def silent(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return {cohort[0]: Stage.MASKED_INPUT_COLLECTION}

    plain, secure = models(secfed.Plain()), models(secfed.SecAgg(threshold=2 / 3, clip=16.0))
    assert max(max(report.staleness.values()) for report in plain) > 1
    for one, other in zip(plain, secure, strict=True):
        assert (one.cohort, one.survivors, one.staleness) == (other.cohort, other.survivors, other.staleness)
        assert len(one.survivors) == 3
        assert np.allclose(one.model, other.model, atol=1e-2)
    assert np.max(np.abs(plain[-1].model - START)) > 1


def test_buffer_as_a_cohort_must_reach_the_threshold() -> None:
    training = fedbuff(aggregator=secfed.SecAgg(threshold=3))
    with pytest.raises(ConfigError, match="threshold"):
        next(training.rounds(START, range(5), 1))


def test_client_that_is_too_stale_drops_its_update_and_begins_anew() -> None:
    took = {1: 1.0, 2: 1.0, 3: 2.5}

    def cohorts(most: int | None) -> list[tuple[int, ...]]:
        training = fedbuff(maximum_staleness=most)
        reports = training.rounds(START, [0.0, 1.0, 5.0], 8, durations=lambda client_id, number: took[client_id])
        return [report.cohort for report in reports]

    assert any(3 in cohort for cohort in cohorts(None))
    assert all(3 not in cohort for cohort in cohorts(1))


def test_failed_round_is_no_step_and_makes_nobody_staler() -> None:
    def silent(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return dict.fromkeys(cohort, Stage.ADVERTISE_KEYS) if number == 1 else {}

    took = {1: 1.0, 2: 1.0, 3: 1.5}
    reports = list(fedbuff().rounds(START, range(3), 2, durations=lambda i, n: took[i], dropouts=silent))
    assert reports[0].failure
    assert np.array_equal(reports[0].model, START)
    assert reports[1].staleness[3] == 0


@settings(max_examples=30)
@given(st.data())
def test_whatever_the_times_rounds_are_whole_and_staleness_is_true(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8), "clients")
    size = data.draw(st.integers(1, count), "buffer")
    running = data.draw(st.integers(1, 10), "concurrency")
    chosen = data.draw(st.lists(st.sampled_from([0.5, 1.0, 3.0, 20.0]), min_size=count, max_size=count), "times")
    begun: list[float] = []

    def local_update(model: np.ndarray, own: float) -> tuple[np.ndarray, int]:
        begun.append(float(model[0]))
        return np.array([1.0]), 1

    training = secfed.FedBuff(
        local_update, aggregator=secfed.Plain(), buffer_size=size, concurrency=running, staleness_exponent=0
    )
    before = 0.0
    rounds = training.rounds(np.zeros(1), [0.0] * count, 6, seed=2, durations=lambda i, n: chosen[i - 1])
    for number, report in enumerate(rounds):
        assert len(set(report.cohort)) == size
        assert report.time is not None
        assert report.time >= before
        before = report.time
        # Every step adds 1, so the model tells which version it is.
        for client_id, version in zip(report.cohort, begun, strict=True):
            assert report.staleness[client_id] == number - version
        begun.clear()


def test_fedasync_moves_the_model_toward_what_each_client_trained() -> None:
    took = {1: 1.0, 2: 2.5}
    training = secfed.FedAsync(half_way, aggregator=secfed.Plain(), concurrency=2, mixing=0.6)
    reports = list(training.rounds(START, [0.0, 3.0], 3, durations=lambda client_id, number: took[client_id]))
    assert [(report.time, report.cohort) for report in reports] == [(1.0, (1,)), (2.0, (1,)), (2.5, (2,))]
    assert reports[2].staleness == {2: 2}
    model = START
    for _ in range(2):
        model = 0.4 * model + 0.6 * (model + half_way(model, 0.0)[0])
    assert np.allclose(reports[1].model, model, rtol=1e-15)
    mixing = 0.6 / np.sqrt(3)
    model = (1 - mixing) * model + mixing * (START + half_way(START, 3.0)[0])
    assert np.allclose(reports[2].model, model, rtol=1e-15)


@pytest.mark.parametrize("aggregator", [secfed.SecAgg(threshold=2), secfed.Paillier(2048)], ids=["secagg", "paillier"])
def test_fedasync_under_an_aggregator_that_hides_sums_is_refused_naming_fedbuff(aggregator: Any) -> None:
    with pytest.raises(ConfigError, match=r"the sum of one update is that update.*FedBuff"):
        secfed.FedAsync(half_way, aggregator=aggregator, concurrency=2)


@pytest.mark.parametrize("name", ["fedbuff", "fedasync"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stopped_and_resumed_asynchronous_run_is_the_same_to_the_last_bit(name: str, dtype: Any) -> None:
    clients = {2**62 + 7: 1.0, 3: 2.0, 2**40: -1.0, 11: 5.0, 5: 0.5}

    def make() -> Training:
        if name == "fedbuff":
            return fedbuff(concurrency=4)
        return secfed.FedAsync(half_way, aggregator=secfed.Plain(), concurrency=4)

    options: Any = {"seed": 9, "durations": lambda client_id, number: 1 + (client_id * number) % 7}
    start = START.astype(dtype)
    straight = list(make().rounds(start, clients, 9, **options))
    first = make()
    resumed = list(first.rounds(start, clients, 4, **options))
    state = TrainingState.from_bytes(first.state().to_bytes(), example=start)
    resumed += make().rounds(state, clients, 5, **options)
    for one, other in zip(straight, resumed, strict=True):
        assert (one.number, one.cohort, one.time, one.staleness) == (
            other.number,
            other.cohort,
            other.time,
            other.staleness,
        )
        assert one.model.tobytes() == other.model.tobytes()
    assert max(max(report.staleness.values()) for report in straight[5:]) > 0


def test_state_without_a_client_that_was_training_is_refused() -> None:
    training = fedbuff(concurrency=5)
    list(training.rounds(START, range(6), 1))
    with pytest.raises(ConfigError, match="were training, and are not among the clients"):
        fedbuff(concurrency=5).rounds(training.state(), [0.0, 1.0], 1)


def test_state_of_fedavg_is_refused_by_fedbuff() -> None:
    training = secfed.FedAvg(half_way, aggregator=secfed.Plain())
    list(training.rounds(START, range(3), 1))
    with pytest.raises(ConfigError, match="the state is of FedAvg"):
        fedbuff().rounds(training.state(), range(3), 1)


def test_with_privacy_the_sum_is_divided_by_the_buffer_and_sampling_counts_nothing() -> None:
    privacy = secfed.CentralGaussian(clip_norm=1e6, noise_multiplier=1e-6)
    training = fedbuff(privacy=privacy, adjacency="replace", staleness_exponent=0)
    report = next(training.rounds(START, range(6), 1))
    wanted = START + np.mean([half_way(START, float(client_id - 1))[0] for client_id in report.cohort], axis=0)
    assert np.allclose(report.model, wanted, atol=30)
    private = secfed.CentralGaussian(clip_norm=1.0, noise_multiplier=2.0)
    training = fedbuff(privacy=private, adjacency="replace")
    *_, last = training.rounds(START, range(6), 3)
    assert last.accountant is not None
    one_by_one = dp.Accountant("replace").compose(dp.Gaussian(2.0), count=3)
    assert last.accountant.epsilon(1e-5) == pytest.approx(one_by_one.epsilon(1e-5), rel=1e-3)


def test_privacy_with_adjacency_add_remove_is_refused_with_the_reason() -> None:
    privacy = secfed.CentralGaussian(clip_norm=1.0, noise_multiplier=1.0)
    with pytest.raises(ConfigError, match="others take its place"):
        fedbuff(privacy=privacy)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampling_rate": 0.5}, "found sampling_rate 0.5: FedBuff takes the clients that are ready first"),
        ({"cohort_size": 2}, "found cohort_size 2"),
        ({"deadline": 2.0, "durations": lambda i, n: 1.0}, "found deadline 2.0"),
        ({"durations": lambda i, n: 0.0}, "durations returned 0.0 for client"),
        ({"durations": lambda i, n: "soon"}, "durations returned 'soon' for client"),
        ({"durations": 3}, "durations: found 3, needed a function"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        next(fedbuff().rounds(START, range(4), 1, **options))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"buffer_size": 0}, "buffer_size"),
        ({"concurrency": 0}, "concurrency"),
        ({"staleness_exponent": -1.0}, "staleness_exponent -1.0 must be"),
        ({"maximum_staleness": -1}, "maximum_staleness -1 must not be negative"),
        ({"server_learning_rate": 0.0}, "server_learning_rate"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        fedbuff(**options)


def test_fewer_clients_than_the_buffer_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match="found 2 clients, needed at least buffer_size 3"):
        fedbuff(buffer_size=3).rounds(START, range(2), 1)


def test_mixing_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"mixing 1\.5 must be"):
        secfed.FedAsync(half_way, aggregator=secfed.Plain(), concurrency=2, mixing=1.5)


def test_update_that_does_not_fit_is_rejected_by_name_as_in_other_algorithms() -> None:
    def local_update(model: np.ndarray, data: float) -> Any:
        if data == 0:
            return model[:1], 1
        if data == 1:
            raise EncodingError("no examples")
        return half_way(model, data)

    training = secfed.FedBuff(local_update, aggregator=secfed.Plain(), buffer_size=4, concurrency=4)
    report = next(training.rounds(START, range(4), 1))
    assert report.survivors == (3, 4)
    assert "not shaped like the model" in report.rejected[1]
    assert report.rejected[2] == "no examples"
