"""Training with privacy: what is accounted is what was released, and nothing is drawn that the budget cannot pay."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import secfed
from secfed import dp
from secfed.aggregation import AdaptiveClipping, CentralGaussian, DistributedGaussian
from secfed.errors import BudgetExceededError, ConfigError
from secfed.secagg import Stage

CENTRAL, DISTRIBUTED = CentralGaussian(1.0, 2.0), DistributedGaussian(1.0, 2.0)
SECURE = secfed.SecAgg(threshold=2 / 3)
DELTA = 1e-5


def move(model: np.ndarray, data: Any) -> tuple[np.ndarray, int]:
    return data - model, 1


def values(count: int, size: int = 20) -> list[np.ndarray]:
    return [np.full(size, 0.1 * i) for i in range(count)]


def fedavg(privacy: Any, aggregator: Any = SECURE, update: Any = move, **options: Any) -> secfed.FedAvg:
    return secfed.FedAvg(update, aggregator=aggregator, privacy=privacy, **options)


def forbid_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("discrete_gaussian", "skellam"):
        monkeypatch.setattr(f"secfed.dp.noise.samplers.{name}", lambda *_: pytest.fail("noise was drawn"))


@pytest.mark.parametrize("privacy", [CENTRAL, DISTRIBUTED])
def test_report_holds_the_event_and_the_accountant_as_it_was_after_the_round(privacy: Any) -> None:
    reports = list(fedavg(privacy).rounds(np.zeros(20), values(6), count=4))
    for report in reports:
        assert report.event is not None and report.accountant is not None
        assert sum(count for _, count in report.accountant.events) == report.number
        assert report.clip_norm == 1.0
    spent = [report.accountant.epsilon(DELTA) for report in reports if report.accountant]
    assert spent == sorted(set(spent))
    by_hand = dp.Accountant()
    for report in reports:
        assert report.event is not None
        by_hand.compose(report.event)
    assert by_hand.epsilon(DELTA) == spent[-1]


def test_without_privacy_nothing_is_accounted() -> None:
    [report] = fedavg(None).rounds(np.zeros(20), values(6), count=1)
    assert report.event is None and report.accountant is None and report.clip_norm is None


def test_accountant_of_a_report_is_a_copy() -> None:
    training = fedavg(CENTRAL)
    first, second = training.rounds(np.zeros(20), values(6), count=2)
    assert first.accountant is not None and second.accountant is not None
    before = second.accountant.epsilon(DELTA)
    first.accountant.compose(dp.NonPrivate())
    assert second.accountant.epsilon(DELTA) == before


def test_spending_goes_on_when_the_same_training_goes_on() -> None:
    training = fedavg(CENTRAL)
    *_, last = training.rounds(np.zeros(20), values(6), count=3)
    [again] = training.rounds(last.model, values(6), count=1)
    assert again.accountant is not None
    assert sum(count for _, count in again.accountant.events) == 4


def test_every_round_is_accounted_with_those_that_really_arrived() -> None:
    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return dict.fromkeys(cohort[:number], Stage.MASKED_INPUT_COLLECTION)

    reports = list(fedavg(DISTRIBUTED).rounds(np.zeros(20), values(12), count=4, dropouts=dropouts))
    events: list[Any] = [report.event for report in reports]
    assert [event.clients for event in events] == [11, 10, 9, 8]
    each = [dp.Accountant().compose(event).epsilon(DELTA) for event in events]
    assert each == sorted(each) and each[0] < each[-1]


def test_round_that_fails_releases_and_spends_nothing() -> None:
    def dropouts(number: int, cohort: tuple[int, ...]) -> dict[int, Stage]:
        return dict.fromkeys(cohort[:5], Stage.SHARE_KEYS) if number == 2 else {}

    one, two, three = fedavg(DISTRIBUTED).rounds(np.zeros(20), values(12), count=3, dropouts=dropouts)
    assert two.failure and two.event is None
    assert one.accountant is not None and two.accountant is not None and three.accountant is not None
    assert two.accountant.events == one.accountant.events
    assert three.accountant.epsilon(DELTA) > two.accountant.epsilon(DELTA)


@pytest.mark.parametrize("privacy", [CENTRAL, CentralGaussian(1.0, 2.0, population=7, sampling_rate=0.1)])
def test_sampling_counts_with_the_rate_of_the_training(privacy: Any) -> None:
    for report in fedavg(privacy, secfed.Plain()).rounds(np.zeros(20), values(30), 4, sampling_rate=0.4, seed=1):
        assert isinstance(report.event, dp.PoissonSampled)
        assert report.event.sampling_rate == 0.4
        assert report.aggregate is not None
        assert report.aggregate.weight == 12  # 0.4 of 30, whoever came


def test_sum_is_divided_by_the_expected_cohort_whoever_came() -> None:
    def ones(model: np.ndarray, data: Any) -> tuple[np.ndarray, int]:
        return np.full(2, 1.0), 1000

    training = fedavg(CentralGaussian(10.0, 1e-3), secfed.Plain(), ones)
    before, seen = np.zeros(2), set()
    for report in training.rounds(before, values(30), 5, sampling_rate=0.5, seed=3):
        assert report.model - before == pytest.approx(np.full(2, len(report.survivors) / 15), abs=0.01)
        before = report.model
        seen.add(len(report.survivors))
    assert len(seen) > 1


def test_adjacency_is_that_which_was_asked_for() -> None:
    spent = []
    for adjacency in ("add_remove", "replace"):
        [report] = fedavg(CENTRAL, adjacency=adjacency).rounds(np.zeros(20), values(6), count=1)
        assert report.accountant is not None and report.accountant.adjacency == adjacency
        spent.append(report.accountant.epsilon(DELTA))
    assert spent[1] > 1.9 * spent[0]


# The budget.


@pytest.mark.parametrize("privacy", [CENTRAL, DISTRIBUTED])
def test_round_that_could_overspend_is_refused_before_anything_is_drawn(
    privacy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def watched(model: np.ndarray, data: Any) -> tuple[np.ndarray, int]:
        calls.append(1)
        return move(model, data)

    worst = SECURE.prepare(np.zeros(20), range(1, 7), privacy=privacy).worst_event
    limit = dp.Accountant().compose(worst, 2).epsilon(DELTA) * 1.001
    rounds = fedavg(privacy, update=watched, budget=(limit, DELTA)).rounds(np.zeros(20), values(6), count=10)
    passed = 0
    with pytest.raises(BudgetExceededError) as caught:  # noqa: PT012
        for report in rounds:
            assert report.accountant is not None
            assert report.accountant.epsilon(DELTA) <= limit
            passed += 1
            assert len(calls) == 6 * passed
            if passed == 2:
                after = report.accountant.copy().compose(worst).epsilon(DELTA)
                if after > limit:
                    forbid_noise(monkeypatch)
    assert passed >= 2
    assert len(calls) == 6 * passed
    assert caught.value.budget == limit < caught.value.epsilon
    assert f"after round {passed + 1} epsilon" in str(caught.value)


def test_budget_that_a_round_meets_to_the_last_digit_is_enough() -> None:
    worst = SECURE.prepare(np.zeros(20), range(1, 7), privacy=CENTRAL).worst_event
    limit = dp.Accountant().compose(worst).epsilon(DELTA)
    reports = list(fedavg(CENTRAL, budget=(limit, DELTA)).rounds(np.zeros(20), values(6), count=1))
    assert reports[0].accountant is not None
    assert reports[0].accountant.epsilon(DELTA) == limit
    with pytest.raises(BudgetExceededError):
        next(fedavg(CENTRAL, budget=(math.nextafter(limit, 0), DELTA)).rounds(np.zeros(20), values(6), count=1))


def test_a_calibrated_budget_lasts_for_just_so_many_rounds_at_the_worst() -> None:
    """As few survive as allowed, in every round."""
    noise = dp.noise_multiplier(epsilon=2.0, delta=DELTA, rounds=5)
    silent = dict.fromkeys((1, 4), Stage.MASKED_INPUT_COLLECTION)
    training = fedavg(DistributedGaussian(1.0, noise), budget=(2.0, DELTA))
    rounds = training.rounds(np.zeros(20), values(6), count=6, dropouts=lambda number, cohort: silent)
    reports = [next(rounds) for _ in range(5)]
    assert reports[-1].accountant is not None
    assert 1.999 < reports[-1].accountant.epsilon(DELTA) <= 2.0
    with pytest.raises(BudgetExceededError):
        next(rounds)


def test_ledger_is_told_of_every_round_and_refuses_what_it_cannot_pay(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=3.0, delta=DELTA)
    training = fedavg(DISTRIBUTED, ledger=ledger)
    silent = {2: Stage.MASKED_INPUT_COLLECTION}
    reports = []
    with pytest.raises(BudgetExceededError):
        reports.extend(training.rounds(np.zeros(20), values(6), 50, dropouts=lambda number, cohort: silent))
    entries = dp.Ledger.open(tmp_path / "budget").entries()
    assert len(entries) >= 2
    assert [entry.state for entry in entries] == ["committed"] * len(entries)
    assert [entry.label for entry in entries] == [f"round {i + 1}" for i in range(len(entries))]
    assert all(entry.event.clients == 5 for entry in entries if isinstance(entry.event, dp.DiscreteGaussianSum))
    assert ledger.spent() <= 3.0
    with pytest.raises(BudgetExceededError):  # another training on the same clients
        next(fedavg(CentralGaussian(1.0, 0.5), ledger=ledger).rounds(np.zeros(20), values(6), count=1))


def test_ledger_gets_back_what_a_failed_round_reserved_but_not_what_a_crash_did(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=30.0, delta=DELTA)
    silent = dict.fromkeys((1, 2, 3), Stage.SHARE_KEYS)
    rounds = fedavg(DISTRIBUTED, ledger=ledger).rounds(
        np.zeros(20), values(6), count=1, dropouts=lambda number, cohort: silent
    )
    assert next(rounds).failure
    assert [entry.state for entry in ledger.entries()] == ["cancelled"]
    assert ledger.spent() == 0.0

    def crash(model: np.ndarray, data: Any) -> tuple[np.ndarray, int]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(fedavg(DISTRIBUTED, update=crash, ledger=ledger).rounds(np.zeros(20), values(6), count=1))
    assert ledger.entries()[-1].state == "reserved"
    assert ledger.spent() > 0


def test_ledger_says_which_adjacency_is_meant(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=30.0, delta=DELTA, adjacency="replace")
    [report] = fedavg(CENTRAL, ledger=ledger).rounds(np.zeros(20), values(6), count=1)
    assert report.accountant is not None and report.accountant.adjacency == "replace"
    assert report.accountant.epsilon(DELTA) == pytest.approx(ledger.spent())
    with pytest.raises(ConfigError, match="adjacency 'add_remove' is not that of the ledger, 'replace'"):
        fedavg(CENTRAL, ledger=ledger, adjacency="add_remove")


def test_resumed_training_goes_on_with_its_budget() -> None:
    budget = (4.0, DELTA)
    whole = fedavg(CENTRAL, budget=budget)
    reports: list[Any] = []
    with pytest.raises(BudgetExceededError):
        reports.extend(whole.rounds(np.zeros(20), values(6), count=50))
    first = fedavg(CENTRAL, budget=budget)
    [stopped] = first.rounds(np.zeros(20), values(6), count=1)
    assert len(reports) > 1 and stopped.accountant is not None
    before = stopped.accountant.epsilon(DELTA)
    resumed = fedavg(CENTRAL, budget=budget, accountant=stopped.accountant)
    again: list[Any] = []
    with pytest.raises(BudgetExceededError):
        again.extend(resumed.rounds(stopped.model, values(6), count=50))
    assert 1 + len(again) == len(reports)
    assert again[-1].accountant.epsilon(DELTA) == reports[-1].accountant.epsilon(DELTA)
    assert stopped.accountant.epsilon(DELTA) == before


def test_trainings_with_one_ledger_report_what_it_says(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=30.0, delta=DELTA)
    ledger.record(dp.Gaussian(5.0), label="statistics")
    one, two = fedavg(CENTRAL, ledger=ledger), fedavg(CENTRAL, ledger=dp.Ledger.open(ledger.path))
    for training in (one, two, one):
        [report] = training.rounds(np.zeros(20), values(6), count=1)
        assert report.accountant is not None
        assert report.accountant.epsilon(DELTA) == ledger.spent()
    assert len(ledger.entries()) == 4
    tight = fedavg(CENTRAL, ledger=ledger, budget=(ledger.spent() * 1.001, DELTA))
    with pytest.raises(BudgetExceededError):
        next(tight.rounds(np.zeros(20), values(6), count=1))


def test_accountant_of_another_adjacency_or_beside_a_ledger_is_refused(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=30.0, delta=DELTA)
    assert fedavg(CENTRAL, accountant=dp.Accountant("replace"))
    for options, text in (
        ({"accountant": dp.Accountant("replace"), "adjacency": "add_remove"}, "that of the accountant, 'replace'"),
        ({"accountant": dp.Accountant(), "ledger": ledger}, "found a ledger and an accountant, needed only one"),
        ({"accountant": 3.0}, "must be a dp.Accountant"),
    ):
        with pytest.raises(ConfigError, match=text):
            fedavg(CENTRAL, **options)


# The clip that moves.


def test_adaptive_clip_is_what_is_computed_by_hand_from_the_counts() -> None:
    """All norms are 8: while the clip is below, nobody is within it, and it grows; then everybody is."""
    adaptive = AdaptiveClipping(target_quantile=0.5, learning_rate=1.0, count_noise=0.01)
    privacy = CentralGaussian(1.0, 1e-3, adaptive=adaptive)
    training = fedavg(privacy, secfed.Plain(), lambda model, data: (np.full(4, 4.0), 1))
    clip = 1.0
    for report in training.rounds(np.zeros(4), values(10), count=12):
        assert report.clip_norm == pytest.approx(clip, rel=0.02)
        assert report.aggregate is not None and report.aggregate.within_clip is not None
        assert report.aggregate.within_clip == pytest.approx(float(clip >= 8), abs=0.01)
        clip = (report.clip_norm or 0) * math.exp(-1.0 * (report.aggregate.within_clip - 0.5))
    assert 4.8 < clip < 13.2


@pytest.mark.parametrize("start", [0.05, pytest.param(200.0, marks=pytest.mark.slow)])
def test_adaptive_clip_finds_the_median_of_the_norms_whatever_it_was(start: float) -> None:
    norms = np.linspace(1, 9, 41)
    adaptive = AdaptiveClipping(learning_rate=0.5, count_noise=2.0)
    privacy = CentralGaussian(start, 1.0, adaptive=adaptive)
    training = fedavg(privacy, secfed.Plain(), lambda model, data: (np.full(1, data), 1))
    *_, last = training.rounds(np.zeros(1), list(norms), count=40)
    assert last.clip_norm == pytest.approx(5.0, abs=2.0)
    assert last.accountant is not None
    assert len(last.accountant.events) == 1  # one kind of event: noise over clip never moves


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"privacy": None, "budget": (1.0, DELTA)}, "without privacy"),
        ({"privacy": None, "adjacency": "replace"}, "without privacy"),
        ({"privacy": None, "accountant": dp.Accountant()}, "without privacy"),
        ({"privacy": "central"}, "must be CentralGaussian"),
        ({"privacy": CENTRAL, "budget": 3.0}, r"budget 3.0 must be \(epsilon, delta\)"),
        ({"privacy": CENTRAL, "budget": (math.nan, DELTA)}, "nan"),
        ({"privacy": CENTRAL, "budget": (1.0, 1.0)}, "delta 1.0"),
        ({"privacy": CENTRAL, "adjacency": "substitute"}, "substitute"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        secfed.FedAvg(move, aggregator=SECURE, **options)


def test_noise_is_not_that_of_the_seed() -> None:
    models = [next(fedavg(CENTRAL).rounds(np.zeros(20), values(6), 1, seed=1)).model for _ in range(2)]
    assert not np.array_equal(*models)
