"""What commands share: options, their checks (typer's own bounds let "nan" pass), and how they tell what they found."""

import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer


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


KeyBits = Annotated[
    int, typer.Option(min=2048, max=16384, help="With --aggregator paillier: bits of the key, a multiple of 16.")
]


def positive(number: float) -> float:
    """Return a positive finite number; another one is wrong usage."""
    if not 0 < number < float("inf"):
        raise typer.BadParameter(f"{number} must be positive and finite")
    return number


def fraction(number: float) -> float:
    """Return a number above 0 and below 1; another one is wrong usage."""
    if not 0 < number < 1:
        raise typer.BadParameter(f"{number} must be above 0 and below 1")
    return number


def given_options(context: typer.Context) -> set[str]:
    """Return the names of the options that the user wrote."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def refuse_without_effect(
    context: typer.Context, rules: Iterable[tuple[str, str, tuple[str, ...]]], chosen: Mapping[str, str]
) -> None:
    """Refuse options that were given and change nothing, as wrong usage: who gives one expects something of it.

    Args:
        context: Of the command.
        rules: An option, a choice of it, and the options that have no effect with that choice.
        chosen: What was chosen, by option.
    """
    given = given_options(context)
    for option, choice, names in rules:
        for name in names:
            if chosen[option] == choice and name in given:
                raise typer.BadParameter(f"--{name.replace('_', '-')} has no effect with --{option} {choice}".rstrip())


def tell(lines: Iterable[str], found: Mapping[str, Any] | None) -> None:
    """Print lines; if there is a JSON object, print it alone on stdout and the lines on stderr."""
    from rich.console import Console

    console = Console(stderr=found is not None)
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=not console.is_terminal)
    if found is not None:
        typer.echo(json.dumps(found))
