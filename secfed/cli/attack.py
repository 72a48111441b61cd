"""The command `secfed attack`: one attack on a recorded round; `app` adds it to the command line."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from secfed.cli.extras import require
from secfed.cli.options import (
    KeyBits,
    PrivacyChoice,
    Protection,
    fraction,
    given_options,
    positive,
    refuse_without_effect,
    tell,
)
from secfed.errors import SecFedError


class AttackName(StrEnum):
    """Attacks."""

    ANALYTIC = "analytic"
    INVERSION = "inversion"
    MASKS = "masks"


# Choices, and the options that have no effect with them.
_WITHOUT_EFFECT = (
    ("privacy", "none", ("epsilon", "delta", "clip_norm")),
    ("aggregator", "plain", ("key_bits",)),
    ("aggregator", "secagg", ("key_bits",)),
)
_WITHOUT_EFFECT_ON_ALL = (
    ("all", "", ("aggregator", "privacy", "clients", "epsilon", "delta", "clip_norm", "seed_bits")),
)
_WITHOUT_EFFECT_ON_PICTURES = ("seed_bits",)
_WITHOUT_EFFECT_ON_MASKS = ("aggregator", "privacy", "epsilon", "delta", "clip_norm", "key_bits", "output")


def attack(
    context: typer.Context,
    name: Annotated[AttackName | None, typer.Argument(help="Which attack.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every attack against every protection: the matrix.")] = False,
    aggregator: Annotated[Protection, typer.Option(help="How the server gets the mean.")] = Protection.PLAIN,
    privacy: Annotated[
        PrivacyChoice, typer.Option(help="Who adds noise to the sum: nobody, the server, or every client a share.")
    ] = PrivacyChoice.NONE,
    clients: Annotated[
        int, typer.Option(min=2, max=100, help="Number of clients; each has one picture. For masks 3 or more.")
    ] = 8,
    epsilon: Annotated[
        float, typer.Option(callback=positive, help="With --privacy: budget of this round; the noise follows from it.")
    ] = 3.0,
    delta: Annotated[float, typer.Option(callback=fraction, help="With --privacy: budget of this round.")] = 1e-5,
    clip_norm: Annotated[
        float, typer.Option(callback=positive, help="With --privacy: updates are scaled down to this Euclidean norm.")
    ] = 1.0,
    key_bits: KeyBits = 3072,
    seed: Annotated[
        int, typer.Option(min=0, help="Makes the run repeatable; secrets never come from it, nor does noise.")
    ] = 0,
    seed_bits: Annotated[
        int, typer.Option(min=1, max=32, help="For masks: bits of the weak pair seed; 32 take one to two minutes.")
    ] = 26,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the picture.")] = Path("secfed-run"),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout, all else on stderr.")
    ] = False,
) -> None:
    """Attack recorded rounds on real pictures, with what the server saw of them and nothing else.

    The command prints two controls next to each figure: the mean picture, and the same attack on noise.

    With masks it attacks secure aggregation with one part of the masks weakened at a time, and next to it the real
    protocol.

    Examples: secfed attack analytic --aggregator secagg; secfed attack masks; secfed attack --all
    """
    if every == (name is not None):
        raise typer.BadParameter(f"needed the name of an attack ({', '.join(AttackName)}), or --all")
    if name is AttackName.MASKS:
        _refuse(context, name, _WITHOUT_EFFECT_ON_MASKS)
        return _masks(clients, seed_bits, seed, as_json)
    require("rich", "scikit-learn", "matplotlib")
    from secfed.cli.leakage import analytic, inversion, reconstruction
    from secfed.cli.leakage.scenario import Settings, record_round
    from secfed.cli.leakage.tasks import Digits, Faces

    if every:
        refuse_without_effect(context, _WITHOUT_EFFECT_ON_ALL, {"all": ""})
        return _matrix(key_bits, seed, output, as_json)
    _refuse(context, name, _WITHOUT_EFFECT_ON_PICTURES)
    refuse_without_effect(context, _WITHOUT_EFFECT, {"privacy": privacy.value, "aggregator": aggregator.value})
    settings = Settings(clients, aggregator.value, privacy.value, epsilon, delta, clip_norm, key_bits, seed)
    if name is AttackName.INVERSION:
        result = inversion.attack(record_round(settings, Faces(seed)))
    else:
        result = analytic.attack(record_round(settings, Digits(seed)))
    file = output / f"{result.attack}.png"
    _draw(file, lambda: reconstruction.picture(result, file))
    tell([*result.summary(), f"picture: {file}"], result.to_json([str(file)]) if as_json else None)


def _refuse(context: typer.Context, name: AttackName | None, options: tuple[str, ...]) -> None:
    """Refuse options that were given and change nothing in this attack, as wrong usage."""
    if odd := sorted(given_options(context) & set(options)):
        raise typer.BadParameter(f"--{odd[0].replace('_', '-')} has no effect on the attack {name}")


def _masks(clients: int, seed_bits: int, seed: int, as_json: bool) -> None:
    require("rich")
    from secfed.cli.leakage import weak_masks

    found = weak_masks.run(weak_masks.Settings(clients, pair_bits=seed_bits, seed=seed))
    tell(found.summary(), found.to_json() if as_json else None)


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
