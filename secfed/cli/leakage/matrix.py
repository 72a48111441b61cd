"""The matrix: every attack against every protection, each cell from a recorded round, with the same attack on noise."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import Interval, difference, label, label_counts
from secfed.cli.extras import require
from secfed.cli.leakage import analytic, inversion
from secfed.cli.leakage.reconstruction import chance, named, noise_like, quality
from secfed.cli.leakage.scenario import CANDIDATES, RecordedRound, Settings, record_round
from secfed.cli.leakage.tasks import Faces
from secfed.cli.simulation.random import generator

Array = npt.NDArray[np.float64]

# What is attacked, by the name of its column. All clients have one picture each: the hardest case.
PROTECTIONS: dict[str, dict[str, Any]] = {
    "plain, 8 clients": {"clients": 8},
    "secagg, 3 clients": {"clients": 3, "aggregator": "secagg"},
    "secagg, 8 clients": {"clients": 8, "aggregator": "secagg"},
    "secagg, 50 clients": {"clients": 50, "aggregator": "secagg"},
    "paillier, 8 clients": {"clients": 8, "aggregator": "paillier"},
    "plain, server's noise": {"clients": 8, "privacy": "central"},
    "secagg, clients' noise": {"clients": 8, "aggregator": "secagg", "privacy": "distributed"},
}
_NULL_RUNS = 1000
# Clients that a further round each leaves out: the server then has two sums that differ by one client.
_LEFT_OUT = 3
# Clients whose messages are attacked by gradient inversion.
_FACES_ATTACKED = 3
# Pictures of each label that the adversary has of its own.
_OWN_PICTURES = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """One attack against one protection.

    Attributes:
        attack: Its row.
        protection: Its column.
        success: Fraction of the clients of which it tells what it is after.
        null: The same attack on noise in place of what the server saw.
        null_largest: The largest success of that in 1,000 runs; of a slow attack, with fewer runs on noise, the largest
            of its own guesses in 1,000 random orders of the candidates.
        psnr: Quality of pictures, in decibels; None if it rebuilds none.
    """

    attack: str
    protection: str
    success: float
    null: Interval
    null_largest: float
    psnr: float | None = None

    @property
    def leaks(self) -> bool:
        """Whether the attack does better than each of 1,000 runs of chance: wrong once in a thousand cells."""
        return self.success > self.null_largest

    def to_json(self) -> dict[str, Any]:
        """Return the cell as the command line prints it."""
        return {
            "attack": self.attack,
            "protection": self.protection,
            "success": self.success,
            "psnr": self.psnr,
            "null": asdict(self.null) | {"largest": self.null_largest},
            "leaks": self.leaks,
        }


def cells(key_bits: int, seed: int) -> Iterator[Cell]:
    """Record a round under each protection and run every attack on it.

    Args:
        key_bits: Of the Paillier key.
        seed: Decides pictures and model.
    """
    faces = _Faces(seed)
    for name, options in PROTECTIONS.items():
        settings = replace(Settings(key_bits=key_bits, seed=seed), **options)
        recorded = record_round(settings, left_out=_LEFT_OUT)
        for attack in ATTACKS:
            yield attack(recorded, name)
        yield from faces.cells(record_round(settings, faces.task), name)


def _messages(recorded: RecordedRound, name: str) -> Cell:
    """Each client's picture from its own message."""

    def told(inputs: Mapping[int, Any]) -> tuple[float, float]:
        psnr, identified, _ = quality(recorded, analytic.from_messages(inputs))
        return identified, psnr

    return _cell(recorded, "picture from a message", name, told, recorded.view.inputs)


def _sum(recorded: RecordedRound, name: str) -> Cell:
    """The clients' pictures from the sum."""

    def told(means: Mapping[int, Any]) -> tuple[float, float]:
        psnr, identified, _ = quality(recorded, analytic.from_a_sum(means[0]))
        return identified, psnr

    return _cell(recorded, "picture from the sum", name, told, {0: recorded.view.mean})


def _difference(recorded: RecordedRound, name: str) -> Cell:
    """A client's picture from two sums, of which one is without this client."""
    count = len(recorded.view.clients)

    def told(means: Mapping[int, Any]) -> tuple[float, float]:
        updates = {
            client_id: difference(means[0], count, mean, count - 1) for client_id, mean in means.items() if client_id
        }
        psnr, identified, _ = quality(recorded, analytic.from_messages(updates))
        return identified, psnr

    return _cell(recorded, "picture from two sums", name, told, {0: recorded.view.mean, **recorded.without})


def _labels_of_messages(recorded: RecordedRound, name: str) -> Cell:
    """Each client's label from its own message."""

    def told(inputs: Mapping[int, Any]) -> tuple[float, None]:
        right = [
            label(-np.asarray(update["output_bias"])) == recorded.labels[client_id]
            for client_id, update in inputs.items()
        ]
        return float(np.mean(right)), None

    return _cell(recorded, "label from a message", name, told, recorded.view.inputs)


def _labels_of_the_sum(recorded: RecordedRound, name: str) -> Cell:
    """How many clients have which label, from the sum."""
    count = len(recorded.view.clients)
    by_label = _changes_by_label(recorded)
    true = np.bincount(list(recorded.labels.values()), minlength=len(by_label))

    def told(means: Mapping[int, Any]) -> tuple[float, None]:
        counts = label_counts(means[0]["output_bias"], by_label, count)
        return float(np.minimum(counts, true).sum() / count), None

    return _cell(recorded, "labels from the sum", name, told, {0: recorded.view.mean})


def _changes_by_label(recorded: RecordedRound) -> Array:
    """Train on pictures of the adversary's own, one by one, and average the change of the last biases by label.

    The clip is public: it is applied here too.
    """
    settings = recorded.settings
    inputs, labels = recorded.task.others
    found = []
    for one in np.unique(labels):
        changes = []
        for row in np.flatnonzero(labels == one)[:_OWN_PICTURES]:
            update = recorded.task.update(inputs[row], int(one))
            norm = float(np.sqrt(sum(np.vdot(array, array) for array in update.values())))
            factor = 1.0 if settings.privacy == "none" else min(1.0, settings.clip_norm / norm)
            changes.append(factor * update["output_bias"])
        found.append(np.mean(changes, axis=0))
    return np.array(found)


def _cell(
    recorded: RecordedRound,
    attack: str,
    name: str,
    told: Callable[[Mapping[int, Any]], tuple[float, float | None]],
    seen: Mapping[int, Any],
) -> Cell:
    """Run an attack on what was seen, and on noise of the same structure."""
    success, psnr = told(seen)
    random = generator(recorded.settings.seed, f"null control of {attack}")
    null = [told({place: noise_like(update, random) for place, update in seen.items()})[0] for _ in range(_NULL_RUNS)]
    return Cell(attack, name, success, Interval.of(null), max(null), psnr)


ATTACKS = (_messages, _sum, _difference, _labels_of_messages, _labels_of_the_sum)


class _Faces:
    """Gradient inversion of rounds of faces. It is slow, so rounds of as many clients share its runs on noise."""

    def __init__(self, seed: int) -> None:
        self.task = Faces(seed)
        self._nulls: dict[tuple[str, tuple[int, ...]], list[float]] = {}

    def cells(self, recorded: RecordedRound, name: str) -> Iterator[Cell]:
        """Return the cells of one protection."""
        clients = recorded.view.clients
        first = {client_id: recorded.view.inputs[client_id] for client_id in clients[:_FACES_ATTACKED]}
        from_messages = partial(inversion.from_messages, self.task)
        yield self._cell(recorded, "face from a message", name, from_messages, first)

        def from_a_sum(means: Mapping[int, Any]) -> Array:
            return inversion.from_a_sum(self.task, means[0], clients=len(clients))

        yield self._cell(recorded, "face from the sum", name, from_a_sum, {0: recorded.view.mean})

    def _cell(
        self,
        recorded: RecordedRound,
        attack: str,
        name: str,
        rebuild: Callable[[Mapping[int, Any]], Any],
        seen: Mapping[int, Any],
    ) -> Cell:
        random = generator(recorded.settings.seed, f"null control of {attack}")
        guesses = rebuild(seen)
        psnr, success, _ = quality(recorded, guesses)
        told = named(recorded, guesses)
        key = attack, tuple(told)
        if key not in self._nulls:
            noise = [
                {place: noise_like(update, random) for place, update in seen.items()}
                for _ in range(inversion.NULL_RUNS)
            ]
            self._nulls[key] = [quality(recorded, rebuild(one))[1] for one in noise]
        by_chance = chance(told, _NULL_RUNS, random)
        return Cell(attack, name, success, Interval.of(self._nulls[key]), max(by_chance), psnr)


def table(found: list[Cell]) -> list[str]:
    """Write the matrix as lines: success in percent, and an asterisk where it is better than on noise."""
    attacks, names = list(dict.fromkeys(cell.attack for cell in found)), list(PROTECTIONS)
    by_place = {(cell.attack, cell.protection): cell for cell in found}
    width = max(map(len, attacks))
    lines = [f"{'':{width}}  " + "  ".join(f"[{number}]".rjust(6) for number in range(1, len(names) + 1))]
    for attack in attacks:
        row = [_text(by_place[attack, name]) for name in names]
        lines.append(f"{attack:{width}}  " + "  ".join(text.rjust(6) for text in row))
    lines += [f"[{number}] {name}" for number, name in enumerate(names, start=1)]
    lines.append(f"percent of clients; * better than the same attack on noise; pictures are picked out of {CANDIDATES}")
    return lines


def _text(cell: Cell) -> str:
    return f"{100 * cell.success:.0f} %{'*' if cell.leaks else ' '}"


def picture(found: list[Cell], path: Path) -> None:
    """Draw the matrix to a PNG file: the darker, the more an attack tells beyond chance.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    attacks, names = list(dict.fromkeys(cell.attack for cell in found)), list(PROTECTIONS)
    by_place = {(cell.attack, cell.protection): cell for cell in found}
    shades = np.array([[_advantage(by_place[attack, name]) for name in names] for attack in attacks])
    figure = Figure(figsize=(9, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)  # draws to memory: no window system is asked
    axis = figure.subplots()
    axis.imshow(shades, cmap="Oranges", vmin=0, vmax=1.3, aspect="auto")
    for row, attack in enumerate(attacks):
        for place, name in enumerate(names):
            axis.text(place, row, _text(by_place[attack, name]).strip(), ha="center", va="center", fontsize=10)
    axis.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], fontsize=8)
    axis.set_yticks(range(len(attacks)), attacks, fontsize=9)
    axis.set_title("What an honest server learns of clients with one picture each\n* better than on noise", fontsize=10)
    figure.savefig(path, format="png")


def _advantage(cell: Cell) -> float:
    return (cell.success - cell.null.mean) / (1 - cell.null.mean) if cell.leaks else 0.0
