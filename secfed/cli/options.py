"""What commands share: options, their checks (typer's own bounds let "nan" pass), and printing results."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from secfed.cli.json_output import SchemaName, print_json

# The panels in which --help shows the options.
ALGORITHM = "Algorithm"
ATTACK = "Attack"
DATA = "Data and clients"
NETWORK = "Network"
OUTPUT = "Output"
PRIVACY = "Privacy"
PROTOCOL = "Protocol"
SAMPLING = "Rounds and cohorts"


class Protection(StrEnum):
    """Aggregators."""

    PLAIN = "plain"
    SECAGG = "secagg"
    PAILLIER = "paillier"


class PrivacyChoice(StrEnum):
    """Who adds noise."""

    NONE = "none"
    CENTRAL = "central"
    DISTRIBUTED = "distributed"


class AdversaryChoice(StrEnum):
    """The server that secure aggregation protects against."""

    SEMI_HONEST = "semi_honest"
    MALICIOUS_SERVER = "malicious_server"


def with_default(text: str, default: str) -> str:
    """Add the words for a default to an option's help; typer would put its own `show_default` text in parentheses."""
    return f"{text} [dim]\\[default: {default}][/dim]"


KeyBits = Annotated[
    int,
    typer.Option(
        min=2048,
        max=16384,
        help="With --aggregator paillier: bits of the key, a multiple of 16.",
        rich_help_panel=PROTOCOL,
    ),
]


def positive(number: float | None) -> float | None:
    """Return a positive finite number, or None if none was given; any other number is a usage error."""
    if number is not None and not 0 < number < float("inf"):
        raise typer.BadParameter(f"{number} must be positive and finite")
    return number


def not_negative(number: float) -> float:
    """Return a finite number from 0; any other number is a usage error."""
    if not 0 <= number < float("inf"):
        raise typer.BadParameter(f"{number} must be a finite number from 0")
    return number


def fraction(number: float | None) -> float | None:
    """Return a number above 0 and below 1, or None if none was given; any other number is a usage error."""
    if number is not None and not 0 < number < 1:
        raise typer.BadParameter(f"{number} must be above 0 and below 1")
    return number


def readable_maps(text: str) -> str:
    """Return a valid compression, or ""; any other text is a usage error."""
    from secfed.cli.simulation.settings import maps_of
    from secfed.errors import ConfigError

    try:
        return text if not text or maps_of(text) else ""
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None


def probability(number: float) -> float:
    """Return a number from 0 to 1; any other number is a usage error."""
    if not 0 <= number <= 1:
        raise typer.BadParameter(f"{number} must be from 0 to 1")
    return number


def count_or_fraction(text: str) -> float:
    """Read a count ("30") or a fraction ("0.6", "2/3"); any other text is a usage error."""
    above, slash, below = text.partition("/")
    try:
        number = int(above) / int(below) if slash else float(text) if "." in text else int(text)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(
            f"{text!r} is neither a number of clients (30) nor a fraction of them (0.6 or 2/3)"
        ) from None
    if number <= 0 or (isinstance(number, float) and not number <= 1):
        raise typer.BadParameter(f"{text} must be a number of clients from 2, or a fraction above 0 and up to 1")
    return number


Threshold = Annotated[
    Any,
    typer.Option(
        parser=count_or_fraction,
        metavar="COUNT|FRACTION",
        help=with_default(
            "Fewest clients (with --neighbors: of a client's neighbors) that can unmask the sum. A fraction is raised "
            "to the minimum for the adversary.",
            "2/3",
        ),
        rich_help_panel=PROTOCOL,
    ),
]


AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.", rich_help_panel=OUTPUT),
]

Compression = Annotated[
    str,
    typer.Option(
        callback=readable_maps,
        show_default=False,
        help=with_default(
            "How updates are compressed: random-k:0.1, low-rank:8, rotation, or several joined by +.", "none"
        ),
        rich_help_panel=PROTOCOL,
    ),
]
ScaleWeights = Annotated[
    bool,
    typer.Option(
        "--scale-weights", help="Multiply by weights before rounding; use it with few --bits.", rich_help_panel=PROTOCOL
    ),
]
PrivacyOption = Annotated[
    PrivacyChoice,
    typer.Option(
        help="Who adds noise to the sum: no one, the server, or each client a share.", rich_help_panel=PRIVACY
    ),
]


def given_options(context: typer.Context) -> set[str]:
    """Return the names of the options that the user gave."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def refuse_without_effect(
    context: typer.Context, rules: Iterable[tuple[str, str, tuple[str, ...]]], chosen: Mapping[str, str]
) -> None:
    """Refuse options that were given but have no effect, because the user expects one: this is a usage error.

    Args:
        context: Of the command.
        rules: An option, one of its choices, and the options that have no effect with that choice.
        chosen: What was chosen, by option.
    """
    given = given_options(context)
    for option, choice, names in rules:
        for name in names:
            if chosen[option] == choice and name in given:
                raise typer.BadParameter(f"--{name.replace('_', '-')} has no effect with --{option} {choice}".rstrip())


def tell(command: SchemaName, lines: Iterable[str], found: Mapping[str, Any] | None) -> None:
    """Print lines; if there is a JSON object, print it alone on stdout and the lines on stderr."""
    from rich.console import Console

    console = Console(stderr=found is not None)
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=not console.is_terminal)
    if found is not None:
        print_json(command, found)
