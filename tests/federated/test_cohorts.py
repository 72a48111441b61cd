"""Cohorts of chance: what a round releases, or does not, is what the accountant counts."""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import secfed
from secfed import dp
from secfed.aggregation import CentralGaussian, DistributedGaussian
from secfed.aggregation.private_sum import ANY_COHORT, decisive_probability
from secfed.errors import BudgetExceededError, ConfigError
from secfed.secagg import Policy, Stage

DELTA = 1e-5


def move(model: np.ndarray, data: Any) -> tuple[np.ndarray, int]:
    return data - model, 1


def values(count: int) -> list[np.ndarray]:
    return [np.full(3, 0.1 * i) for i in range(count)]


class Drawn:
    """A generator with which the first `size` clients, and no others, join a Poisson cohort."""

    def __init__(self, size: int) -> None:
        self.size = size

    def random(self, clients: int) -> np.ndarray:
        return (np.arange(clients) >= self.size).astype(float)


def fixed_cohort(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("secfed.federated.training.np.random.default_rng", lambda _: Drawn(size))


def true_delta(released: list[bool], clients: int, rate: float, noise: float, epsilon: float) -> float:
    """Delta of one round of a sum in one dimension, by its densities.

    `clients` others have -1, one client has +1 in the first world and is missing in the second. A cohort of k clients
    gives its sum and noise if `released[k]`, and else the message that there is nothing.
    """
    x = np.arange(-clients - 12 * noise - 1, clients + 12 * noise + 1, noise / 200)
    others = stats.binom.pmf(np.arange(clients + 1), clients, rate)
    density, nothing = np.zeros((2, len(x))), [0.0, 0.0]
    for size, chance in enumerate(others):
        for world, joins, weight in ((0, 1, rate), (0, 0, 1 - rate), (1, 0, 1.0)):
            if released[size + joins]:
                density[world] += chance * weight * stats.norm.pdf(x, joins - size, noise)
            else:
                nothing[world] += chance * weight
    found = []
    for one, other in ((0, 1), (1, 0)):
        excess = np.maximum(density[one] - math.exp(epsilon) * density[other], 0)
        atom = max(nothing[one] - math.exp(epsilon) * nothing[other], 0.0)
        found.append(float(excess.sum()) * noise / 200 + atom)
    return max(found)


def rounds_of_every_size(
    monkeypatch: pytest.MonkeyPatch, training: Callable[[], secfed.FedAvg], clients: int, rate: float
) -> tuple[list[bool], dp.Accountant]:
    """Return with which sizes of the cohort training releases something, and what it accounts for a round."""
    released, accountants = [], []
    for size in range(clients + 1):
        fixed_cohort(monkeypatch, size)
        report = next(training().rounds(np.zeros(1), [np.ones(1)] * clients, count=1, sampling_rate=rate))
        assert len(report.cohort) == size
        released.append(report.aggregate is not None)
        assert report.accountant is not None
        accountants.append(report.accountant)
    assert len({accountant.events for accountant in accountants}) == 1  # what is charged tells nothing
    return released, accountants[0]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("clients", "rate", "noise", "epsilon"),
    [
        (20, 0.1, 1.0, 1.0),
        (20, 0.1, 1.0, 2.0),
        (10, 0.2, 1.0, 1.0),
        pytest.param(50, 0.1, 1.0, 2.0, marks=pytest.mark.slow),
        (5, 0.1, 2.0, 1.0),
    ],
)
def test_true_delta_of_a_round_in_the_clear_is_at_most_the_accountants(
    clients: int, rate: float, noise: float, epsilon: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def training() -> secfed.FedAvg:
        return secfed.FedAvg(move, aggregator=secfed.Plain(), privacy=CentralGaussian(1.0, noise))

    released, accountant = rounds_of_every_size(monkeypatch, training, clients + 1, rate)
    found = true_delta(released, clients, rate, noise, epsilon)
    assert 0 < found <= accountant.delta(epsilon)
    missing = [False, *released[1:]]  # as it was once: nothing is released of an empty cohort
    assert true_delta(missing, clients, rate, noise, epsilon) > accountant.delta(epsilon)


@pytest.mark.parametrize(
    ("clients", "rate", "noise", "epsilon"),
    [
        (20, 0.4, 1.0, 1.0),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in [(30, 0.5, 1.0, 1.0), (20, 0.4, 2.0, 2.0), (10, 0.9, 1.0, 3.0)]
        ),
    ],
)
@pytest.mark.parametrize("minimum", [pytest.param(2, marks=pytest.mark.slow), 6])
def test_true_delta_of_a_round_under_secure_aggregation_is_at_most_the_accountants(
    clients: int, rate: float, noise: float, epsilon: float, minimum: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget's delta is large, so that cohorts that cannot run are allowed to cost something."""
    aggregator = secfed.SecAgg(policy=Policy(minimum_cohort=minimum))

    def training() -> secfed.FedAvg:
        privacy = CentralGaussian(1.0, noise)
        return secfed.FedAvg(move, aggregator=aggregator, privacy=privacy, budget=(9.0, 0.999))

    monkeypatch.setattr("secfed.aggregation.cohort_sizes.MOST_OF_DELTA", 1e9)
    released, accountant = rounds_of_every_size(monkeypatch, training, clients + 1, rate)
    assert released == [size >= minimum for size in range(clients + 2)]
    found = true_delta(released, clients, rate, noise, epsilon)
    assert 0 < found <= accountant.delta(epsilon)
    if (clients, minimum) in {(20, 6)}:  # without what the decisive cohorts cost it would not be
        [(event, _)] = accountant.events
        assert isinstance(event, dp.PoissonSampled)
        without = dp.Accountant().compose(dp.PoissonSampled(rate, event.event))
        assert found > without.delta(epsilon)


# How likely a cohort is that releases nothing.


def binomial(count: int, rate: Fraction, size: int) -> Fraction:
    return math.comb(count, size) * rate**size * (1 - rate) ** max(count - size, 0)


@pytest.mark.parametrize(
    ("population", "rate", "smallest", "largest"),
    [(20, 0.1, 2, 1 << 62), (20, 0.5, 8, 15), (200, 0.25, 20, 1 << 62), (200, 0.25, 5, 120), (9, 0.5, 9, 9)],
)
def test_decisive_probability_is_that_of_the_binomial_law(
    population: int, rate: float, smallest: int, largest: int
) -> None:
    exact = max(
        sum(binomial(others, Fraction(rate), size) for size in (smallest - 1, largest) if size <= others)
        for others in (population - 1, population)
    )
    found = decisive_probability(population, rate, (smallest, largest))
    assert exact <= found <= exact * (1 + Fraction(2, 10**6))


def test_nobody_decides_where_every_cohort_can_be_aggregated_or_none() -> None:
    assert decisive_probability(20, 0.1, ANY_COHORT) == 0.0
    assert decisive_probability(20, 0.1, (30, 40)) == 0.0


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("aggregator", "population", "rate"),
    [
        (secfed.SecAgg(), 16, 0.5),
        (secfed.SecAgg(threshold=6), 14, 0.6),
        (secfed.SecAgg(threshold=0.9, adversary="malicious_server", colluders=2), 20, 0.5),
        (secfed.SecAgg(threshold=5, neighbors=8), 40, 0.5),
        (secfed.SecAgg(threshold=3, neighbors=8), 40, 0.5),
        (secfed.SecAgg(threshold=6, neighbors=8), 12, 0.6),
        (secfed.SecAgg(threshold=3, neighbors=8), 12, 0.3),
        (secfed.SecAgg(policy=Policy(minimum_cohort=9, minimum_threshold=7)), 20, 0.5),
        (secfed.SecAgg(threshold=5, neighbors=8, policy=Policy(minimum_cohort=14)), 40, 0.5),
    ],
)
def test_cohorts_that_are_said_to_run_do_and_the_next_ones_do_not(
    aggregator: secfed.SecAgg, population: int, rate: float
) -> None:
    privacy = CentralGaussian(1.0, 1.0, population=population, sampling_rate=rate)
    smallest, largest = aggregator.prepare(np.zeros(1), [], privacy=privacy).cohorts
    assert smallest <= rate * population <= largest

    def runs(size: int) -> bool:
        try:
            aggregator.aggregate([np.zeros(1)] * size, privacy=privacy)
        except secfed.errors.SecFedError:
            return False
        return True

    within = range(smallest, min(largest, population) + 1)
    assert all(runs(size) for size in {within[0], within[len(within) // 2], within[-1]})
    assert not runs(smallest - 1)
    if largest < population:
        assert not runs(largest + 1)


def test_expected_cohort_that_cannot_run_is_refused_with_the_reason() -> None:
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(threshold=9), privacy=CentralGaussian(1.0, 1.0))
    with pytest.raises(ConfigError, match="the expected cohort of 6 clients cannot run: threshold 9"):
        training.rounds(np.zeros(3), values(12), 1, sampling_rate=0.5)


def test_plan_in_which_small_cohorts_are_likely_is_refused_before_the_first_round(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=3.0, delta=DELTA)
    for options in ({}, {"budget": (3.0, DELTA)}, {"ledger": ledger}):
        training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=CentralGaussian(1.0, 4.0), **options)
        with pytest.raises(
            ConfigError, match=r"needed at least 2 clients in a cohort, expected 4.*cohort_size rules it out"
        ):
            training.rounds(np.zeros(3), values(40), 10, sampling_rate=0.1)
        training.rounds(np.zeros(3), values(200), 10, sampling_rate=0.2)
        training.rounds(np.zeros(3), values(40), 10, cohort_size=4)
    assert ledger.entries() == ()


def test_distributed_noise_is_refused_where_too_few_for_its_minimum_are_likely() -> None:
    """The server knows the cohort unless it is secret, and then its size is no matter of the guarantee."""
    for secret in (True, False):
        privacy = DistributedGaussian(1.0, 1.0, minimum_survivors=28, secret_cohort=secret, layers=60)
        training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=privacy)
        if secret:
            with pytest.raises(ConfigError, match="needed 28 to 55 clients in a cohort, expected 30"):
                training.rounds(np.zeros(3), values(60), 1, sampling_rate=0.5)
        else:
            training.rounds(np.zeros(3), values(60), 1, sampling_rate=0.5)


def test_what_skipped_rounds_cost_is_in_every_epsilon_and_in_the_ledger(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=30.0, delta=DELTA)
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=CentralGaussian(1.0, 5.0), ledger=ledger)
    *_, last = training.rounds(np.zeros(3), values(60), 2, sampling_rate=0.5)
    assert last.accountant is not None
    [(event, count)] = last.accountant.events
    assert isinstance(event, dp.PoissonSampled) and count == 2
    assert event.decisive_probability == pytest.approx(stats.binom.pmf(1, 59, 0.5), rel=2e-6)
    assert [entry.event for entry in dp.Ledger.open(ledger.path).entries()] == [event] * 2
    assert ledger.spent() == last.accountant.epsilon(DELTA)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("event", [dp.Gaussian(4.0), dp.SkellamSum(9.0, 20, 10.0, 30.0, 10)])
@pytest.mark.parametrize("skips", [1e-15, 1e-9, 1e-7])
def test_accountant_adds_to_delta_what_skipped_releases_cost(event: Any, skips: float) -> None:
    ideal = dp.Accountant().compose(dp.PoissonSampled(0.1, event), 20)
    release = dp.PoissonSampled(0.1, event, skips)
    accountant = dp.Accountant.from_json(dp.Accountant().compose(dp.Composed(((release, 20),))).to_json())
    epsilon = accountant.epsilon(DELTA)
    assert epsilon == ideal.epsilon(DELTA - 20 * skips)
    assert accountant.delta(1.0) == pytest.approx(ideal.delta(1.0) + 20 * skips, rel=1e-9)
    assert accountant.epsilon(DELTA, bounds=True) == (0.0, epsilon)
    assert accountant.delta(1.0, bounds=True).lower == 0.0
    assert accountant.curve(DELTA)[-1] == pytest.approx(epsilon, rel=1e-6)
    assert accountant.rdp_epsilon(DELTA) == ideal.rdp_epsilon(DELTA - 20 * skips)
    assert "counted in delta" in accountant.assumptions()


def test_nothing_is_guaranteed_where_skipped_releases_cost_more_than_delta() -> None:
    accountant = dp.Accountant().compose(dp.PoissonSampled(0.1, dp.Gaussian(4.0), 1e-3))
    assert accountant.epsilon(1e-3) == accountant.rdp_epsilon(1e-3) == math.inf
    assert accountant.curve(1e-3).tolist() == [math.inf]
    assert accountant.delta(1000.0) == pytest.approx(1e-3)
    with pytest.raises(ConfigError, match=r"decisive_probability 1\.5 must be from 0 to 1"):
        dp.PoissonSampled(0.1, dp.Gaussian(4.0), 1.5)


# A cohort that cannot be aggregated.


def test_empty_cohort_in_the_clear_releases_noise_and_the_model_takes_that_step(tmp_path: Path) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=1e6, delta=DELTA)
    empty, moved = 0, []
    # A ledger looks back at all that was spent, round after round, so most rounds go without.
    for rounds, kept in ((8, ledger), (32, None)):
        training = secfed.FedAvg(move, aggregator=secfed.Plain(), privacy=CentralGaussian(1.0, 2.0), ledger=kept)
        model = np.zeros(3)
        for report in training.rounds(model, values(5), rounds, sampling_rate=0.1, seed=rounds):
            assert report.failure == "" and isinstance(report.event, dp.PoissonSampled)
            if not report.cohort:
                empty += 1
                assert report.survivors == () and report.aggregate is not None
                moved.append((report.model - model) * 0.5)  # the expected cohort is half a client
            model = report.model
        assert empty > 2
    assert empty > 15
    assert np.std(moved) == pytest.approx(2.0, rel=0.5)
    assert [entry.state for entry in ledger.entries()] == ["committed"] * 8


def test_noise_is_released_if_everybody_falls_silent_in_the_clear() -> None:
    training = secfed.FedAvg(move, aggregator=secfed.Plain(), privacy=CentralGaussian(1.0, 2.0))
    silent = dict.fromkeys((1, 2), Stage.MASKED_INPUT_COLLECTION)
    [report] = training.rounds(np.zeros(3), values(2), 1, dropouts=lambda number, cohort: silent)
    assert report.survivors == () and report.failure == "" and report.event is not None
    assert np.any(report.model != 0)


@pytest.mark.parametrize(
    "privacy",
    [CentralGaussian(1.0, 2.0), DistributedGaussian(1.0, 2.0, layers=60, secret_cohort=True, minimum_survivors=12)],
)
def test_cohort_too_small_for_a_session_is_a_failed_round_that_is_charged(
    privacy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ledger = dp.Ledger.create(tmp_path / "budget", epsilon=30.0, delta=DELTA)
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=privacy, ledger=ledger)
    fixed_cohort(monkeypatch, 1)
    one, two = islice(training.rounds(np.ones(3), values(60), 3, sampling_rate=0.6), 2)
    assert "the cohort has 1 clients, needed" in one.failure
    assert two.aggregate is None and two.event is None and np.array_equal(two.model, np.ones(3))
    assert [entry.state for entry in ledger.entries()] == ["committed"] * 2
    assert two.accountant is not None and two.accountant.epsilon(DELTA) == ledger.spent() > 0


def test_poisson_round_with_too_few_survivors_is_charged() -> None:
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=CentralGaussian(1.0, 2.0))
    rounds = training.rounds(
        np.zeros(3),
        values(60),
        1,
        sampling_rate=0.6,
        dropouts=lambda _, cohort: dict.fromkeys(cohort, Stage.SHARE_KEYS),
    )
    report = next(rounds)
    assert report.failure and report.event is None
    assert report.accountant is not None and len(report.accountant.events) == 1


def test_secret_cohorts_below_their_minimum_are_failed_rounds() -> None:
    """The budget's delta is large, so that such cohorts may be as likely as they were when they crashed the run."""
    privacy = DistributedGaussian(1.0, 2.0, layers=60, secret_cohort=True, minimum_survivors=28)
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=privacy, budget=(1e6, 0.99))
    reports: list[Any] = []
    for seed in (1, 2, 3):
        reports.append(next(training.rounds(np.zeros(3), values(60), 1, sampling_rate=0.5, seed=seed)))
    assert {bool(report.failure) for report in reports} == {True, False}
    for report in reports:
        assert bool(report.failure) == (len(report.cohort) < 28) == (report.aggregate is None)


def test_cohort_below_the_minimum_of_a_policy_is_a_failed_round_without_privacy_too() -> None:
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(policy=Policy(minimum_cohort=8)))
    for report in training.rounds(np.zeros(3), values(16), 12, sampling_rate=0.5, seed=0):
        assert bool(report.failure) == (len(report.cohort) < 8)


# Cohorts of a fixed size.


@pytest.mark.sampled(1)
@pytest.mark.parametrize("aggregator", [secfed.Plain(), secfed.SecAgg()])
def test_cohorts_of_a_fixed_size_are_drawn_uniformly_and_accounted_as_such(aggregator: Any) -> None:
    training = secfed.FedAvg(move, aggregator=aggregator, privacy=CentralGaussian(1.0, 2.0))
    joined = np.zeros(12)
    for report in training.rounds(np.zeros(3), values(12), 30, cohort_size=4, seed=0):
        assert len(report.cohort) == 4 and report.cohort == tuple(sorted(report.cohort))
        assert isinstance(report.event, dp.FixedSizeSampled)
        assert (report.event.cohort, report.event.population) == (4, 12)
        assert report.aggregate is not None and report.aggregate.weight == 4
        joined[[client_id - 1 for client_id in report.cohort]] += 1
    assert joined.min() > 10 - 6 * math.sqrt(30 * 2 / 9)
    assert joined.max() < 10 + 6 * math.sqrt(30 * 2 / 9)


def test_fixed_cohort_of_everybody_is_not_sampled() -> None:
    training = secfed.FedAvg(move, aggregator=secfed.Plain(), privacy=CentralGaussian(1.0, 2.0))
    [report] = training.rounds(np.zeros(3), values(5), 1, cohort_size=5)
    assert isinstance(report.event, dp.DiscreteGaussianSum)


@pytest.mark.parametrize("secret", [True, False])
def test_fixed_cohort_counts_for_distributed_noise_only_if_it_is_secret(secret: bool) -> None:
    privacy = DistributedGaussian(1.0, 2.0, secret_cohort=secret)
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=privacy)
    [report] = training.rounds(np.zeros(3), values(20), 1, cohort_size=8)
    assert isinstance(report.event, dp.FixedSizeSampled) == secret
    assert len(report.survivors) == 8


def test_true_delta_of_a_fixed_cohort_is_at_most_the_accountants() -> None:
    """All others have -1, and the client takes the place of one of them, which is what is accounted."""
    clients, size, noise, epsilon = 20, 4, 2.0, 1.0
    training = secfed.FedAvg(move, aggregator=secfed.Plain(), privacy=CentralGaussian(1.0, noise))
    [report] = training.rounds(np.zeros(1), [np.ones(1)] * clients, 1, cohort_size=size)
    assert report.accountant is not None
    x = np.arange(-30.0, 30.0, 0.01)
    without = stats.norm.pdf(x, -size, noise)
    present = (1 - size / clients) * without + size / clients * stats.norm.pdf(x, 2 - size, noise)
    for one, other in ((present, without), (without, present)):
        found = float(np.maximum(one - math.exp(epsilon) * other, 0).sum()) * 0.01
        assert found <= report.accountant.delta(epsilon) * (1 + 1e-4)  # there is a little more noise than asked for


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sampling_rate": 0.5, "cohort_size": 2}, "found sampling_rate 0.5 and cohort_size 2, needed only one"),
        ({"cohort_size": 0}, "cohort_size 0 must be a whole number of at least 1"),
        ({"cohort_size": 2.0}, "cohort_size 2.0 must be a whole number"),
        ({"cohort_size": 6}, "cohort_size 6 must be at most 5, the number of clients"),
    ],
)
def test_cohort_size_out_of_range_is_refused(options: dict[str, Any], text: str) -> None:
    for privacy in (None, CentralGaussian(1.0, 2.0)):
        training = secfed.FedAvg(move, aggregator=secfed.Plain(), privacy=privacy)
        with pytest.raises(ConfigError, match=text):
            training.rounds(np.zeros(3), values(5), 1, **options)


@pytest.mark.slow
def test_budget_is_kept_with_what_skipped_rounds_cost() -> None:
    privacy = CentralGaussian(1.0, 6.0)
    training = secfed.FedAvg(move, aggregator=secfed.SecAgg(), privacy=privacy, budget=(1.0, DELTA))
    reports: list[Any] = []
    with pytest.raises(BudgetExceededError):
        reports.extend(training.rounds(np.zeros(3), values(40), 60, sampling_rate=0.5))
    last = reports[-1].accountant
    assert last is not None and last.epsilon(DELTA) <= 1.0
    assert np.all(last.curve(DELTA) <= 1.0)
