"""The command `preflight`: can a plan work, and what will it cost? `app` adds it to the command line."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secfed.cli.budget import AdjacencyChoice
from secfed.cli.extras import require
from secfed.cli.json_output import SchemaName, print_json
from secfed.cli.options import (
    DATA,
    OUTPUT,
    PRIVACY,
    PROTOCOL,
    AdversaryChoice,
    AsJson,
    PrivacyChoice,
    Protection,
    Threshold,
    with_default,
)

if TYPE_CHECKING:
    from rich.table import Table

    from secfed.preflight import Costs, Preflight


class MechanismChoice(StrEnum):
    """Laws of the clients' noise."""

    DISCRETE_GAUSSIAN = "discrete_gaussian"
    SKELLAM = "skellam"


# Options whose name differs from that in a plan.
_PLAN_NAMES = {"values": "update", "dropout": "dropout_fraction", "corrupt": "corrupt_fraction"}
_UNITS = ("B", "kB", "MB", "GB", "TB")


def preflight(
    context: typer.Context,
    values: Annotated[
        int, typer.Option(help="Number of values in an update: the parameters of the model.", rich_help_panel=DATA)
    ],
    clients: Annotated[
        int | None,
        typer.Option(help="Clients in a round; with --population, drawn from that many.", rich_help_panel=DATA),
    ] = None,
    population: Annotated[
        int | None, typer.Option(help="Clients that cohorts are drawn from.", rich_help_panel=DATA)
    ] = None,
    sampling_rate: Annotated[
        float | None,
        typer.Option(
            help="With --population, instead of --clients: probability that each client joins a round.",
            rich_help_panel=DATA,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How many rounds.", rich_help_panel=DATA)] = 1,
    dropout: Annotated[
        float, typer.Option(help="Probability that a client drops out of a round.", rich_help_panel=PROTOCOL)
    ] = 0.0,
    corrupt: Annotated[
        float | None,
        typer.Option(
            help="With secagg: fraction of the clients that may collude with the server.", rich_help_panel=PROTOCOL
        ),
    ] = None,
    most_failures: Annotated[
        float,
        typer.Option(
            help="Largest acceptable probability that any round has too few survivors.", rich_help_panel=PROTOCOL
        ),
    ] = 1e-3,
    aggregator: Annotated[
        Protection, typer.Option(help="How the server gets the mean.", rich_help_panel=PROTOCOL)
    ] = Protection.SECAGG,
    threshold: Threshold = None,
    neighbors: Annotated[
        int | None,
        typer.Option(
            help=with_default("How many neighbors each client shares masks with (even).", "all"),
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    adversary: Annotated[
        AdversaryChoice | None,
        typer.Option(
            help=with_default("The server that secagg protects against.", "semi_honest"), rich_help_panel=PROTOCOL
        ),
    ] = None,
    colluders: Annotated[
        int | None,
        typer.Option(help=with_default("How many holders of one client may collude.", "0"), rich_help_panel=PROTOCOL),
    ] = None,
    session_colluders: Annotated[
        int | None,
        typer.Option(
            help="How many clients of the session may collude with a malicious server.", rich_help_panel=PROTOCOL
        ),
    ] = None,
    key_bits: Annotated[
        int | None,
        typer.Option(
            help=with_default("With paillier: bits of the key, a multiple of 16.", "3072"), rich_help_panel=PROTOCOL
        ),
    ] = None,
    degree: Annotated[
        int | None, typer.Option(help=with_default("With paillier: 1 to 7.", "1"), rich_help_panel=PROTOCOL)
    ] = None,
    minimum_cohort: Annotated[
        int | None,
        typer.Option(help=with_default("With paillier: fewest clients in a sum.", "2"), rich_help_panel=PROTOCOL),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            help=with_default("Without privacy: values are clipped to [-clip, clip].", "4"), rich_help_panel=PROTOCOL
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            help="Bits of a rounded value; with noise from clients, bits of an entry.", rich_help_panel=PROTOCOL
        ),
    ] = None,
    max_weight: Annotated[
        int | None,
        typer.Option(
            help=with_default("Without privacy: the largest weight of a client.", "1"), rich_help_panel=PROTOCOL
        ),
    ] = None,
    privacy: Annotated[
        PrivacyChoice, typer.Option(help="Who adds noise to the sum.", rich_help_panel=PRIVACY)
    ] = PrivacyChoice.NONE,
    clip_norm: Annotated[
        float | None,
        typer.Option(
            help=with_default("With privacy: the largest Euclidean norm of an update.", "1"), rich_help_panel=PRIVACY
        ),
    ] = None,
    noise_multiplier: Annotated[
        float | None,
        typer.Option(
            help="With privacy: standard deviation of the noise, divided by the clip norm.", rich_help_panel=PRIVACY
        ),
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            help="With privacy: budget of all rounds; sets the noise multiplier if none is given.",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help=with_default("With privacy: delta of the budget.", "1e-5"), rich_help_panel=PRIVACY),
    ] = None,
    adjacency: Annotated[
        AdjacencyChoice | None,
        typer.Option(
            help=with_default("With privacy: a client's data are added or removed, or replaced.", "add_remove"),
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    mechanism: Annotated[
        MechanismChoice | None,
        typer.Option(
            help=with_default("With privacy distributed: the law of the noise.", "discrete_gaussian"),
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    minimum_survivors: Annotated[
        int | None,
        typer.Option(
            help="With privacy distributed: fewest clients whose noise may be in a sum.", rich_help_panel=PRIVACY
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            help=with_default("With privacy distributed: layers of removable noise.", "1"), rich_help_panel=PRIVACY
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Do one client's work here and time it: up to two seconds.", rich_help_panel=OUTPUT)
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check a plan before anyone enrolls: what is wrong with it, what would work, and what a round costs.

    The exit code is 0 if the plan holds, 1 if it is refused. All problems are listed, not only the first.

    Examples:

    secfed preflight --values 1000000 --clients 100 --dropout 0.1 --rounds 50

    secfed preflight --values 1000000 --clients 1000 --neighbors 66 --threshold 49 --colluders 31 --corrupt 0.05
    --dropout 0.05 --adversary malicious_server

    secfed preflight --values 50000 --clients 300 --privacy distributed --epsilon 3 --rounds 30 --dropout 0.05

    secfed preflight --values 10000 --clients 20 --aggregator paillier --max-weight 1000
    """
    require("rich")
    from rich.console import Console

    from secfed.preflight import Plan
    from secfed.preflight import preflight as check

    options: dict[str, Any] = {
        _PLAN_NAMES.get(name, name): value.value if isinstance(value, StrEnum) else value
        for name, value in context.params.items()
        if name not in ("measure", "as_json")
    }
    report = check(Plan(**options), measure=measure)
    console = Console(stderr=as_json)

    def say(lines: list[str]) -> None:
        for line in lines:
            console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=not console.is_terminal)

    say(lines_of(report))
    if report.costs:
        console.print(cost_table(report.costs))
        say(cost_lines(report.costs))
    if as_json:
        print_json(SchemaName.PREFLIGHT, report.to_json())
    raise typer.Exit(1 if report.problems else 0)


def lines_of(report: "Preflight") -> list[str]:
    """Return the result in words."""
    from secfed.dp.rounding import exact, up

    lines = [f"refused: {problem.text}" for problem in report.problems]
    if not report.problems:
        lines.append("the plan holds")
    lines += [f"would work: {_as_options(suggestion.changes)}" for suggestion in report.suggestions]
    found = report.found
    if found.noise_multiplier is not None:
        lines.append(f"noise multiplier: {up(found.noise_multiplier, 6)}")
    if found.epsilon is not None and report.plan.spent_delta is not None:
        spent = up(found.epsilon, 6) if math.isfinite(found.epsilon) else "none holds"
        lines.append(f"epsilon of {report.plan.rounds} rounds: {spent} at delta {exact(report.plan.spent_delta)}")
    if found.failure is not None:
        chance = up(found.failure, 2) if found.failure else "0"
        when = "the round" if report.plan.rounds == 1 else f"any of {report.plan.rounds} rounds"
        lines.append(f"too few survivors in {when}: probability {chance} at most")
    return lines


def _as_options(changes: Mapping[str, Any]) -> str:
    """Return changes of a plan as options of this command."""
    named = {option: name for name, option in _PLAN_NAMES.items()}
    words = []
    for option, value in changes.items():
        name = "--" + named.get(option, option).replace("_", "-")
        words.append(f"without {name}" if value is None else f"{name} {value}")
    return ", ".join(words)


def cost_table(costs: "Costs") -> "Table":
    """Return the costs of a round as a table."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("one client, one round")
    for head in ("sends", "receives", "seconds"):
        table.add_column(head, justify="right")
    for name, stage in costs.stages.items():
        table.add_row(name, in_bytes(stage.bytes_up), in_bytes(stage.bytes_down), _seconds(stage.seconds))
    table.add_row("total", in_bytes(costs.bytes_up), in_bytes(costs.bytes_down), _seconds(costs.seconds))
    return table


def cost_lines(costs: "Costs") -> list[str]:
    """Explain the table's figures."""
    lines = [f"bytes are exact, without dropouts; the server sends and gets {in_bytes(costs.server_bytes)} in a round"]
    if costs.measured:
        lines.append(f"seconds are processor time of one thread, {costs.measured}")
    if costs.server_seconds is not None:
        found = f"the server computes for about {_seconds(costs.server_seconds)} s in a round"
        lines.append(f"{found}, estimated from sessions of a few clients")
    if costs.seconds_once:
        lines.append(f"once for a key, a client computes for another {_seconds(costs.seconds_once)} s")
    return lines


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2g}"


def in_bytes(count: float) -> str:
    """Return a number of bytes with three digits and a unit."""
    for unit in _UNITS:
        if count < 999.5 or unit == _UNITS[-1]:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError
