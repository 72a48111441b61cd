"""The command `secfed attack`: one attack on a recorded round; `app` adds it to the command line."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.extras import require
from secfed.cli.options import KeyBits, PrivacyChoice, Protection, fraction, positive, refuse_without_effect, tell
from secfed.errors import SecFedError


class AttackName(StrEnum):
    """Attacks."""

    ANALYTIC = "analytic"
    INVERSION = "inversion"
    EXACT = "exact"


class AdversaryName(StrEnum):
    """Who attacks."""

    SERVER = "server"
    OUTSIDER = "outsider"
    KEY_HOLDER = "key-holder"
    CLIENTS = "clients"
    SERVER_AND_CLIENTS = "server-and-clients"


# Choices, and the options that have no effect with them.
_WITHOUT_EFFECT = (
    ("privacy", "none", ("epsilon", "delta", "clip_norm")),
    ("aggregator", "plain", ("key_bits",)),
    ("aggregator", "secagg", ("key_bits",)),
    ("adversary", "server", ("colluders",)),
    ("adversary", "outsider", ("colluders",)),
    ("adversary", "key-holder", ("colluders",)),
)
_WITHOUT_EFFECT_ON_ALL = (
    ("all", "", ("aggregator", "privacy", "clients", "epsilon", "delta", "clip_norm", "adversary", "colluders")),
)


def attack(
    context: typer.Context,
    name: Annotated[AttackName | None, typer.Argument(help="Which attack.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every attack against every protection: the matrix.")] = False,
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
    key_bits: KeyBits = 3072,
    adversary: Annotated[
        AdversaryName,
        typer.Option(help="Who attacks; all are honest and curious. An outsider reads a wire that nothing encrypts."),
    ] = AdversaryName.SERVER,
    colluders: Annotated[
        int | None,
        typer.Option(min=1, help="With clients that work together: how many; by default all but one."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Makes the run repeatable; secrets never come from it, nor does noise.")
    ] = 0,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the picture.")] = Path("secfed-run"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Attack recorded rounds on real pictures, with what the adversary saw of them and nothing else.

    The command prints two controls next to each figure: the mean picture, and the same attack on noise.

    Examples: secfed attack analytic --aggregator secagg; secfed attack --all
    """
    if every == (name is not None):
        raise typer.BadParameter(f"needed the name of an attack ({', '.join(AttackName)}), or --all")
    require("rich", "scikit-learn", "matplotlib")
    from secfed.cli.leakage import analytic, exact, inversion, reconstruction
    from secfed.cli.leakage.scenario import Settings, record_round
    from secfed.cli.leakage.tasks import Digits, Faces, Mnist

    if every:
        refuse_without_effect(context, _WITHOUT_EFFECT_ON_ALL, {"all": ""})
        return _matrix(key_bits, seed, output, as_json)
    chosen = {"privacy": privacy.value, "aggregator": aggregator.value, "adversary": adversary.value}
    refuse_without_effect(context, _WITHOUT_EFFECT, chosen)
    settings = Settings(
        clients, aggregator.value, privacy.value, epsilon, delta, clip_norm, key_bits, seed, adversary.value, colluders
    )
    if name is AttackName.INVERSION:
        result = inversion.attack(record_round(settings, Faces(seed)))
    elif name is AttackName.EXACT:
        if aggregator is Protection.PAILLIER:
            raise typer.BadParameter(
                "found attack exact with --aggregator paillier: needed plain or secagg. Each update has 318,010 "
                "values, and their encryption would take tens of minutes. The sum is the same as with secagg"
            )
        result = exact.attack(record_round(settings, Mnist(seed)))
    else:
        result = analytic.attack(record_round(settings, Digits(seed)))
    file = output / f"{result.attack}.png"
    _draw(file, lambda: reconstruction.picture(result, file))
    tell([*result.summary(), f"picture: {file}"], result.to_json([str(file)]) if as_json else None)


def _matrix(key_bits: int, seed: int, output: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from secfed.cli.leakage import matrix

    found = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("attacking", total=None)
        for cell in matrix.cells(key_bits, seed):
            found.append(cell)
            progress.update(task, description=f"{cell.attack}: {cell.protection}")
    file = output / "leakage.png"
    _draw(file, lambda: matrix.picture(found, file))
    told = {
        "schema": 1,
        "attack": "all",
        "seed": seed,
        "cells": [cell.to_json() for cell in found],
        "files": [str(file)],
    }
    tell([*matrix.table(found), f"picture: {file}"], told if as_json else None)


def _draw(file: Path, draw: Callable[[], None]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draw()
    except OSError as error:
        raise SecFedError(f"cannot write {file}: {error.strerror}") from None
