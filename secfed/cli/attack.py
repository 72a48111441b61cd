"""The command `secfed attack`: one attack on a recorded round; `app` adds it to the command line."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.extras import require
from secfed.cli.options import fraction, positive, refuse_without_effect
from secfed.errors import SecFedError


class AttackName(StrEnum):
    """Attacks."""

    ANALYTIC = "analytic"


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


# Choices, and the options that have no effect with them.
_WITHOUT_EFFECT = (
    ("privacy", "none", ("epsilon", "delta", "clip_norm")),
    ("aggregator", "plain", ("key_bits",)),
    ("aggregator", "secagg", ("key_bits",)),
)


def attack(
    context: typer.Context,
    name: Annotated[AttackName, typer.Argument(help="Which attack.")],
    aggregator: Annotated[Protection, typer.Option(help="How the server gets the mean.")] = Protection.PLAIN,
    privacy: Annotated[
        PrivacyChoice, typer.Option(help="Who adds noise to the sum: nobody, the server, or every client a share.")
    ] = PrivacyChoice.NONE,
    clients: Annotated[int, typer.Option(min=2, max=100, help="Number of clients; each has one picture.")] = 8,
    epsilon: Annotated[
        float, typer.Option(callback=positive, help="With --privacy: budget of this round; the noise follows from it.")
    ] = 3.0,
    delta: Annotated[float, typer.Option(callback=fraction, help="With --privacy: budget of this round.")] = 1e-5,
    clip_norm: Annotated[
        float, typer.Option(callback=positive, help="With --privacy: updates are scaled down to this Euclidean norm.")
    ] = 1.0,
    key_bits: Annotated[
        int, typer.Option(min=2048, max=16384, help="With --aggregator paillier: bits of the key, a multiple of 16.")
    ] = 3072,
    seed: Annotated[
        int, typer.Option(min=0, help="Makes the run repeatable; secrets never come from it, nor does noise.")
    ] = 0,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the picture.")] = Path("secfed-run"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Attack a recorded round on real pictures, with what the server saw of it and nothing else.

    Beside each figure stand those of no information: the mean picture, and the same attack on noise.

    Example: secfed attack analytic --aggregator secagg
    """
    require("rich", "scikit-learn", "matplotlib")
    from rich.console import Console

    from secfed.cli.leakage import analytic
    from secfed.cli.leakage.scenario import Settings, record_round

    refuse_without_effect(context, _WITHOUT_EFFECT, {"privacy": privacy.value, "aggregator": aggregator.value})
    settings = Settings(clients, aggregator.value, privacy.value, epsilon, delta, clip_norm, key_bits, seed)
    result = analytic.attack(record_round(settings))
    file = output / f"{name.value}.png"
    try:
        output.mkdir(parents=True, exist_ok=True)
        analytic.picture(result, file)
    except OSError as error:
        raise SecFedError(f"cannot write {file}: {error.strerror}") from None
    console = Console(stderr=as_json)
    for line in [*result.summary(), f"picture: {file}"]:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=not console.is_terminal)
    if as_json:
        typer.echo(json.dumps(result.to_json([str(file)])))
