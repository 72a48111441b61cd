"""What a reconstruction attack found in one recorded round, next to what it finds in noise."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import Interval, psnr, ssim
from secfed.attacks.metrics import identified
from secfed.cli.figures import AGGREGATORS, drawing, show
from secfed.cli.leakage.scenario import CANDIDATES, RecordedRound
from secfed.cli.simulation.random import generator

Array = npt.NDArray[np.float64]

# Pictures in a row.
_MOST_COLUMNS = 10
# Inches in which the title fits.
_LEAST_WIDTH = 5.6


@dataclass(frozen=True, slots=True)
class Score:
    """How well guesses fit the clients' pictures.

    Attributes:
        psnr: Of the best guess for each client, mean over the clients, in decibels.
        ssim: Structural similarity of the same guesses, mean over the clients, from -1 to 1.
        identified: Fraction of clients whose picture some guess picks out of 100.
        best: The best guess for each client by id, shape `(pixels,)`.
        null_psnr: `psnr` of the same attack on noise in place of an update.
        null_ssim: `ssim` of it.
        null_identified: `identified` of it.
    """

    psnr: float
    ssim: float
    identified: float
    best: dict[int, Array] = field(repr=False)
    null_psnr: Interval
    null_ssim: Interval
    null_identified: Interval

    def to_json(self) -> dict[str, Any]:
        """Return what the command line prints."""
        nulls = {"psnr": self.null_psnr, "ssim": self.null_ssim, "identified": self.null_identified}
        return {
            "psnr": self.psnr,
            "ssim": self.ssim,
            "identified": self.identified,
            "null": {name: asdict(null) for name, null in nulls.items()},
        }

    def __str__(self) -> str:
        null, named = self.null_psnr, self.null_identified
        return (
            f"PSNR {self.psnr:.1f} dB, SSIM {self.ssim:z.2f}, {100 * self.identified:.0f} % identified; on noise "
            f"{null.mean:.1f} dB ({null.lower:.1f} to {null.upper:.1f}), SSIM {self.null_ssim.mean:z.2f}, "
            f"{100 * named.mean:.1f} % ({100 * max(0.0, named.lower):.1f} to {100 * min(1.0, named.upper):.1f})"
        )


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What the attack found.

    Attributes:
        recorded: The round that was attacked.
        attack: Name of the attack.
        messages: From each client's own message, as the adversary read it; None if it saw none.
        sum: From the mean that the adversary ended with. The server has it before its own noise; clients that work
            together have that of the others. None if it saw none.
        released: From the mean that everybody sees.
        baseline: PSNR of the mean picture: a guess without any information.
        baseline_ssim: Its structural similarity.
    """

    recorded: RecordedRound
    attack: str
    messages: Score | None
    sum: Score | None
    released: Score
    baseline: float
    baseline_ssim: float

    def to_json(self, files: list[str]) -> dict[str, Any]:
        """Return the result as the command line prints it."""
        settings = self.recorded.settings
        private = settings.privacy != "none"
        return {
            "attack": self.attack,
            "adversary": settings.adversary,
            "colluders": len(self.recorded.colluders) or None,
            "aggregator": settings.aggregator,
            "privacy": settings.privacy,
            "epsilon": settings.epsilon if private else None,
            "delta": settings.delta if private else None,
            "clients": settings.clients,
            "seed": settings.seed,
            "candidates": CANDIDATES,
            "messages": self.messages and self.messages.to_json(),
            "sum": self.sum and self.sum.to_json(),
            "released": self.released.to_json(),
            "baseline": {"psnr": self.baseline, "ssim": self.baseline_ssim, "identified": 1 / CANDIDATES},
            "files": files,
        }

    def summary(self) -> list[str]:
        """Say in a few lines what was found."""
        settings, colluders = self.recorded.settings, len(self.recorded.colluders)
        together = f", {colluders} clients work together" if colluders else ""
        whose = "the others' sum" if colluders else "the sum"
        return [
            f"{self.attack} attack, adversary {settings.adversary}{together}, {settings.aggregator}, "
            f"privacy {settings.privacy}, {settings.clients} clients with one picture each, "
            f"identified among {CANDIDATES}",
            f"from each client's message, as the adversary saw it: {self.messages or 'it sees none'}",
            f"from {whose}, as the adversary got it: {self.sum or 'it gets none'}",
            f"from the mean that is released: {self.released}",
            f"without any information, the mean picture has {self.baseline:.1f} dB, SSIM {self.baseline_ssim:z.2f}",
        ]


def reconstruct(
    recorded: RecordedRound,
    attack: str,
    from_messages: Callable[[Mapping[int, Any]], dict[int, Array]],
    from_a_sum: Callable[[Any, int], Array],
    null_runs: int,
) -> Reconstruction:
    """Attack each message, the sum and the released mean; the attack is given the adversary's view and nothing else.

    Args:
        recorded: The round.
        attack: Name of the attack.
        from_messages: Returns some guesses for each client, shape `(some, pixels)`.
        from_a_sum: Given a mean and how many clients are in it, returns some guesses, shape `(some, pixels)`.
        null_runs: Repetitions of the same attack on noise.
    """
    view, like, everybody = recorded.view, recorded.released, recorded.settings.clients
    messages = {client_id: view.inputs[client_id] for client_id in view.clients if client_id in view.inputs}
    random = generator(recorded.settings.seed, "null control")
    noise = [{client_id: noise_like(like, random) for client_id in messages} for _ in range(null_runs)]
    sums = [noise_like(like, random) for _ in range(null_runs)]
    of_messages = [quality(recorded, from_messages(one)) for one in noise] if messages else []
    count = len(view.clients)
    of_sums = [quality(recorded, from_a_sum(one, count)) for one in sums]
    of_released = of_sums if count == everybody else [quality(recorded, from_a_sum(one, everybody)) for one in sums]
    return Reconstruction(
        recorded,
        attack,
        _score(recorded, from_messages(messages), of_messages) if messages else None,
        None if view.mean is None else _score(recorded, from_a_sum(view.mean, count), of_sums),
        _score(recorded, from_a_sum(recorded.released, everybody), of_released),
        float(np.mean([psnr(recorded.baseline, recorded.pictures[client_id]) for client_id in view.clients])),
        _similarity(recorded, dict.fromkeys(view.clients, recorded.baseline)),
    )


def quality(recorded: RecordedRound, guesses: Mapping[int, Array] | Array) -> tuple[float, float, dict[int, Array]]:
    """Return the mean PSNR of the best guesses, the fraction of clients identified, and each client's best guess.

    Args:
        recorded: The round.
        guesses: Each client's own by id, or one array for all of them, shape `(some, pixels)`.
    """
    told = [recorded.number_of[client_id] in some for client_id, some in named(recorded, guesses).items()]
    best = {}
    for client_id, some in _by_client(recorded, guesses).items():
        errors = ((some - recorded.pictures[client_id]) ** 2).mean(axis=1)
        best[client_id] = some[int(np.argmin(errors))]
    found = [psnr(one, recorded.pictures[client_id]) for client_id, one in best.items()]
    return float(np.mean(found)), float(np.mean(told)), best


def named(recorded: RecordedRound, guesses: Mapping[int, Array] | Array) -> dict[int, set[int]]:
    """Return the numbers of the candidates that each client's guesses pick out."""
    if isinstance(guesses, Mapping):
        return {
            client_id: {identified(one, recorded.candidates) for one in some} for client_id, some in guesses.items()
        }
    of_all = {identified(one, recorded.candidates) for one in guesses}
    return dict.fromkeys(recorded.view.clients, of_all)


def chance(told: Mapping[int, set[int]], runs: int, random: np.random.Generator) -> list[float]:
    """Return the fraction of clients identified if their pictures were other candidates at random, for that many draws.

    The candidates are in random order, so guesses that know nothing about a picture do as well as this.
    """
    found = []
    for _ in range(runs):
        numbers = random.choice(CANDIDATES, len(told), replace=False)
        found.append(float(np.mean([number in some for number, some in zip(numbers, told.values(), strict=True)])))
    return found


def _by_client(recorded: RecordedRound, guesses: Mapping[int, Array] | Array) -> Mapping[int, Array]:
    return guesses if isinstance(guesses, Mapping) else dict.fromkeys(recorded.view.clients, guesses)


def _similarity(recorded: RecordedRound, best: Mapping[int, Array]) -> float:
    """Return the mean structural similarity of the clients' pictures and a guess for each."""
    square = recorded.task.side, recorded.task.side
    pictures = recorded.pictures
    return float(np.mean([ssim(one.reshape(square), pictures[number].reshape(square)) for number, one in best.items()]))


def _score(recorded: RecordedRound, guesses: Any, null: list[tuple[float, float, dict[int, Array]]]) -> Score:
    found, told, best = quality(recorded, guesses)
    similar = Interval.of([_similarity(recorded, one[2]) for one in null])
    psnrs, names = Interval.of([one[0] for one in null]), Interval.of([one[1] for one in null])
    return Score(found, _similarity(recorded, best), told, best, psnrs, similar, names)


def noise_like(update: Any, random: np.random.Generator) -> dict[str, Array]:
    """Return noise with the structure of an update: what the null control attacks."""
    return {name: random.normal(size=np.shape(array)) for name, array in update.items()}


def picture(result: Reconstruction, path: Path) -> None:
    """Draw originals and reconstructions below each other, to a PNG file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    recorded = result.recorded
    ids = list((result.messages or result.released).best)[:_MOST_COLUMNS]
    whose = "others' sum" if recorded.colluders else "sum"
    scores = (("from its message\n", result.messages), (f"from the {whose}\n", result.sum),
              ("from the released\nmean ", result.released))  # fmt: skip
    rows = [("the client's\npicture", recorded.pictures)]
    rows += [(f"{label}({score.psnr:.0f} dB)", score.best) for label, score in scores if score]
    width, height = max(_LEAST_WIDTH, 1.9 + 0.95 * len(ids)), 1.1 + len(rows)
    with drawing(path, width, height, format="png") as figure:
        axes = figure.subplots(len(rows), len(ids), squeeze=False)
        for row, (label, images) in zip(axes, rows, strict=True):
            for axis, client_id in zip(row, ids, strict=True):
                show(axis, images[client_id])
            row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10)
        for axis, client_id in zip(axes[0], ids, strict=True):
            axis.set_title(f"client {client_id}", fontsize=10, fontweight="normal", loc="center")
        adversary = recorded.settings.adversary.replace("-", " ")
        figure.suptitle(f"What the {adversary} can rebuild\n{_protection(result)}", fontsize=11)


def _protection(result: Reconstruction) -> str:
    settings = result.recorded.settings
    if settings.privacy == "none":
        return AGGREGATORS[settings.aggregator]
    whose = {"central": "the server's", "distributed": "the clients'"}[settings.privacy]
    aggregator = "Plain average" if settings.aggregator == "plain" else AGGREGATORS[settings.aggregator]
    return f"{aggregator}, {whose} noise (epsilon {settings.epsilon:g})"
