"""Preflight: a plan that passes runs, one that is refused would fail, and the bytes are those of a real session."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import strategies as st

import secfed
from secfed import dp, secagg
from secfed.errors import ConfigError, TooFewSurvivorsError
from secfed.preflight import Plan, preflight
from secfed.preflight.dropout_risk import Needed, any_of, poisson_failure
from secfed.preflight.feasibility import check
from secfed.secagg import Stage
from secfed.secagg.parameters import least_against_corruption
from tests.examples import examples

PRIVACIES = ("none", "central", "distributed")
GRAPH = ("threshold", "neighbors", "adversary", "colluders", "session_colluders", "bits", "max_weight")


def session(options: dict[str, Any]) -> secfed.aggregation.Aggregate:
    """Really run one round of a plan of secure aggregation without privacy."""
    given = {name: options[name] for name in GRAPH if name in options}
    updates = [np.zeros(options["update"], np.float32)] * options["clients"]
    return secfed.SecAgg(**given).aggregate(updates)


@pytest.mark.parametrize(
    "options",
    [
        {"clients": 2},
        {"clients": 9, "bits": 20, "max_weight": 300},
        {"clients": 9, "adversary": "malicious_server"},
        {"clients": 21, "neighbors": 6, "threshold": 4},
        {"clients": 21, "neighbors": 8, "threshold": 7, "colluders": 2, "adversary": "malicious_server"},
        {
            "clients": 21, "neighbors": 8, "threshold": 7, "colluders": 1, "adversary": "malicious_server",
            "session_colluders": 2,
        },
    ],
    ids=["two", "weighted", "malicious", "regular", "regular malicious", "indivisible"],
)  # fmt: skip
def test_bytes_are_those_of_a_real_session(options: dict[str, Any]) -> None:
    report = preflight(update=33, measure=False, **options)
    assert report.problems == () and report.costs is not None
    result = session({"update": 33, **options})
    assert set(result.bytes_up.values()) == {report.costs.bytes_up}
    assert set(result.bytes_down.values()) == {report.costs.bytes_down}


@pytest.mark.parametrize(
    ("aggregator", "privacy"),  # all that there are: in the clear clients' noise is refused, see REFUSED
    [
        *((aggregator, privacy) for aggregator in ("secagg", "paillier") for privacy in PRIVACIES),
        ("plain", "none"),
        ("plain", "central"),
    ],
)
@pytest.mark.usefixtures("known_primes")
def test_bytes_of_every_aggregator_and_privacy_are_those_of_a_real_round(aggregator: str, privacy: str) -> None:
    options: dict[str, Any] = {"update": 40, "clients": 6, "aggregator": aggregator, "privacy": privacy}
    if privacy != "none":
        options |= {"noise_multiplier": 1.5, "clip_norm": 2.0}
    if privacy == "distributed":
        options |= {"minimum_survivors": 4, "layers": 3}
    plan = Plan(**options)
    report = preflight(plan, measure=False)
    assert report.problems == () and report.costs is not None
    made = plan.make_aggregator()
    if aggregator == "paillier":  # a key that is found at once, of the size that the plan has by default
        made = secfed.Paillier(private_key=secfed.paillier.generate_keypair(3072)[1], noise="short")
    updates = [np.zeros(40, np.float32)] * 6
    result = made.aggregate(updates, privacy=plan.make_privacy(1.5), record=True)
    assert set(result.bytes_up.values()) == {report.costs.bytes_up}
    assert set(result.bytes_down.values()) == {report.costs.bytes_down}
    assert result.transcript is not None
    recorded = sum(len(message.data) for message in result.transcript.entries)
    if aggregator != "plain":
        assert report.costs.server_bytes == recorded


@st.composite
def graphs(draw: st.DrawFn, most: int = 8) -> dict[str, Any]:
    """Options of small sessions, right and wrong ones."""
    clients = draw(st.integers(2, most))
    return {
        "update": 3,
        "clients": clients,
        "threshold": draw(st.none() | st.integers(1, clients + 1) | st.sampled_from([0.5, 2 / 3, 0.9, 1.0])),
        "neighbors": draw(st.none() | st.integers(1, clients)),
        "adversary": draw(st.sampled_from([None, "malicious_server"])),
        "colluders": draw(st.none() | st.integers(0, 3)),
        "session_colluders": draw(st.none() | st.none() | st.integers(0, 3)),
        "bits": draw(st.none() | st.integers(1, 34)),
        "max_weight": draw(st.none() | st.sampled_from([1, 100, 1 << 40])),
    }


def run(plan: Plan, dropouts: dict[int, Stage]) -> secfed.aggregation.Aggregate:
    updates = [np.full(3, number / 4, np.float32) for number in range(plan.cohort)]
    privacy = plan.make_privacy(plan.noise_multiplier or 1.0)
    return plan.make_aggregator().aggregate(updates, dropouts=dropouts, privacy=privacy)


@examples(12, 300, suppress_health_check=[HealthCheck.filter_too_much])
@given(graphs(), st.data())
def test_a_plan_that_passes_runs_with_as_many_dropouts_as_it_allows(
    options: dict[str, Any], data: st.DataObject
) -> None:
    plan = Plan(**options)
    found = check(plan)
    assume(not found.problems)
    assert found.needed is not None
    spare = plan.cohort - found.needed.survivors
    if found.needed.neighbors:  # wherever the dropouts are, every client keeps enough neighbors
        spare = min(spare, found.needed.neighbors - found.needed.holders)
    silent = data.draw(st.permutations(range(1, plan.cohort + 1)))[:spare]
    stages = st.sampled_from([stage for stage in Stage if stage < Stage.DONE])
    result = run(plan, {client_id: data.draw(stages) for client_id in silent})
    assert len(result.survivors) >= plan.cohort - spare


@examples(12, 300, suppress_health_check=[HealthCheck.filter_too_much])
@given(graphs(), st.data())
def test_a_plan_refused_for_its_parameters_raises_what_preflight_says(
    options: dict[str, Any], data: st.DataObject
) -> None:
    plan = Plan(**options)
    texts = [problem.text for problem in check(plan).problems if problem.check in ("config", "session")]
    assume(texts)
    with pytest.raises(ConfigError) as raised:
        run(plan, {})
    assert raised.value.args[0] in texts


@pytest.mark.parametrize("clients", [4, 9])
@pytest.mark.parametrize("privacy", ["none", "distributed"])
def test_one_survivor_fewer_than_preflight_demands_gives_no_sum(clients: int, privacy: str) -> None:
    options: dict[str, Any] = {"noise_multiplier": 2.0, "minimum_survivors": clients - 1}
    plan = Plan(update=3, clients=clients, privacy=privacy, **options if privacy == "distributed" else {})  # type: ignore[arg-type]
    found = check(plan)
    assert found.problems == () and found.needed is not None
    silent = range(1, clients - found.needed.survivors + 1)
    assert run(plan, dict.fromkeys(silent, Stage.SHARE_KEYS)).survivors
    with pytest.raises(TooFewSurvivorsError):
        run(plan, dict.fromkeys([*silent, clients], Stage.SHARE_KEYS))


# Dropouts


@pytest.mark.parametrize(("clients", "survivors", "dropout"), [(10, 7, "1/10"), (50, 34, "1/5"), (300, 201, "1/50")])
def test_failures_of_a_complete_graph_are_the_exact_binomial_tail(clients: int, survivors: int, dropout: str) -> None:
    lost = Fraction(dropout)
    exact = sum(math.comb(clients, n) * (1 - lost) ** n * lost ** (clients - n) for n in range(survivors))
    assert math.isclose(Needed(survivors).failure(clients, float(lost)), exact, rel_tol=1e-10)
    assert math.isclose(any_of(20, float(exact)), 1 - (1 - exact) ** 20, rel_tol=1e-9)


def test_failures_of_a_regular_graph_are_bounded_from_above() -> None:
    generator = np.random.default_rng(5)
    clients, half, threshold, runs = 40, 4, 5, 4000
    alive = generator.random((runs, clients)) < 0.8
    kept = sum(np.roll(alive, step, axis=1).astype(int) for step in [*range(-half, 0), *range(1, half + 1)])
    found = float((kept < threshold).any(axis=1).mean())
    bound = Needed(2, 2 * half, threshold).failure(clients, 0.2)
    assert found < bound < 4 * found  # neighbors overlap, so clients fail together


def test_failures_of_poisson_cohorts_are_summed_over_their_sizes() -> None:
    population, rate, lost = 30, 0.4, 0.1

    def needed(clients: int) -> Needed | None:
        return Needed(clients // 2 + 1) if clients >= 4 else None

    exact = 0.0
    for size in range(population + 1):
        weight = math.comb(population, size) * rate**size * (1 - rate) ** (population - size)
        who = needed(size)
        exact += weight * (1.0 if who is None else who.failure(size, lost))
    found = poisson_failure(needed, population=population, sampling_rate=rate, dropout_fraction=lost)
    assert math.isclose(found, exact, rel_tol=1e-9)


def test_many_sizes_of_cohorts_are_bounded_from_above() -> None:
    def needed(clients: int) -> Needed:
        return Needed(math.ceil(0.8 * clients))

    common = {"population": 2_000_000, "sampling_rate": 0.01, "dropout_fraction": 0.19}
    found = poisson_failure(needed, **common)  # type: ignore[arg-type]
    typical = needed(20_000).failure(20_000, 0.19)
    assert typical < found < 1.2 * typical


@pytest.mark.parametrize("adversary", ["semi_honest", "malicious_server"])
def test_what_a_session_needs_against_corruption_is_what_parameters_choose(adversary: Any) -> None:
    given_fractions = {"clients": 500, "corrupt_fraction": 0.05, "dropout_fraction": 0.05, "adversary": adversary}
    chosen = secagg.parameters(**given_fractions)
    neighbors, colluders = least_against_corruption(neighbors=chosen.neighbors, **given_fractions)
    assert colluders == chosen.colluders and 2 < neighbors <= chosen.neighbors
    assert least_against_corruption(neighbors=None, **given_fractions) == (0, 25)
    plan = Plan(
        update=3, clients=500, adversary=adversary, corrupt_fraction=0.05, dropout_fraction=0.05,
        neighbors=chosen.neighbors, threshold=chosen.threshold, colluders=chosen.colluders,
    )  # fmt: skip
    assert check(plan).problems == ()
    weaker = check(plan.changed(colluders=chosen.colluders - 1)).problems
    assert [problem.check for problem in weaker] == ["corruption"]


# Problems and suggestions

REFUSED: dict[str, dict[str, Any]] = {
    "dropouts": {"clients": 10, "dropout_fraction": 0.1, "rounds": 10},
    "threshold and bits": {"clients": 100, "threshold": 40, "bits": 99, "dropout_fraction": 0.1},
    "threshold too high": {"clients": 100, "threshold": 99, "dropout_fraction": 0.1, "key_bits": 2048},
    "regular": {"clients": 100, "neighbors": 10, "threshold": 9, "dropout_fraction": 0.1},
    "corrupt": {
        "clients": 500, "neighbors": 66, "threshold": 60, "dropout_fraction": 0.05, "corrupt_fraction": 0.05,
        "adversary": "malicious_server",
    },
    "overflow": {"clients": 30, "max_weight": 1 << 31, "bits": 32},
    "encrypted overflow": {"clients": 30, "max_weight": 1 << 31, "bits": 32, "aggregator": "paillier"},
    "noise in the clear": {"clients": 30, "privacy": "distributed", "noise_multiplier": 3.0, "aggregator": "plain"},
    "noise of too few": {
        "clients": 60, "privacy": "distributed", "noise_multiplier": 3.0, "minimum_survivors": 58,
        "dropout_fraction": 0.05,
    },
    "noise on a graph": {
        "clients": 60, "privacy": "distributed", "noise_multiplier": 3.0, "neighbors": 20, "threshold": 11,
        "dropout_fraction": 0.02,
    },
    "few bits by default": {
        "update": 1_000_000, "clients": 300, "privacy": "distributed", "noise_multiplier": 7.6, "layers": 4,
    },
    "few bits": {"clients": 60, "privacy": "distributed", "noise_multiplier": 3.0, "bits": 4},
    "budget": {"clients": 30, "privacy": "central", "noise_multiplier": 1.0, "epsilon": 3.0, "rounds": 40},
    "sampled": {"sampling_rate": 0.03, "population": 1000, "dropout_fraction": 0.1, "rounds": 30},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_every_suggestion_makes_a_plan_without_a_problem(name: str) -> None:
    plan = Plan(**{"update": 50, **REFUSED[name]})
    report = preflight(plan, measure=False)
    assert report.problems and report.suggestions
    for suggestion in report.suggestions:
        assert suggestion.changes
        assert check(plan.changed(**suggestion.changes)).problems == ()


def test_suggestions_never_let_a_server_split_a_sum_that_it_could_not_split() -> None:
    plan = Plan(update=3, clients=100, neighbors=20, threshold=15, colluders=1, dropout_fraction=0.1, rounds=5)
    report = preflight(plan, measure=False)
    assert report.problems and report.suggestions
    for suggestion in report.suggestions:
        config = check(plan.changed(**suggestion.changes)).config
        assert isinstance(config, secagg.Config) and config.indivisible and config.colluders >= 1


def test_problems_are_told_all_at_once() -> None:
    report = preflight(
        update=10, clients=5, threshold=2, clip=-1.0, bits=99, key_bits=2048, dropout_fraction=1.5, rounds=0
    )
    assert report.costs is None
    assert [problem.text for problem in report.problems] == [
        "key_bits 2048 has no effect with aggregator secagg: leave it out",
        "rounds 0: needed a whole number from 1 to 1000000000000",
        "dropout_fraction 1.5: needed from 0 up to, but not including, 1",
        "clip -1.0 must be a positive finite number",
        "threshold 2 must be more than half of 5 clients",
        "bits 99 must be from 2 to 32",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no clients"),
        ({"clients": 0}, "clients 0"),
        ({"clients": 2.5}, "clients 2.5"),
        ({"clients": 9, "population": 5}, "9 clients from a population of 5"),
        ({"sampling_rate": 0.5}, "without a population"),
        ({"sampling_rate": 1e-9, "population": 5}, "at least one client a round"),
        ({"sampling_rate": 1.5, "population": 5}, "sampling_rate 1.5"),
        ({"clients": 5, "sampling_rate": 0.5, "population": 10}, "clients 5 has no effect with a sampling_rate"),
        ({"clients": 5, "dropout_fraction": "0.1"}, "dropout_fraction '0.1'"),
        ({"clients": 5, "dropout_fraction": math.nan}, "dropout_fraction nan"),
        ({"clients": 5, "threshold": "3"}, "threshold '3': needed a number"),
        ({"clients": 5, "neighbors": 2.5}, "neighbors 2.5: needed a whole number"),
        ({"clients": 5, "max_weight": "100"}, "max_weight '100': needed a whole number"),
        ({"clients": 5, "adversary": "nobody"}, "adversary 'nobody'"),
        ({"clients": 5, "aggregator": "none"}, "aggregator 'none'"),
        ({"clients": 5, "privacy": "local"}, "privacy 'local'"),
        ({"clients": 5, "privacy": "central"}, "needed one of them"),
        ({"clients": 5, "privacy": "central", "epsilon": -1.0}, "epsilon -1.0"),
        ({"clients": 5, "privacy": "central", "epsilon": 1.0, "delta": 1.0}, "delta 1.0"),
        ({"clients": 5, "epsilon": 1.0}, "epsilon 1.0 has no effect with privacy none"),
        ({"clients": 5, "privacy": "central", "noise_multiplier": 1.0, "clip": 2.0}, "clip 2.0 has no effect"),
        ({"clients": 5, "aggregator": "plain", "threshold": 3}, "threshold 3 has no effect with aggregator plain"),
        ({"clients": 5, "aggregator": "paillier", "key_bits": 2050}, "key_bits 2050 must be a multiple of 16"),
        ({"clients": 5, "aggregator": "paillier", "minimum_cohort": 6}, "minimum_cohort 6 must be"),
        (
            {"sampling_rate": 0.05, "population": 100, "privacy": "central", "noise_multiplier": 1.0},
            "one client may decide whether",
        ),
        ({"sampling_rate": 0.02, "population": 100, "privacy": "central", "noise_multiplier": 1.0}, "no epsilon holds"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_in_words(options: dict[str, Any], words: str) -> None:
    report = preflight(update=10, measure=False, **options)
    assert any(words in problem.text for problem in report.problems), report.problems


def test_an_update_without_values_is_refused() -> None:
    assert "an update of 0 values" in preflight(update=0, clients=5).problems[0].text
    assert "holds no array" in preflight(update=[], clients=5).problems[0].text


# Privacy


@pytest.mark.parametrize("sampling", [{}, {"population": 1000}], ids=["everybody", "cohorts of fixed size"])
def test_noise_of_a_plan_is_the_least_that_keeps_its_budget(sampling: dict[str, int]) -> None:
    found = check(Plan(update=20, clients=50, privacy="central", epsilon=2.0, delta=1e-6, rounds=10, **sampling))
    rate = 0.05 if sampling else 1.0
    release = {"sampling": "fixed", "population": 1000} if sampling else {}
    expected = dp.noise_multiplier(epsilon=2.0, delta=1e-6, rounds=10, sampling_rate=rate, **release)  # type: ignore[arg-type]
    assert found.problems == () and found.noise_multiplier == expected
    assert found.epsilon is not None and 1.99 < found.epsilon <= 2.0


def test_sampling_is_no_privacy_against_a_server_that_sees_who_takes_part() -> None:
    options = {"clients": 50, "privacy": "distributed", "epsilon": 2.0, "rounds": 10}
    whole, sampled = (check(Plan(update=20, **options, **more)) for more in ({}, {"population": 1000}))  # type: ignore[arg-type]
    assert whole.noise_multiplier == sampled.noise_multiplier
    assert whole.epsilon == sampled.epsilon


# Seconds


def test_seconds_of_a_large_plan_are_scaled_and_say_so() -> None:
    report = preflight(update=10_000_000, clients=20)
    assert report.costs is not None and report.costs.seconds is not None
    assert report.costs.measured == "measured here on 500,000 values, scaled"
    one = report.costs.stages["MASKED_INPUT_COLLECTION"].seconds
    assert one is not None and one > 0.02  # 200 million bytes of keystream per mask take longer on any machine


def test_a_large_cohort_is_tried_with_fewer_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secfed.preflight.costs._MOST_WHO_SIGN", 32)
    report = preflight(update=10, clients=300, adversary="malicious_server")
    assert report.costs is not None and report.costs.seconds is not None
    assert report.costs.measured == "measured here on 11 values, in a cohort of 32, scaled"
