"""What a training tells while it goes on: figures, callbacks, progress, simulated time; evaluation by the clients."""

from typing import Any

import numpy as np
import pytest

import secfed
from secfed import dp
from secfed.errors import ConfigError, EncodingError
from secfed.federated import evaluate, local_noise

START = np.zeros(2)


def half_way(model: np.ndarray, data: float) -> tuple[np.ndarray, int]:
    return 0.5 * (data - model), 1


def fedavg(**options: Any) -> secfed.FedAvg:
    return secfed.FedAvg(half_way, **{"aggregator": secfed.Plain()} | options)


def test_metrics_of_each_report_are_those_of_its_model() -> None:
    reports = list(fedavg().rounds(START, [1.0, 3.0], 3, evaluate=lambda model: {"first": model[0]}))
    assert [report.metrics for report in reports] == [{"first": 1.0}, {"first": 1.5}, {"first": 1.75}]


def test_evaluation_cannot_change_the_model() -> None:
    def evaluation(model: np.ndarray) -> dict[str, float]:
        model += 100
        return {}

    [report] = fedavg().rounds(START, [1.0, 3.0], 1, evaluate=evaluation)
    assert np.array_equal(report.model, [1.0, 1.0])


def test_callbacks_see_every_report_before_it_is_yielded() -> None:
    seen: list[int] = []
    for report in fedavg().rounds(START, [1.0], 3, callbacks=[lambda report: seen.append(report.number)]):
        assert seen[-1] == report.number
    assert seen == [1, 2, 3]


def test_progress_counts_the_clients_that_have_trained() -> None:
    seen: list[tuple[int, int, int]] = []
    list(fedavg().rounds(START, [1.0, 2.0, 3.0], 2, progress=lambda *counts: seen.append(counts)))
    assert seen == [(number, trained, 3) for number in (1, 2) for trained in (1, 2, 3)]


def test_round_takes_as_long_as_its_slowest_client() -> None:
    reports = fedavg().rounds(START, [1.0, 2.0], 2, durations=lambda client_id, number: client_id * number)
    assert [report.time for report in reports] == [2.0, 6.0]


def test_client_slower_than_the_deadline_is_a_dropout_of_that_round() -> None:
    rounds = fedavg().rounds(START, [1.0, 2.0, 3.0], 2, durations=lambda i, n: i if n == 1 else 1.0, deadline=2.0)
    found = [(report.survivors, report.late, report.time) for report in rounds]
    assert found == [((1, 2), (3,), 2.0), ((1, 2, 3), (), 3.0)]


def test_clock_goes_on_where_a_saved_run_stopped() -> None:
    first, options = fedavg(), {"durations": lambda client_id, number: number}
    list(first.rounds(START, [1.0], 2, **options))
    [report] = fedavg().rounds(first.state(), [1.0], 1, **options)
    assert report.time == 6.0
    with pytest.raises(ConfigError, match="a training with durations, this one is without"):
        fedavg().rounds(first.state(), [1.0], 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"evaluate": 3}, "evaluate: found 3, needed a function"),
        ({"progress": "bar"}, "progress: found 'bar', needed a function"),
        ({"callbacks": [None]}, "callbacks: found None"),
        ({"deadline": 3.0}, "deadline 3.0 without durations"),
        ({"deadline": 0.0, "durations": lambda i, n: 1.0}, "deadline 0.0 must be positive"),
    ],
)
def test_hooks_that_are_no_functions_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        fedavg().rounds(START, [1.0], 1, **options)


@pytest.mark.parametrize("aggregator", [secfed.Plain(), secfed.SecAgg(threshold=2, clip=1.0)], ids=["plain", "secagg"])
def test_clients_evaluate_a_model_and_only_their_mean_is_seen(aggregator: Any) -> None:
    def evaluation(model: np.ndarray, data: np.ndarray) -> tuple[dict[str, float], int]:
        return {"above": float(np.mean(data > model[0])), "below": float(np.mean(data < model[0]))}, len(data)

    clients = [np.array([-1.0, 1.0]), np.array([1.0, 2.0, 3.0, -4.0]), np.array([5.0, 6.0])]
    means, aggregate = evaluate(evaluation, START, clients, aggregator=aggregator)
    assert means == {"above": pytest.approx(0.75, abs=1e-3), "below": pytest.approx(0.25, abs=1e-3)}
    assert aggregate.survivors == (1, 2, 3)


def test_figures_that_are_no_numbers_are_refused_with_the_client() -> None:
    with pytest.raises(EncodingError, match="client 1: found figures"):
        evaluate(lambda model, data: ({"loss": "low"}, 1), START, [1.0], aggregator=secfed.Plain())
    with pytest.raises(ConfigError, match="found no client"):
        evaluate(lambda model, data: ({}, 1), START, [], aggregator=secfed.Plain())


def test_local_noise_clips_adds_noise_of_the_given_size_and_says_what_was_released() -> None:
    update = {"w": np.full((100, 40), 3.0), "b": np.zeros(1000)}
    noisy, event = local_noise(update, clip_norm=2.0, noise_multiplier=0.5)
    assert {name: array.shape for name, array in noisy.items()} == {"w": (100, 40), "b": (1000,)}
    assert np.std(noisy["b"]) == pytest.approx(1.0, rel=0.15)  # 0.5 * 2; 1,000 values: six deviations
    scale = 2.0 / np.sqrt(4000)  # each value after the clip
    assert np.mean(noisy["w"]) == pytest.approx(scale, abs=6 / np.sqrt(4000))
    epsilon = dp.Accountant("replace").compose(event).epsilon(1e-5)
    assert epsilon == pytest.approx(dp.Accountant("replace").compose(dp.Gaussian(0.5)).epsilon(1e-5), rel=1e-3)
