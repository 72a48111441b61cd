"""The analytic attack on one recorded round: what one message, and what the sum, gives away of the pictures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import Interval, linear_candidates, linear_inputs, psnr
from secfed.attacks.metrics import identified
from secfed.cli.extras import require
from secfed.cli.leakage.scenario import CANDIDATES, RecordedRound
from secfed.cli.simulation.random import generator
from secfed.errors import ConfigError

Array = npt.NDArray[np.float64]

# Repetitions of the same attack on noise.
_NULL_RUNS = 200
# How far beyond black and white a pixel may be: fixed-point rounding.
_TOLERANCE = 0.02
# Pictures in a row.
_MOST_COLUMNS = 10


@dataclass(frozen=True, slots=True)
class Score:
    """How well guesses fit the clients' pictures.

    Attributes:
        psnr: Of the best guess for each client, mean over the clients, in decibels.
        identified: Fraction of clients of which some guess tells the picture among 100.
        best: The best guess for each client by id, shape `(pixels,)`.
        null_psnr: The same of the same attack on noise in place of an update.
        null_identified: The same of the same attack on noise.
    """

    psnr: float
    identified: float
    best: dict[int, Array] = field(repr=False)
    null_psnr: Interval
    null_identified: Interval

    def to_json(self) -> dict[str, Any]:
        """Return what the command line prints."""
        nulls = {"psnr": self.null_psnr, "identified": self.null_identified}
        return {
            "psnr": self.psnr,
            "identified": self.identified,
            "null": {
                name: {"mean": null.mean, "lower": null.lower, "upper": null.upper} for name, null in nulls.items()
            },
        }

    def __str__(self) -> str:
        null, named = self.null_psnr, self.null_identified
        return (
            f"PSNR {self.psnr:.1f} dB, {100 * self.identified:.0f} % identified; on noise {null.mean:.1f} dB "
            f"({null.lower:.1f} to {null.upper:.1f}), {100 * named.mean:.1f} % "
            f"({100 * max(0.0, named.lower):.1f} to {100 * min(1.0, named.upper):.1f})"
        )


@dataclass(frozen=True, slots=True)
class AnalyticResult:
    """What the attack found.

    Attributes:
        recorded: The round that was attacked.
        messages: From each client's own message, as the server read it: one guess for each client.
        sum: From the mean that the server ended with, before noise of its own: one guess for each unit of the layer.
        released: The same from the mean that everybody sees.
        baseline: PSNR of the mean picture: a guess without any information.
    """

    recorded: RecordedRound
    messages: Score
    sum: Score
    released: Score
    baseline: float

    def to_json(self, files: list[str]) -> dict[str, Any]:
        """Return the result as the command line prints it."""
        settings = self.recorded.settings
        private = settings.privacy != "none"
        return {
            "schema": 1,
            "attack": "analytic",
            "adversary": self.recorded.view.adversary,
            "aggregator": settings.aggregator,
            "privacy": settings.privacy,
            "epsilon": settings.epsilon if private else None,
            "delta": settings.delta if private else None,
            "clients": settings.clients,
            "seed": settings.seed,
            "candidates": CANDIDATES,
            "messages": self.messages.to_json(),
            "sum": self.sum.to_json(),
            "released": self.released.to_json(),
            "baseline": {"psnr": self.baseline, "identified": 1 / CANDIDATES},
            "files": files,
        }

    def summary(self) -> list[str]:
        """Say in a few lines what was found."""
        settings = self.recorded.settings
        return [
            f"analytic attack, honest server, {settings.aggregator}, privacy {settings.privacy}, {settings.clients} "
            f"clients with one picture each, identified among {CANDIDATES}",
            f"from each client's message, as the server saw it: {self.messages}",
            f"from the sum that the server ended with: {self.sum}",
            f"from the mean that is released: {self.released}",
            f"without any information, the mean picture has {self.baseline:.1f} dB",
        ]


def attack(recorded: RecordedRound) -> AnalyticResult:
    """Attack each message and the sum; the attack is given the server's view and nothing else."""
    view, ids = recorded.view, recorded.view.clients
    random = generator(recorded.settings.seed, "null control")
    inputs = [view.inputs[client_id] for client_id in ids]
    return AnalyticResult(
        recorded,
        _score(recorded, [[_guess(update)] for update in inputs], random, _guess_alone),
        _score(recorded, [_guesses(view.mean)] * len(ids), random, _guesses),
        _score(recorded, [_guesses(recorded.released)] * len(ids), random, _guesses),
        float(np.mean([psnr(recorded.baseline, recorded.pictures[client_id]) for client_id in ids])),
    )


def _guess(update: Any) -> Array:
    """Rebuild the one input of the first layer, in the range of pixels."""
    weights, biases = _first_layer(update)
    try:
        return np.clip(linear_inputs(weights, biases), 0.0, 1.0)
    except ConfigError:  # nothing to divide by
        return np.zeros(weights.shape[1])


def _guess_alone(update: Any) -> list[Array]:
    return [_guess(update)]


def _guesses(update: Any) -> list[Array]:
    """Rebuild an input from each unit, and keep those that are pictures: a unit of several records rarely gives one."""
    weights, biases = _first_layer(update)
    try:
        found = linear_candidates(weights, biases)
    except ConfigError:
        return [np.zeros(weights.shape[1])]
    like = (found > -_TOLERANCE).all(axis=1) & (found < 1 + _TOLERANCE).all(axis=1)
    return [np.clip(guess, 0.0, 1.0) for guess in found[like]] or [_guess(update)]


def _first_layer(update: Any) -> tuple[Array, Array]:
    weights, biases = update["hidden_weight"], update["hidden_bias"]
    return np.asarray(weights, np.float64).T, np.asarray(biases, np.float64)


def _score(
    recorded: RecordedRound,
    guesses: list[list[Array]],
    random: np.random.Generator,
    on_noise: Callable[[Any], list[Array]],
) -> Score:
    ids = recorded.view.clients
    best, qualities, named = {}, [], []
    for client_id, some in zip(ids, guesses, strict=True):
        quality, identifies, best[client_id] = _best(recorded, client_id, some)
        qualities.append(quality)
        named.append(identifies)
    null = [
        _best(recorded, ids[run % len(ids)], on_noise(_like(recorded.view.mean, random))) for run in range(_NULL_RUNS)
    ]
    return Score(
        float(np.mean(qualities)),
        float(np.mean(named)),
        best,
        Interval.of([quality for quality, _, _ in null]),
        Interval.of([identifies for _, identifies, _ in null]),
    )


def _best(recorded: RecordedRound, client_id: int, guesses: list[Array]) -> tuple[float, bool, Array]:
    """Return the PSNR of the best guess for a client, whether some guess identifies it, and the best guess."""
    truth, number = recorded.pictures[client_id], recorded.number_of[client_id]
    qualities = [psnr(guess, truth) for guess in guesses]
    place = int(np.argmax(qualities))
    named = any(identified(guess, recorded.candidates) == number for guess in guesses)
    return qualities[place], named, guesses[place]


def _like(update: Any, random: np.random.Generator) -> dict[str, Array]:
    return {name: random.normal(size=np.shape(array)) for name, array in update.items()}


def picture(result: AnalyticResult, path: Path) -> None:
    """Draw originals and reconstructions below each other, to a PNG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    recorded, side = result.recorded, result.recorded.side
    ids = recorded.view.clients[:_MOST_COLUMNS]
    settings = recorded.settings
    rows = [
        ("the client's picture", recorded.pictures),
        (f"from its message\n{result.messages.psnr:.0f} dB", result.messages.best),
        (f"from the sum\n{result.sum.psnr:.0f} dB", result.sum.best),
        (f"from the released\nmean {result.released.psnr:.0f} dB", result.released.best),
    ]
    figure = Figure(figsize=(1.6 + 0.95 * len(ids), 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # draws to memory: no window system is asked
    axes = figure.subplots(len(rows), len(ids), squeeze=False)
    for row, (label, images) in zip(axes, rows, strict=True):
        for axis, client_id in zip(row, ids, strict=True):
            axis.imshow(images[client_id].reshape(side, side), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for axis, client_id in zip(axes[0], ids, strict=True):
        axis.set_title(f"client {client_id}", fontsize=8)
    noise = "" if settings.privacy == "none" else f", {settings.privacy} noise (epsilon {settings.epsilon:g})"
    figure.suptitle(f"What the server can rebuild: {settings.aggregator}{noise}", fontsize=10)
    figure.savefig(path, format="png")
