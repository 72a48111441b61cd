"""The command `secfed attack`: one attack on a recorded round; `app` adds it to the command line."""

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from secfed.cli.extras import require
from secfed.cli.json_output import SchemaName, filled
from secfed.cli.options import (
    ATTACK,
    DATA,
    OUTPUT,
    PRIVACY,
    PROTOCOL,
    AsJson,
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
    EXACT = "exact"
    MEMBERSHIP = "membership"
    MASKS = "masks"


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
# Attacks, and the options that have no effect on them.
_OF_A_ROUND = ("aggregator", "privacy", "epsilon", "delta", "clip_norm", "key_bits", "adversary", "colluders")
_WITHOUT_EFFECT_ON = {
    "analytic": ("seed_bits", "quick"),
    "inversion": ("seed_bits", "quick"),
    "exact": ("seed_bits", "quick"),
    "membership": ("adversary", "colluders", "seed_bits", "output"),
    "masks": (*_OF_A_ROUND, "output", "quick"),
    "all": (*(option for option in _OF_A_ROUND if option != "key_bits"), "clients", "seed_bits"),
}


def attack(
    context: typer.Context,
    name: Annotated[AttackName | None, typer.Argument(help="The attack to run.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every attack against every protection: the matrix.", rich_help_panel=ATTACK)
    ] = False,
    aggregator: Annotated[
        Protection, typer.Option(help="How the server gets the mean.", rich_help_panel=PROTOCOL)
    ] = Protection.PLAIN,
    privacy: Annotated[
        PrivacyChoice,
        typer.Option(
            help="Who adds noise to the sum: no one, the server, or each client a share.", rich_help_panel=PRIVACY
        ),
    ] = PrivacyChoice.NONE,
    clients: Annotated[
        int,
        typer.Option(
            min=2,
            max=100,
            help="Number of clients; each has one picture. The attack masks needs 3 or more.",
            rich_help_panel=DATA,
        ),
    ] = 8,
    epsilon: Annotated[
        float,
        typer.Option(
            callback=positive, help="With --privacy: budget of this round; it sets the noise.", rich_help_panel=PRIVACY
        ),
    ] = 3.0,
    delta: Annotated[
        float, typer.Option(callback=fraction, help="With --privacy: delta of the budget.", rich_help_panel=PRIVACY)
    ] = 1e-5,
    clip_norm: Annotated[
        float,
        typer.Option(
            callback=positive,
            help="With --privacy: updates are scaled down to this Euclidean norm.",
            rich_help_panel=PRIVACY,
        ),
    ] = 1.0,
    key_bits: KeyBits = 3072,
    adversary: Annotated[
        AdversaryName,
        typer.Option(
            help="Who attacks; all are honest but curious. An outsider reads traffic without TLS.",
            rich_help_panel=PROTOCOL,
        ),
    ] = AdversaryName.SERVER,
    colluders: Annotated[
        int | None,
        typer.Option(min=1, help="How many clients collude; by default all but one.", rich_help_panel=PROTOCOL),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="With --all or membership: less work, so rougher results; with --all a 2048-bit key.",
            rich_help_panel=ATTACK,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0, help="Makes the run repeatable. It never determines secrets or noise.", rich_help_panel=OUTPUT
        ),
    ] = 0,
    seed_bits: Annotated[
        int,
        typer.Option(
            min=1,
            max=32,
            help="For masks: bits of the weak pair seed; 32 bits take one to two minutes.",
            rich_help_panel=ATTACK,
        ),
    ] = 26,
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the picture.", rich_help_panel=OUTPUT)
    ] = Path("secfed-run"),
    as_json: AsJson = False,
) -> None:
    """Attack recorded rounds on real pictures, using only what the adversary saw.

    The command prints two controls next to each figure: the mean picture, and the same attack on noise.

    With masks it attacks secure aggregation with one part of the masks weakened at a time, and next to it the real
    protocol.

    Examples:

    secfed attack analytic --aggregator secagg

    secfed attack masks

    secfed attack --all
    """
    if every == (name is not None):
        raise typer.BadParameter(f"needed the name of an attack ({', '.join(AttackName)}), or --all")
    called = name.value if name else "all"
    given = given_options(context)
    if odd := sorted(given & set(_WITHOUT_EFFECT_ON[called])):
        raise typer.BadParameter(f"--{odd[0].replace('_', '-')} has no effect on the attack {called}")
    if name is AttackName.MASKS:
        return _masks(clients, seed_bits, seed, as_json)
    require("rich", "scikit-learn", "matplotlib")
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    threadpool_limits(1)  # matrices are small: waiting for each other, threads would take several times as long
    from secfed.cli.leakage import analytic, exact, inversion, reconstruction
    from secfed.cli.leakage.scenario import Settings, record_round
    from secfed.cli.leakage.tasks import Digits, Faces, Mnist

    if every:
        if quick and "key_bits" not in given:
            key_bits = 2048
        return _matrix(key_bits, seed, quick, output, as_json)
    chosen = {"privacy": privacy.value, "aggregator": aggregator.value, "adversary": adversary.value}
    refuse_without_effect(context, _WITHOUT_EFFECT, chosen)
    if name is AttackName.MEMBERSHIP:
        options = {"clients": clients, "epsilon": epsilon, "delta": delta, "clip_norm": clip_norm, "seed": seed}
        return _membership(aggregator.value, privacy.value, key_bits, quick, options, as_json)
    settings = Settings(
        clients, aggregator.value, privacy.value, epsilon, delta, clip_norm, key_bits, seed, adversary.value, colluders
    )
    if name is AttackName.INVERSION:
        result = inversion.attack(record_round(settings, Faces(seed)))
    elif name is AttackName.EXACT:
        result = exact.attack(record_round(settings, Mnist(seed)))
    else:
        result = analytic.attack(record_round(settings, Digits(seed)))
    file = output / f"{result.attack}.png"
    _draw(file, lambda: reconstruction.picture(result, file))
    tell(SchemaName.ATTACK, [*result.summary(), f"picture: {file}"], result.to_json([str(file)]) if as_json else None)


def _membership(
    aggregator: Any, privacy: Any, key_bits: int, quick: bool, options: dict[str, Any], as_json: bool
) -> None:
    from secfed.cli.leakage import membership

    less = {name: value for name, value in membership.QUICK.items() if name != "clients"} if quick else {}
    found = membership.attack(
        membership.Settings(aggregator=aggregator, privacy=privacy, key_bits=key_bits, **options, **less)
    )
    tell(SchemaName.ATTACK, found.summary(), found.to_json() | {"files": []} if as_json else None)


def _masks(clients: int, seed_bits: int, seed: int, as_json: bool) -> None:
    require("rich")
    from secfed.cli.leakage import weak_masks

    found = weak_masks.run(weak_masks.Settings(clients, pair_bits=seed_bits, seed=seed))
    tell(SchemaName.ATTACK, found.summary(), found.to_json() | {"files": []} if as_json else None)


def _matrix(key_bits: int, seed: int, quick: bool, output: Path, as_json: bool) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from secfed.cli.leakage import curves, matrix, report

    found, cohorts, epsilons, effort = [], [], [], matrix.QUICK if quick else matrix.FULL
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("attacking", total=matrix.CELLS + curves.count(quick))
        for cell in matrix.cells(key_bits, seed, effort):
            found.append(cell)
            progress.update(task, advance=1, description=f"{cell.attack}: {cell.protection}")
        for cohort in curves.cohort_points(seed, quick):
            cohorts.append(cohort)
            progress.update(task, advance=1, description=f"{cohort.clients} clients")
        for point in curves.epsilon_points(seed, quick):
            epsilons.append(point)
            progress.update(task, advance=1, description="budgets")
    drawn = curves.Curves(tuple(cohorts), tuple(epsilons))
    files = {name: output / f"leakage.{name}" for name in ("png", "html", "json")}
    result = {
        "attack": "all",
        "seed": seed,
        "quick": quick,
        "cells": [cell.to_json() for cell in found],
        "curves": drawn.to_json(),
        "files": [str(file) for file in files.values()],
    }
    result = filled(SchemaName.ATTACK, result)
    _draw(files["png"], lambda: matrix.picture(found, files["png"]))
    _draw(files["html"], lambda: files["html"].write_text(report.page(found, drawn, seed, quick), encoding="utf-8"))
    _draw(files["json"], lambda: files["json"].write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8"))
    tell(SchemaName.ATTACK, [*matrix.table(found, effort), f"report: {files['html']}"], result if as_json else None)


def _draw(file: Path, draw: Callable[[], object]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draw()
    except OSError as error:
        raise SecFedError(f"cannot write {file}: {error.strerror}") from None
