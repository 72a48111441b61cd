"""The commands about budgets: their numbers are the library's, their refusals are clear."""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed import dp
from secfed.cli.accounting import CohortSampling, describe, membership_in_words
from secfed.dp.rounding import down, exact, up, up_to_hundredths
from tests.cli.runner import Run, Runner

# In memory where the system has such a folder: each record of a ledger waits for the disk several times.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
DELTA = 1e-5
ROUNDS = ("--noise-multiplier", 1.1, "--sampling-rate", 0.01, "--rounds", 100)
FIXED = ("--sampling", "fixed", "--population", 1000)


@pytest.fixture
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder) / "budget.sqlite"


@pytest.fixture
def budget(file: Path) -> dp.Ledger:
    return dp.Ledger.create(file, epsilon=3.0, delta=DELTA)


def found(run: Run) -> dict[str, Any]:
    """The one object on stdout of a command that did it."""
    assert run.exit_code == 0, run.stderr
    assert run.stdout.count("\n") == 1
    result = json.loads(run.stdout)
    assert isinstance(result, dict)
    return result


# epsilon and noise


@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_epsilon_is_the_accountants_with_its_bounds_and_its_assumptions(secfed: Runner, adjacency: str) -> None:
    result = found(secfed("epsilon", *ROUNDS, "--delta", DELTA, "--adjacency", adjacency, "--json"))
    event = dp.PoissonSampled(0.01, dp.Gaussian(1.1))
    accountant = dp.Accountant(adjacency=adjacency).compose(event, 100)  # type: ignore[arg-type]
    bounds = accountant.epsilon(DELTA, bounds=True)
    assert (result["epsilon_lower"], result["epsilon_upper"]) == (bounds.lower, bounds.upper)
    assert result["epsilon"] == accountant.epsilon(DELTA)
    assert 0 < result["epsilon_lower"] <= result["epsilon"] <= result["epsilon_upper"]
    assert result["assumptions"] == accountant.assumptions(delta=DELTA)
    assert {key: result[key] for key in ("delta", "rounds", "adjacency", "sampling", "sampling_rate", "files")} == {
        "delta": DELTA,
        "rounds": 100,
        "adjacency": adjacency,
        "sampling": "poisson",
        "sampling_rate": 0.01,
        "files": [],
    }


@pytest.mark.sampled(1)
@pytest.mark.parametrize("adjacency", ["add_remove", "replace"])
def test_epsilon_tells_mu_and_what_membership_tests_can_do(secfed: Runner, adjacency: str) -> None:
    arguments = ("epsilon", *ROUNDS, "--delta", DELTA, "--adjacency", adjacency)
    result, printed = found(secfed(*arguments, "--json")), secfed(*arguments).stdout
    accountant = dp.Accountant(adjacency=adjacency).compose(dp.PoissonSampled(0.01, dp.Gaussian(1.1)), 100)  # type: ignore[arg-type]
    mu = accountant.mu(least_delta=1e-10, bounds=True)
    assert (result["mu"], result["mu_lower"], result["mu_upper"]) == (mu.upper, mu.lower, mu.upper)
    assert result["mu_least_delta"] == 1e-10
    hits = [result["tpr_at_fpr_0.01"], result["tpr_at_fpr_0.001"]]
    assert hits == [accountant.true_positive_rate(0.01), accountant.true_positive_rate(0.001)]
    assert 0.01 < hits[0] < 0.05 and 0.001 < hits[1] < 0.01
    assert (
        f"\nGaussian privacy: mu at most {up(mu.upper, 4)} for every delta from 1e-10 (proved to lie from " in printed
    )
    rates = f"{up(hits[0], 4)} at 1 %, {up(hits[1], 4)} at 0.1 % false positive rate"
    assert f"\nmembership tests: true positive rate at most {rates}\n" in printed


def test_a_mu_that_is_not_proved_is_null_and_said_to_be_none() -> None:
    report = {"mu": None, "mu_least_delta": 1e-10, "tpr_at_fpr_0.01": 1.0, "tpr_at_fpr_0.001": 0.5}
    mu, tests = membership_in_words(report)
    assert mu == "Gaussian privacy: no mu is proved for every delta from 1e-10"
    assert tests == "membership tests: true positive rate at most 1 at 1 %, 0.5 at 0.1 % false positive rate"


def test_without_json_the_number_and_its_assumptions_stand_on_stdout(secfed: Runner) -> None:
    run = secfed("epsilon", *ROUNDS, "--delta", DELTA)
    epsilon = dp.Accountant().compose(dp.PoissonSampled(0.01, dp.Gaussian(1.1)), 100).epsilon(DELTA)
    assert run.exit_code == 0 and run.stderr == ""
    assert run.stdout.startswith(f"epsilon at most {up(epsilon, 9)} at delta 1e-05 (proved to lie from ")
    for word in ("one client", "add_remove", "100 releases", "probability 0.01"):
        assert word in run.stdout


def test_a_cohort_of_fixed_size_is_named_by_its_size_or_its_part(secfed: Runner) -> None:
    rest = ("--noise-multiplier", 2.0, "--rounds", 1, "--delta", DELTA, "--adjacency", "replace", "--json")
    by_size = found(secfed("epsilon", *FIXED, "--cohort", 30, *rest))
    by_part = found(secfed("epsilon", *FIXED, "--sampling-rate", 0.03, *rest))
    assert by_size == by_part
    event = dp.FixedSizeSampled(30, 1000, dp.Gaussian(2.0))
    assert by_size["epsilon"] == dp.Accountant(adjacency="replace").compose(event).epsilon(DELTA)
    assert (by_size["sampling"], by_size["cohort"], by_size["population"]) == ("fixed", 30, 1000)


def test_without_sampling_a_round_is_one_gaussian(secfed: Runner) -> None:
    result = found(secfed("epsilon", "--noise-multiplier", 2.0, "--delta", DELTA, "--json"))
    assert result["epsilon"] == dp.Accountant().compose(dp.Gaussian(2.0)).epsilon(DELTA)
    assert result["rounds"] == 1 and result["sampling_rate"] == 1.0


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("options", "rounds", "arguments"),
    [
        (("--sampling-rate", 0.5), 2, {"sampling_rate": 0.5}),
        (
            (*FIXED, "--cohort", 300, "--adjacency", "replace"),
            1,
            {"sampling_rate": 0.3, "sampling": "fixed", "population": 1000, "adjacency": "replace"},
        ),
    ],
)
def test_noise_is_the_librarys_and_spends_just_the_budget(
    secfed: Runner, options: tuple[object, ...], rounds: int, arguments: dict[str, Any]
) -> None:
    options = ("--delta", DELTA, "--rounds", rounds, *options, "--json")
    result = found(secfed("noise", "--epsilon", 2, *options))
    assert result["noise_multiplier"] == dp.noise_multiplier(epsilon=2.0, delta=DELTA, rounds=rounds, **arguments)
    assert result["epsilon"] == 2.0
    assert 2 * (1 - 1e-6) < result["epsilon_upper"] <= 2
    assert "client" in result["assumptions"]
    again = found(secfed("epsilon", "--noise-multiplier", result["noise_multiplier"], *options))
    assert again["epsilon"] == result["epsilon_upper"]


def test_noise_says_its_number_first(secfed: Runner) -> None:
    run = secfed("noise", "--epsilon", 2, "--delta", DELTA)
    expected = dp.noise_multiplier(epsilon=2.0, delta=DELTA)
    assert run.stdout.startswith(f"noise multiplier {up(expected, 9)} for epsilon 2 at delta 1e-05\n")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("noise", [0.7, 1.1, 1.3, 2.0, 3.1, 5.9, 20.0, 333.0])
def test_printed_bounds_of_epsilon_hold_the_certified_ones(secfed: Runner, noise: float) -> None:
    arguments = ("--noise-multiplier", noise, "--rounds", 3, "--delta", DELTA)
    result, printed = found(secfed("epsilon", *arguments, "--json")), secfed("epsilon", *arguments).stdout
    epsilon, lower, upper = re.findall(r"epsilon at most (\S+) at .* from (\S+) to (\S+)\)", printed)[0]
    assert Decimal(lower) <= Decimal(result["epsilon_lower"]) <= Decimal(result["epsilon_upper"]) <= Decimal(upper)
    assert Decimal(result["epsilon_upper"]) <= Decimal(epsilon)
    assert float(epsilon) == pytest.approx(result["epsilon_upper"], rel=1e-8)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("epsilon", [0.3, 1, 2, 2.5, 7])
def test_printed_noise_is_enough_for_the_budget(secfed: Runner, epsilon: float) -> None:
    printed = secfed("noise", "--epsilon", epsilon, "--delta", DELTA, "--rounds", 3).stdout.split()[2]
    assert Decimal(printed) >= Decimal(dp.noise_multiplier(epsilon=epsilon, delta=DELTA, rounds=3))
    assert found(secfed("epsilon", "--noise-multiplier", printed, "--rounds", 3, "--delta", DELTA, "--json"))[
        "epsilon"
    ] <= float(epsilon)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("noise", [17.0, 23.0, 31.0, 47.0])
def test_printed_spending_of_a_ledger_is_not_below_what_was_spent(
    secfed: Runner, budget: dp.Ledger, noise: float
) -> None:
    budget.record(dp.Gaussian(noise))
    printed = secfed("budget", "show", budget.path).stdout.split()[2]
    assert Decimal(printed) >= Decimal(budget.spent())
    assert float(printed) == pytest.approx(budget.spent(), rel=1e-5)


def test_limits_are_printed_as_they_are(secfed: Runner, file: Path) -> None:
    run = secfed("budget", "limit", file, "--epsilon", "0.123456789", "--delta", "1.23456789e-5")
    assert "at most epsilon 0.123456789 at delta 1.23456789e-05" in run.stdout


@given(st.just(0.0) | st.floats(1e-300, 1e300), st.integers(1, 15))
def test_rounded_numbers_are_on_their_side_and_near(number: float, digits: int) -> None:
    below, above = Decimal(down(number, digits)), Decimal(up(number, digits))
    assert below <= Decimal(number) <= above
    assert Fraction(above) - Fraction(below) <= Fraction(10) ** (1 - digits) * Fraction(above)
    assert Fraction(number) <= Fraction(up_to_hundredths(number)) < Fraction(number) + Fraction(1, 100)
    assert float(exact(number)) == number


def test_rounding_keeps_short_numbers_as_they_are() -> None:
    assert (up(2.5, 4), down(2.5, 4), up(0.0, 6), exact(3.0), exact(1e-5)) == ("2.5", "2.5", "0", "3", "1e-05")
    assert (up(2.00001, 3), down(1.99999, 3), up_to_hundredths(2.001)) == ("2.01", "1.99", "2.01")
    assert (up(math.inf, 6), down(math.inf, 6)) == ("inf", "inf")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("rounds", [1, 100, pytest.param(5000, marks=pytest.mark.slow)])
def test_plot_draws_a_picture(secfed: Runner, tmp_path: Path, rounds: int) -> None:
    picture = tmp_path / "epsilon.png"
    run = secfed("epsilon", "--noise-multiplier", 20, "--rounds", rounds, "--delta", DELTA, "--plot", picture, "--json")
    assert found(run)["files"] == [str(picture)]
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) > 10_000


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("ending", "first"), [("pdf", b"%PDF"), ("PNG", b"\x89PNG")])
def test_a_picture_is_drawn_in_other_formats(secfed: Runner, tmp_path: Path, ending: str, first: bytes) -> None:
    picture = tmp_path / f"epsilon.{ending}"
    run = secfed("epsilon", "--noise-multiplier", 20, "--rounds", 3, "--delta", DELTA, "--plot", picture)
    assert run.exit_code == 0 and f"picture: {picture}" in run.stdout
    assert picture.read_bytes().startswith(first)


def test_a_picture_shows_epsilon_and_the_best_tests(secfed: Runner, tmp_path: Path) -> None:
    picture = tmp_path / "epsilon.svg"
    run = secfed("epsilon", "--noise-multiplier", 20, "--rounds", 3, "--delta", DELTA, "--plot", picture)
    assert run.exit_code == 0 and f"picture: {picture}" in run.stdout
    drawn = picture.read_text()
    assert drawn.startswith("<?xml")
    for words in ("Rounds", "Epsilon at delta 1e-05", "False positive rate", "True positive rate", "A blind guess"):
        assert f"<!-- {words} -->" in drawn


def test_a_picture_that_cannot_be_written_is_an_error(secfed: Runner, tmp_path: Path) -> None:
    run = secfed(
        "epsilon", "--noise-multiplier", 20, "--delta", DELTA, "--plot", tmp_path / "nowhere" / "epsilon.png", "--json"
    )
    assert run.exit_code == 1 and run.stdout == ""
    assert "secfed: cannot write" in run.stderr and "Traceback" not in run.stderr


RELEASE = {"--noise-multiplier": "1.1", "--delta": "1e-5"}


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"--delta": "0"}, "0.0 must be above 0 and below 1"),
        ({"--delta": "1"}, "1.0 must be above 0 and below 1"),
        ({"--delta": "nan"}, "nan must be above 0 and below 1"),
        ({"--noise-multiplier": "-1"}, "-1.0 must be positive and finite"),
        ({"--noise-multiplier": "0"}, "0.0 must be positive and finite"),
        ({"--noise-multiplier": "nan"}, "nan must be positive and finite"),
        ({"--noise-multiplier": "inf"}, "inf must be positive and finite"),
        ({"--noise-multiplier": "much"}, "--noise-multiplier"),
        ({"--sampling-rate": "1.01"}, "1.01 must be above 0 and at most 1"),
        ({"--sampling-rate": "0"}, "0.0 must be above 0 and at most 1"),
        ({"--sampling-rate": "nan"}, "nan must be above 0 and at most 1"),
        ({"--rounds": "0"}, "--rounds"),
        ({"--rounds": "1" + 30 * "0"}, "--rounds"),
        ({"--adjacency": "nearby"}, "'add_remove'"),
        ({"--sampling": "shuffled"}, "'poisson'"),
        ({"--cohort": "5"}, "--cohort has no effect with --sampling poisson"),
        ({"--population": "5"}, "--population has no effect with --sampling poisson"),
        ({"--sampling": "fixed"}, "needs --population"),
        ({"--sampling": "fixed", "--population": "9"}, "needs either --cohort or --sampling-rate"),
        (
            {"--sampling": "fixed", "--population": "9", "--cohort": "3", "--sampling-rate": "0.5"},
            "needs either --cohort or --sampling-rate",
        ),
        ({"--sampling": "fixed", "--population": "9", "--cohort": "10"}, "cohort 10 is larger than the population 9"),
        (
            {"--sampling": "fixed", "--population": "9", "--sampling-rate": "0.5"},
            "sampling rate 0.5 of 9 clients is 4.5 clients, needed a whole number: use --cohort instead",
        ),
        ({"--sampling": "fixed", "--population": "9", "--sampling-rate": "1e-12"}, "needed a whole number"),
        ({"--sampling": "fixed", "--population": "0", "--cohort": "1"}, "--population"),
        ({"--plot": "epsilon.txt"}, "must end in one of .pdf, .png, .svg"),
    ],
)
def test_wrong_use_ends_with_exit_code_2_and_says_why(secfed: Runner, options: dict[str, str], text: str) -> None:
    run = secfed("epsilon", "--json", *(part for option in (RELEASE | options).items() for part in option))
    assert run.exit_code == 2
    assert run.stdout == ""
    assert text in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize("epsilon", ["0", "-3", "nan", "inf"])
def test_a_budget_is_positive_and_finite(secfed: Runner, file: Path, epsilon: str) -> None:
    for command in (("noise",), ("budget", "limit", file)):
        run = secfed(*command, "--epsilon", epsilon, "--delta", DELTA)
        assert run.exit_code == 2 and "must be positive and finite" in run.stderr
    assert not file.exists()


def test_what_is_missing_is_named(secfed: Runner) -> None:
    assert "--noise-multiplier" in secfed("epsilon", "--delta", DELTA).stderr
    assert "--epsilon" in secfed("noise", "--delta", DELTA).stderr
    for command, its in (((), ("simulate", "budget")), (("budget",), ("limit", "spend"))):
        bare = secfed(*command)
        assert bare.exit_code == 2 and bare.stderr == ""
        assert "Usage: secfed" in bare.stdout and all(name in bare.stdout for name in its)
        assert secfed(*command, "--help").exit_code == 0


# budget


def test_a_budget_from_its_limit_to_its_end(secfed: Runner, file: Path) -> None:
    of = (file, "--json")
    made = found(secfed("budget", "limit", *of, "--epsilon", 3, "--delta", DELTA, "--adjacency", "replace"))
    assert (made["limit"], made["spent"], made["delta"], made["adjacency"]) == (3.0, 0.0, DELTA, "replace")
    assert made["remaining_rounds"] is None

    release = ("--noise-multiplier", 20)
    fits = found(secfed("budget", "remaining", *of, *release))["remaining_rounds"]
    event = dp.Gaussian(20.0)
    accountant = dp.Accountant(adjacency="replace")
    assert fits == accountant.remaining_rounds(event, epsilon=3.0, delta=DELTA) > 10

    spent = found(secfed("budget", "spend", *of, *release, "--rounds", 7, "--label", "rounds 1-7"))
    assert spent["remaining_rounds"] == fits - 7
    assert spent["spent"] == pytest.approx(accountant.compose(event, 7).epsilon(DELTA), rel=1e-9)
    assert (spent["entry"]["state"], spent["entry"]["count"], spent["entry"]["label"]) == ("committed", 7, "rounds 1-7")
    assert "client" in spent["assumptions"]

    found(secfed("budget", "spend", *of, *release, "--rounds", fits - 7))
    before = found(secfed("budget", "show", *of))
    refused = secfed("budget", "spend", *of, *release)
    assert refused.exit_code == 1 and refused.stdout == ""
    assert "secfed: with this release epsilon 3.0" in refused.stderr and "the budget is 3" in refused.stderr
    assert "Traceback" not in refused.stderr
    after = found(secfed("budget", "show", *of))
    assert after == before
    assert after["remaining_rounds"] == 0 and after["spent"] <= after["limit"] == 3.0
    assert [entry["count"] for entry in after["entries"]] == [7, fits - 7]
    assert after["head"] == after["log"][-1]["hash"]


def test_show_lists_the_releases_on_stderr_and_the_sum_on_stdout(secfed: Runner, budget: dp.Ledger) -> None:
    empty = secfed("budget", "show", budget.path)
    assert empty.stdout.startswith("spent epsilon 0 of 3 at delta 1e-05\n") and empty.stderr == ""
    assert empty.stdout.endswith(f"\nhead {budget.head()}\n")
    budget.commit(budget.reserve(dp.PoissonSampled(0.1, dp.Gaussian(4.0)), 5, "rounds [1]-5"))
    budget.reserve(dp.Gaussian(30.0), label="crashed")
    run = secfed("budget", "show", budget.path)
    assert run.exit_code == 0
    for text in ("Gaussian 4, Poisson 0.1", "rounds [1]-5", "committed", "crashed", "reserved"):
        assert text in run.stderr
    assert run.stdout.startswith(f"spent epsilon {up(budget.spent(), 6)} of 3 at delta 1e-05\n")
    assert "1 reserved and not committed; they count as spent\n" in run.stdout
    assert run.stdout.endswith(f"\nhead {budget.head()}\n")
    assert dp.Ledger.open(budget.path, expected_head=budget.head()).entries() == budget.entries()
    assert f"{budget.remaining_rounds(dp.Gaussian(30.0))} more releases like the last fit\n" in run.stdout


def test_a_ledger_that_guarantees_nothing_any_more_says_so(secfed: Runner, budget: dp.Ledger) -> None:
    budget.record(dp.NonPrivate(), label="the log file")
    run = secfed("budget", "show", budget.path)
    assert "spent everything (no epsilon is guaranteed) of 3" in run.stdout
    result = found(secfed("budget", "show", budget.path, "--json"))
    assert result["spent"] is None and result["remaining_rounds"] == 0


def test_the_other_commands_speak_too(secfed: Runner, file: Path) -> None:
    made = secfed("budget", "limit", file, "--epsilon", 3, "--delta", DELTA)
    assert made.stdout == f"{file}: at most epsilon 3 at delta 1e-05, adjacency add_remove\n"
    release = ("--noise-multiplier", 10)
    spent = secfed("budget", "spend", file, *release)
    fits = dp.Ledger.open(file).remaining_rounds(dp.Gaussian(10.0))
    assert spent.stdout.startswith("spent epsilon ") and f"\n{fits} more such rounds fit\n" in spent.stdout
    left = secfed("budget", "remaining", file, *release)
    assert left.stdout.startswith(f"{fits} more such rounds fit\nspent epsilon ")


def test_a_reservation_counts_as_spent_until_it_is_cancelled(secfed: Runner, budget: dp.Ledger) -> None:
    release = (budget.path, "--noise-multiplier", 4, "--sampling-rate", 0.1)
    kept = secfed("budget", "reserve", *release, "--rounds", 3, "--label", "kept")
    assert kept.exit_code == 0 and kept.stdout.startswith("reserved as entry 1\nspent epsilon ")
    lost = found(secfed("budget", "reserve", *release, "--json"))
    assert (lost["entry"]["state"], lost["entry"]["number"], lost["entry"]["count"]) == ("reserved", 2, 1)
    assert lost["spent"] == budget.spent()

    committed = found(secfed("budget", "commit", budget.path, 1, "--json"))
    assert (committed["entry"]["state"], committed["entry"]["label"]) == ("committed", "kept")
    assert committed["spent"] == pytest.approx(lost["spent"], rel=1e-9)
    cancelled = found(secfed("budget", "cancel", budget.path, lost["entry"]["number"], "--json"))
    assert cancelled["entry"]["state"] == "cancelled"
    event = dp.PoissonSampled(0.1, dp.Gaussian(4.0))
    assert cancelled["spent"] == pytest.approx(dp.Accountant().compose(event, 3).epsilon(DELTA), rel=1e-9)
    assert cancelled["remaining_rounds"] == lost["remaining_rounds"] + 1
    assert [entry.state for entry in budget.entries()] == ["committed", "cancelled"]


@pytest.mark.parametrize("command", ["commit", "cancel"])
def test_an_entry_that_is_not_reserved_is_neither_committed_nor_cancelled(
    secfed: Runner, budget: dp.Ledger, command: str
) -> None:
    budget.commit(budget.reserve(dp.Gaussian(9.0), label="done"))
    entry = budget.reserve(dp.Gaussian(9.0))
    before = budget.head()
    again = secfed("budget", command, budget.path, 1, "--json")
    assert again.exit_code == 1 and again.stdout == ""
    assert "secfed: entry 1 ('done') is already committed" in again.stderr
    other = secfed("budget", command, budget.path, 2)
    assert other.exit_code == 1 and f"has no entry 2; reserved are: {entry.number}\n" in other.stderr
    assert secfed("budget", command, budget.path, 0).exit_code == 2
    assert budget.head() == before


def test_a_reservation_that_would_overspend_is_refused(secfed: Runner, budget: dp.Ledger) -> None:
    run = secfed("budget", "reserve", budget.path, "--noise-multiplier", 0.5)
    assert run.exit_code == 1 and "the budget is 3" in run.stderr and budget.entries() == ()


def test_the_option_of_earlier_versions_is_gone(secfed: Runner, budget: dp.Ledger) -> None:
    run = secfed("budget", "show", "--ledger", budget.path)
    # Releases of click differ in what they name first: the option that is unknown, or the argument that is missing.
    assert run.exit_code == 2 and run.stdout == "" and "ledger" in run.stderr.lower()


def test_an_existing_ledger_gets_no_other_limit(secfed: Runner, budget: dp.Ledger) -> None:
    run = secfed("budget", "limit", budget.path, "--epsilon", 100, "--delta", DELTA, "--json")
    assert run.exit_code == 1 and run.stdout == ""
    assert "already exists and is never overwritten" in run.stderr
    assert dp.Ledger.open(budget.path).epsilon == 3.0


@pytest.mark.parametrize("command", ["spend", "show", "remaining", "reserve", "commit", "cancel"])
def test_a_ledger_that_is_not_there_or_is_none_is_an_error(secfed: Runner, file: Path, command: str) -> None:
    release = {"show": (), "commit": (1,), "cancel": (1,)}.get(command, ("--noise-multiplier", 1))
    run = secfed("budget", command, file, *release, "--json")
    assert run.exit_code == 1 and run.stdout == "" and not file.exists()
    assert f"secfed: there is no ledger {file}" in run.stderr and "secfed budget limit" in run.stderr
    file.write_text("something else, of some length. " * 40)
    run = secfed("budget", command, file, *release, "--json")
    assert run.exit_code == 1 and "is not a ledger" in run.stderr
    assert file.read_text().startswith("something else")


def test_a_wrong_release_is_wrong_use_and_not_recorded(secfed: Runner, budget: dp.Ledger) -> None:
    for options in (("--noise-multiplier", "nan"), ("--noise-multiplier", 1, "--rounds", 0), (*FIXED, "--cohort", 9)):
        assert secfed("budget", "spend", budget.path, *options).exit_code == 2
    assert secfed("budget", "spend", budget.path, "--noise-multiplier", 9, "--label", "a\nb").exit_code == 2
    assert budget.entries() == ()


# Pieces


@pytest.mark.parametrize(
    ("rate", "population", "cohort"), [(0.3, 10, 3), (1 / 3, 3, 1), (0.07, 10**6, 70_000), (1, 5, 5)]
)
def test_a_part_of_the_clients_is_a_cohort_where_it_is_whole(rate: float, population: int, cohort: int) -> None:
    chosen = CohortSampling.chosen("fixed", rate, None, population)
    assert (chosen.cohort, chosen.rate) == (cohort, cohort / population)


def test_every_kind_of_event_has_words() -> None:
    noisy = dp.Gaussian(1.5)
    parts = {"noise_variance": 4.0, "clients": 7, "sensitivity": 3.0, "sensitivity_l1": 9.0, "dimension": 8}
    events: dict[dp.Event, str] = {
        noisy: "Gaussian 1.5",
        dp.Laplace(2.0): "Laplace 2",
        dp.PoissonSampled(0.1, noisy): "Gaussian 1.5, Poisson 0.1",
        dp.FixedSizeSampled(3, 10, noisy): "Gaussian 1.5, 3 of 10",
        dp.DiscreteGaussianSum(**parts): "DiscreteGaussianSum of 7, variance 4",  # type: ignore[arg-type]
        dp.SkellamSum(**parts): "SkellamSum of 7, variance 4",  # type: ignore[arg-type]
        dp.Composed(((noisy, 2), (dp.Laplace(2.0), 1))): "2 x Gaussian 1.5; 1 x Laplace 2",
        dp.NonPrivate(): "NonPrivate",
        dp.ApproximateDP(0.5, 1e-6): "ApproximateDP (0.5, 1e-06)",
        dp.RandomizedResponse(0.5, 3): "RandomizedResponse 0.5 of 3",
        dp.ExponentialMechanism(0.5): "ExponentialMechanism 0.5",
        dp.PoissonSampled(0.1, dp.DiscreteLaplace(2.0, 3)): "DiscreteLaplace 2, Poisson 0.1",
        dp.ZeroConcentrated(0.5): "ZeroConcentrated 0.5",
    }
    assert {describe(event) for event in events} == set(events.values())
