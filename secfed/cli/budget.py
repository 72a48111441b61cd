"""The commands about budgets: `epsilon`, `noise`, and `budget` with its own. `app` adds them to the command line."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secfed.cli.extras import require
from secfed.cli.json_output import SchemaName, print_json
from secfed.cli.options import OUTPUT, PRIVACY, SAMPLING, AsJson, fraction, positive
from secfed.dp.rounding import down, exact, up
from secfed.errors import ConfigError, SecFedError

if TYPE_CHECKING:
    from secfed import dp
    from secfed.cli.accounting import CohortSampling
    from secfed.dp.ledger.records import Entry

# Above this, adding one round no longer changes a float64 sum.
_MOST = 10**12
_PICTURE_FORMATS = (".pdf", ".png", ".svg")


class SamplingChoice(StrEnum):
    """How cohorts are drawn."""

    POISSON = "poisson"
    FIXED = "fixed"


class AdjacencyChoice(StrEnum):
    """What one client's data are compared with."""

    ADD_REMOVE = "add_remove"
    REPLACE = "replace"


def _rate(number: float | None) -> float | None:
    if number is not None and not 0 < number <= 1:
        raise typer.BadParameter(f"{number} must be above 0 and at most 1")
    return number


def _picture_file(file: Path | None) -> Path | None:
    if file is not None and file.suffix.lower() not in _PICTURE_FORMATS:
        raise typer.BadParameter(f"{str(file)!r} must end in one of {', '.join(_PICTURE_FORMATS)}")
    return file


Noise = Annotated[
    float,
    typer.Option(
        callback=positive,
        help="Standard deviation of the noise in the sum, divided by the clip norm.",
        rich_help_panel=PRIVACY,
    ),
]
Epsilon = Annotated[
    float, typer.Option(callback=positive, help="The largest epsilon that may be spent.", rich_help_panel=PRIVACY)
]
Delta = Annotated[
    float,
    typer.Option(
        callback=fraction,
        help="The probability with which the epsilon bound may fail; choose it far below 1 / clients.",
        rich_help_panel=PRIVACY,
    ),
]
Rounds = Annotated[int, typer.Option(min=1, max=_MOST, help="How many rounds.", rich_help_panel=SAMPLING)]
Rate = Annotated[
    float | None,
    typer.Option(
        callback=_rate,
        help="Probability that a client joins a round, or the cohort's fraction of all clients. Without it, all "
        "clients take part.",
        rich_help_panel=SAMPLING,
    ),
]
SamplingOption = Annotated[
    SamplingChoice,
    typer.Option(
        help="Each client joins independently at random, or cohorts have a fixed size.", rich_help_panel=SAMPLING
    ),
]
Cohort = Annotated[
    int | None,
    typer.Option(min=1, max=_MOST, help="With --sampling fixed: clients in a round.", rich_help_panel=SAMPLING),
]
Population = Annotated[
    int | None, typer.Option(min=1, max=_MOST, help="With --sampling fixed: all clients.", rich_help_panel=SAMPLING)
]
Relation = Annotated[
    AdjacencyChoice,
    typer.Option(
        help="Neighboring data sets: one client's data added or removed, or replaced (which moves a sum twice as far).",
        rich_help_panel=PRIVACY,
    ),
]
File = Annotated[Path, typer.Argument(dir_okay=False, help="The ledger's file.")]
EntryNumber = Annotated[
    int, typer.Argument(min=1, metavar="ENTRY", help="The number that reserve printed; show lists them.")
]
Label = Annotated[str, typer.Option(help="A label that show lists.", rich_help_panel=PRIVACY)]


def epsilon(
    noise_multiplier: Noise,
    delta: Delta,
    sampling_rate: Rate = None,
    rounds: Rounds = 1,
    sampling: SamplingOption = SamplingChoice.POISSON,
    population: Population = None,
    cohort: Cohort = None,
    adjacency: Relation = AdjacencyChoice.ADD_REMOVE,
    plot: Annotated[
        Path | None,
        typer.Option(
            callback=_picture_file,
            dir_okay=False,
            help="Save a plot of epsilon by round and of the best membership tests to this .pdf, .png or .svg file.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute the epsilon that rounds of Gaussian noise spend, with certified bounds: the lower one rounded down,
    the upper one up.

    Also mu of Gaussian privacy, and the true positive rates that membership tests cannot pass.

    Examples:

    secfed epsilon --noise-multiplier 1.1 --delta 1e-5 --sampling-rate 0.01 --rounds 100

    secfed epsilon --noise-multiplier 2 --delta 1e-5 --sampling fixed --cohort 30 --population 1000
    """
    drawn = _sampling(sampling, sampling_rate, cohort, population)
    if plot is not None:
        require("matplotlib")
    from secfed.cli import accounting

    report = accounting.epsilon_of(noise_multiplier, drawn, rounds, delta, adjacency.value)
    report |= accounting.membership_of(noise_multiplier, drawn, rounds, adjacency.value)
    if plot is not None:
        from secfed.cli import accounting_picture

        accounting_picture.picture(report, drawn, plot)
    report["files"] = [] if plot is None else [str(plot)]
    if report["epsilon"] is None:
        lines = [f"no epsilon holds at delta {exact(delta)}"]
    else:
        lower, upper = report["epsilon_lower"], report["epsilon_upper"]
        proved = f"(proved to lie from {down(lower, 12)} to {up(upper, 12)})"
        lines = [f"epsilon at most {up(upper, 9)} at delta {exact(delta)} {proved}"]
    lines += [*accounting.membership_in_words(report), accounting.assumptions_in_words(report)]
    _print(SchemaName.EPSILON, report, [*lines, *(f"picture: {file}" for file in report["files"])], as_json)


def noise(
    epsilon: Epsilon,
    delta: Delta,
    sampling_rate: Rate = None,
    rounds: Rounds = 1,
    sampling: SamplingOption = SamplingChoice.POISSON,
    population: Population = None,
    cohort: Cohort = None,
    adjacency: Relation = AdjacencyChoice.ADD_REMOVE,
    as_json: AsJson = False,
) -> None:
    """Compute the least Gaussian noise with which rounds stay within a budget, rounded up.

    Example:

    secfed noise --epsilon 3 --delta 1e-5 --sampling-rate 0.01 --rounds 100
    """
    drawn = _sampling(sampling, sampling_rate, cohort, population)
    from secfed.cli import accounting

    report = accounting.noise_for(epsilon, drawn, rounds, delta, adjacency.value)
    needed = up(report["noise_multiplier"], 9)
    line = f"noise multiplier {needed} for epsilon {exact(epsilon)} at delta {exact(delta)}"
    _print(SchemaName.NOISE, report, [line, accounting.assumptions_in_words(report)], as_json)


budget = typer.Typer(
    rich_markup_mode="rich",  # older versions of typer have another default
    no_args_is_help=True,
    help="Keep a privacy budget in a file, and never spend more.\n\nExample:\n\n"
    "secfed budget limit budget.db --epsilon 3 --delta 1e-5",
)


@budget.command()
def limit(
    ledger: File,
    epsilon: Epsilon,
    delta: Delta,
    adjacency: Relation = AdjacencyChoice.ADD_REMOVE,
    as_json: AsJson = False,
) -> None:
    """Create a ledger with a limit. An existing file is never overwritten.

    Example:

    secfed budget limit budget.db --epsilon 3 --delta 1e-5
    """
    from secfed import dp
    from secfed.cli import accounting

    try:
        made = dp.Ledger.create(ledger, epsilon=epsilon, delta=delta, adjacency=adjacency.value)
    except ConfigError as error:  # the options were checked, so the file is at fault
        raise SecFedError(str(error)) from None
    report = accounting.standing(made)
    line = f"{ledger}: at most epsilon {exact(epsilon)} at delta {exact(delta)}, adjacency {adjacency.value}"
    _print(SchemaName.BUDGET_LIMIT, report, [line], as_json)


@budget.command()
def spend(
    ledger: File,
    noise_multiplier: Noise,
    sampling_rate: Rate = None,
    rounds: Rounds = 1,
    sampling: SamplingOption = SamplingChoice.POISSON,
    population: Population = None,
    cohort: Cohort = None,
    label: Label = "",
    as_json: AsJson = False,
) -> None:
    """Record rounds of Gaussian noise before the noise is drawn, or refuse them if they would overspend.

    What is spent cannot be given back: reserve is for rounds that may still fail.

    Example:

    secfed budget spend budget.db --noise-multiplier 2 --sampling-rate 0.1 --rounds 5 --label "first week"
    """
    drawn = _sampling(sampling, sampling_rate, cohort, population)
    release, opened = drawn.release(noise_multiplier), _opened(ledger)
    entry = opened.commit(opened.reserve(release, rounds, label))
    report, lines = _of_entry(opened, entry)
    _print(SchemaName.BUDGET_SPEND, report, [*lines, report["assumptions"]], as_json)


@budget.command()
def reserve(
    ledger: File,
    noise_multiplier: Noise,
    sampling_rate: Rate = None,
    rounds: Rounds = 1,
    sampling: SamplingOption = SamplingChoice.POISSON,
    population: Population = None,
    cohort: Cohort = None,
    label: Label = "",
    as_json: AsJson = False,
) -> None:
    """Reserve rounds of Gaussian noise before the noise is drawn, or refuse them if they would overspend.

    The number of the entry is for commit, once they are released, or for cancel, if nothing was. Until then they count
    as spent.

    Example:

    secfed budget reserve budget.db --noise-multiplier 2 --sampling-rate 0.1 --label "round 6"
    """
    drawn = _sampling(sampling, sampling_rate, cohort, population)
    opened = _opened(ledger)
    entry = opened.reserve(drawn.release(noise_multiplier), rounds, label)
    report, lines = _of_entry(opened, entry)
    _print(SchemaName.BUDGET_RESERVE, report, [f"reserved as entry {entry.number}", *lines], as_json)


@budget.command()
def commit(ledger: File, number: EntryNumber, as_json: AsJson = False) -> None:
    """Record that a reserved entry was released; what it spends does not change.

    Example:

    secfed budget commit budget.db 3
    """
    opened = _opened(ledger)
    report, lines = _of_entry(opened, opened.commit(_entry(opened, number)))
    _print(SchemaName.BUDGET_COMMIT, report, [f"entry {number} is committed", *lines], as_json)


@budget.command()
def cancel(ledger: File, number: EntryNumber, as_json: AsJson = False) -> None:
    """Cancel a reserved entry, because nothing of it was released: it no longer counts as spent.

    Do so only if nothing that depends on the clients' data has left: no sum, no model, no score of a model. When in
    doubt, commit the entry.

    Example:

    secfed budget cancel budget.db 3
    """
    opened = _opened(ledger)
    report, lines = _of_entry(opened, opened.cancel(_entry(opened, number)))
    _print(SchemaName.BUDGET_CANCEL, report, [f"entry {number} is cancelled", *lines], as_json)


@budget.command()
def show(ledger: File, as_json: AsJson = False) -> None:
    """List every release, the total spent, and the head to keep elsewhere; with --json, the whole ledger.

    Examples:

    secfed budget show budget.db

    secfed budget show budget.db --json
    """
    from rich.console import Console

    from secfed.cli import accounting

    opened = _opened(ledger)
    entries = opened.entries()
    report = opened.to_json() | accounting.standing(opened, entries[-1].event if entries else None)
    if entries:
        Console(stderr=True).print(accounting.entry_table(opened))
    lines = [accounting.in_words(report), report["assumptions"]]
    if left := sum(entry.state == "reserved" for entry in entries):
        lines.insert(1, f"{left} reserved and not committed; they count as spent")
    if entries:
        lines.insert(1, f"{report['remaining_rounds']} more releases like the last fit")
    lines.append(f"head {report['head']}")
    _print(SchemaName.BUDGET_SHOW, report, lines, as_json)


@budget.command()
def remaining(
    ledger: File,
    noise_multiplier: Noise,
    sampling_rate: Rate = None,
    sampling: SamplingOption = SamplingChoice.POISSON,
    population: Population = None,
    cohort: Cohort = None,
    as_json: AsJson = False,
) -> None:
    """Compute how many more rounds of Gaussian noise fit.

    Example:

    secfed budget remaining budget.db --noise-multiplier 2 --sampling-rate 0.1
    """
    drawn = _sampling(sampling, sampling_rate, cohort, population)
    from secfed import dp
    from secfed.cli import accounting

    release = drawn.release(noise_multiplier)
    report = accounting.standing(_opened(ledger), release) | {"release": dp.events.to_json(release)}
    lines = [f"{report['remaining_rounds']} more such rounds fit", accounting.in_words(report), report["assumptions"]]
    _print(SchemaName.BUDGET_REMAINING, report, lines, as_json)


def _opened(file: Path) -> "dp.Ledger":
    """Open a ledger. A file that is not a ledger is not a usage error."""
    from secfed import dp

    try:
        return dp.Ledger.open(file)
    except ConfigError as error:
        raise SecFedError(str(error)) from None


def _entry(ledger: "dp.Ledger", number: int) -> "Entry":
    """Return an entry of a ledger by its number."""
    entries = {entry.number: entry for entry in ledger.entries()}
    if number not in entries:
        reserved = ", ".join(str(entry.number) for entry in entries.values() if entry.state == "reserved")
        raise SecFedError(f"{ledger.path} has no entry {number}; reserved are: {reserved or 'no entries'}")
    return entries[number]


def _of_entry(ledger: "dp.Ledger", entry: "Entry") -> tuple[dict[str, Any], list[str]]:
    """Return what a ledger has spent after an entry changed, as an object and in words."""
    from secfed.cli import accounting

    report = accounting.standing(ledger, entry.event) | {"entry": entry.to_json()}
    return report, [accounting.in_words(report), f"{report['remaining_rounds']} more such rounds fit"]


def _sampling(kind: SamplingChoice, rate: float | None, cohort: int | None, population: int | None) -> "CohortSampling":
    from secfed.cli.accounting import CohortSampling

    try:
        return CohortSampling.chosen(kind.value, rate, cohort, population)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def _print(command: SchemaName, report: dict[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(command, report)
    else:
        typer.echo("\n".join(lines))
