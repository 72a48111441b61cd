"""The matrix: every attack against every protection, each cell from a recorded round, with the same attack on noise."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.attacks import Interval, difference, label, label_counts
from secfed.cli.figures import drawing
from secfed.cli.leakage import analytic, exact, inversion, membership
from secfed.cli.leakage.reconstruction import chance, named, noise_like, quality
from secfed.cli.leakage.scenario import CANDIDATES, RecordedRound, Settings, clipped, record_round
from secfed.cli.leakage.tasks import Faces, Perceptron, WideDigits
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
_WORDS = {"plain": "plain average", "secagg": "secure aggregation", "paillier": "encrypted (Paillier)"}
# Clients whose messages are attacked by gradient inversion.
_FACES_ATTACKED = 3
# Pictures of each label that the adversary has of its own.
_OWN_PICTURES = 20
# Clients whose pictures a cell keeps.
_SHOWN = 2


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a matrix takes.

    Attributes:
        null_runs: Repetitions of a fast attack on noise, and of random orders of the candidates for a slow one.
        face_null_runs: Repetitions of gradient inversion on noise.
        face_steps: Its steps.
        exact_null_runs: Repetitions of the exact attack on noise.
        exact_attempts: Its random starts.
        left_out: How many further rounds leave out one client each, so that the server has two sums that differ by it.
        training: Of the federation that membership inference attacks: `membership.Settings`.
    """

    null_runs: int = 1000
    face_null_runs: int = inversion.NULL_RUNS
    face_steps: inversion.Steps = field(default_factory=inversion.Steps)
    exact_null_runs: int = exact.NULL_RUNS
    exact_attempts: int = exact.ATTEMPTS
    left_out: int = 3
    training: Mapping[str, Any] = field(default_factory=lambda: {"records": 400, "rounds": 10, "shadows": 32})


FULL = Effort()
QUICK = Effort(100, 1, inversion.Steps(60, 20), 1, 192, 2, {"records": 200, "rounds": 2, "shadows": 16})


@dataclass(frozen=True, slots=True)
class Cell:
    """One attack against one protection.

    Attributes:
        attack: Its row.
        protection: Its column.
        success: Fraction of the clients for which it finds what it is after.
        null: The same attack on noise in place of what the server saw.
        null_largest: The largest success on noise in 1,000 runs. A slow attack has fewer runs on noise: here it is the
            largest success of its own guesses in 1,000 random orders of the candidates. For membership it is the
            largest AUC of 99.8 % of scores that know nothing. A quick matrix has 100 runs and 98 %.
        psnr: Quality of pictures, in decibels; None if it rebuilds none.
        pictures: Pictures of the first clients, and the best guess for each, shape `(clients, 2, pixels)`; or None.
    """

    attack: str
    protection: str
    success: float
    null: Interval
    null_largest: float
    psnr: float | None = None
    pictures: Array | None = field(default=None, repr=False)

    @property
    def leaks(self) -> bool:
        """Whether the attack beats all runs by chance.

        Of cells that leak nothing, at most one in a thousand does so too, and in a quick matrix one in a hundred.
        """
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


def cells(key_bits: int, seed: int, effort: Effort = FULL) -> Iterator[Cell]:
    """Record rounds under each protection and run every attack on them.

    Args:
        key_bits: Of the Paillier key.
        seed: Decides pictures and model.
        effort: How much work to do.
    """
    faces, wide = _Faces(seed, effort), WideDigits(seed)
    for name, options in PROTECTIONS.items():
        settings = replace(Settings(key_bits=key_bits, seed=seed), **options)
        recorded = record_round(settings, left_out=effort.left_out)
        for attack in ATTACKS:
            yield attack(recorded, name, effort)
        yield _exact(wide, record_round(settings, wide), name, effort)
        yield from faces.cells(record_round(settings, faces.task), name)
        yield _member(settings, name, effort)


# What an attack finds: success, PSNR, and the best guess for each client by id.
Told = tuple[float, float | None, Mapping[int, Array]]


def _messages(recorded: RecordedRound, name: str, effort: Effort) -> Cell:
    """Each client's picture from its own message."""

    def told(inputs: Mapping[int, Any]) -> Told:
        return _pictures(recorded, analytic.from_messages(inputs))

    return _cell(recorded, "picture from a message", name, told, recorded.view.inputs, effort.null_runs)


def _sum(recorded: RecordedRound, name: str, effort: Effort) -> Cell:
    """The clients' pictures from the sum."""

    def told(means: Mapping[int, Any]) -> Told:
        return _pictures(recorded, analytic.from_a_sum(means[0]))

    return _cell(recorded, "picture from the sum", name, told, {0: recorded.view.mean}, effort.null_runs)


def _difference(recorded: RecordedRound, name: str, effort: Effort) -> Cell:
    """A client's picture from two sums, one of them without this client."""
    count = len(recorded.view.clients)

    def told(means: Mapping[int, Any]) -> Told:
        updates = {
            client_id: difference(means[0], count, mean, count - 1) for client_id, mean in means.items() if client_id
        }
        return _pictures(recorded, analytic.from_messages(updates))

    seen = {0: recorded.view.mean, **recorded.without}
    return _cell(recorded, "picture from two sums", name, told, seen, effort.null_runs)


def _exact(task: Perceptron, recorded: RecordedRound, name: str, effort: Effort) -> Cell:
    """All clients' pictures from the sum, exactly, where the hidden layer is wide; if that fails, by division."""

    def told(means: Mapping[int, Any]) -> Told:
        return _pictures(recorded, exact.from_a_sum(task, means[0], len(recorded.view.clients), effort.exact_attempts))

    seen = {0: recorded.view.mean}
    return _cell(
        recorded, "picture from the sum, wide layer", name, told, seen, effort.exact_null_runs, effort.null_runs
    )


def _member(settings: Settings, name: str, effort: Effort) -> Cell:
    """Who was trained on, from a model that was trained under the protection: AUC in place of a fraction."""
    found = membership.attack(
        membership.Settings(
            settings.clients,
            settings.aggregator,
            settings.privacy,
            key_bits=settings.key_bits,
            seed=settings.seed,
            **effort.training,
        )
    )
    lower, largest = found.lira.chance_auc(1 - 2 / effort.null_runs)
    null = found.null.auc
    return Cell("member of the model (AUC)", name, found.lira.auc, Interval(null, lower, largest), largest)


def _pictures(recorded: RecordedRound, guesses: Any) -> Told:
    psnr, identified, best = quality(recorded, guesses)
    return identified, psnr, best


def _labels_of_messages(recorded: RecordedRound, name: str, effort: Effort) -> Cell:
    """Each client's label from its own message."""

    def told(inputs: Mapping[int, Any]) -> Told:
        right = [
            label(-np.asarray(update["output_bias"])) == recorded.labels[client_id]
            for client_id, update in inputs.items()
        ]
        return float(np.mean(right)), None, {}

    return _cell(recorded, "label from a message", name, told, recorded.view.inputs, effort.null_runs)


def _labels_of_the_sum(recorded: RecordedRound, name: str, effort: Effort) -> Cell:
    """How many clients have which label, from the sum."""
    count = len(recorded.view.clients)
    by_label = _changes_by_label(recorded)
    true = np.bincount(list(recorded.labels.values()), minlength=len(by_label))

    def told(means: Mapping[int, Any]) -> Told:
        counts = label_counts(means[0]["output_bias"], by_label, count)
        return float(np.minimum(counts, true).sum() / count), None, {}

    return _cell(recorded, "labels from the sum", name, told, {0: recorded.view.mean}, effort.null_runs)


def _changes_by_label(recorded: RecordedRound) -> Array:
    """Train on the adversary's own pictures, one by one, and average the change of the last biases by label.

    The clip is public, so it is applied here too.
    """
    inputs, labels = recorded.task.others
    found = []
    for one in np.unique(labels):
        changes = []
        for row in np.flatnonzero(labels == one)[:_OWN_PICTURES]:
            changes.append(clipped(recorded.settings, recorded.task.update(inputs[row], int(one)))["output_bias"])
        found.append(np.mean(changes, axis=0))
    return np.array(found)


def _cell(
    recorded: RecordedRound,
    attack: str,
    name: str,
    told: Callable[[Mapping[int, Any]], Told],
    seen: Mapping[int, Any],
    runs: int,
    orders: int = 0,
    nulls: dict[tuple[str, int], list[float]] | None = None,
) -> Cell:
    """Run an attack on what was seen, and on noise of the same structure.

    Args:
        recorded: The round.
        attack: Name of the row.
        name: Name of the column.
        told: Runs the attack.
        seen: What it is given.
        runs: Repetitions on noise.
        orders: Random orders of the candidates, for an attack that is too slow for many runs on noise.
        nulls: Stores successes on noise, so that other cells can use them.
    """
    success, psnr, best = told(seen)
    kept: dict[tuple[str, int], list[float]] = {} if nulls is None else nulls
    key = attack, len(best)
    if key not in kept:
        kept[key] = [told(noise)[0] for noise in _noise(recorded, attack, seen, runs)]
    by_chance = kept[key]
    if orders:
        names = named(recorded, {client_id: guess[None] for client_id, guess in best.items()})
        by_chance = chance(names, orders, generator(recorded.settings.seed, f"orders of candidates for {attack}"))
    return Cell(attack, name, success, Interval.of(kept[key]), max(by_chance), psnr, _shown(recorded, best))


def _noise(recorded: RecordedRound, attack: str, seen: Mapping[int, Any], runs: int) -> Iterator[dict[int, Any]]:
    random = generator(recorded.settings.seed, f"null control of {attack}")
    for _ in range(runs):
        yield {place: noise_like(update, random) for place, update in seen.items()}


def _shown(recorded: RecordedRound, best: Mapping[int, Array]) -> Array | None:
    first = list(best)[:_SHOWN]
    return np.array([(recorded.pictures[client_id], best[client_id]) for client_id in first]) if first else None


ATTACKS = (_messages, _sum, _difference, _labels_of_messages, _labels_of_the_sum)
# Two rows more of faces, one of the wide layer, one of membership.
CELLS = (len(ATTACKS) + 4) * len(PROTECTIONS)


class _Faces:
    """Gradient inversion of rounds of faces. It is slow, so rounds of equal size share its runs on noise."""

    def __init__(self, seed: int, effort: Effort) -> None:
        self.task = Faces(seed)
        self._effort = effort
        self._nulls: dict[tuple[str, int], list[float]] = {}

    def cells(self, recorded: RecordedRound, name: str) -> Iterator[Cell]:
        """Return the cells of one protection."""
        clients, effort = recorded.view.clients, self._effort
        cell = partial(_cell, runs=effort.face_null_runs, orders=effort.null_runs, nulls=self._nulls)

        def of_messages(inputs: Mapping[int, Any]) -> Told:
            return _pictures(recorded, inversion.from_messages(self.task, inputs, effort.face_steps))

        first = {client_id: recorded.view.inputs[client_id] for client_id in clients[:_FACES_ATTACKED]}
        yield cell(recorded, "face from a message", name, of_messages, first)

        def of_a_sum(means: Mapping[int, Any]) -> Told:
            return _pictures(recorded, inversion.from_a_sum(self.task, means[0], len(clients), effort.face_steps))

        yield cell(recorded, "face from the sum", name, of_a_sum, {0: recorded.view.mean})


def by_place(found: Iterable[Cell]) -> dict[tuple[str, str], Cell]:
    """Return the cells by attack and protection."""
    return {(cell.attack, cell.protection): cell for cell in found}


def table(found: list[Cell], effort: Effort = FULL) -> list[str]:
    """Return the matrix as lines: success in percent, with an asterisk where it is better than on noise."""
    attacks, names = list(dict.fromkeys(cell.attack for cell in found)), list(PROTECTIONS)
    cell_at = by_place(found)
    width = max(map(len, attacks))
    lines = [f"{'':{width}}  " + "  ".join(f"[{number}]".rjust(6) for number in range(1, len(names) + 1))]
    for attack in attacks:
        row = [_text(cell_at[attack, name]) for name in names]
        lines.append(f"{attack:{width}}  " + "  ".join(text.rjust(6) for text in row))
    lines += [f"[{number}] {name}" for number, name in enumerate(names, start=1)]
    lines.append(f"percent of clients; pictures are picked out of {CANDIDATES}")
    lines.append("* better than the same attack on noise")
    lines.append(f"of the cells that leak nothing, chance marks at most one in {effort.null_runs:,}")
    return lines


def _text(cell: Cell) -> str:
    return f"{100 * cell.success:.0f} %{'*' if cell.leaks else ' '}"


def in_words(name: str) -> str:
    """Say a protection's name in words for a reader who does not know the options."""
    aggregator, _, rest = name.partition(", ")
    return f"{_WORDS[aggregator]}, {rest}"


def picture(found: list[Cell], path: Path) -> None:
    """Draw the matrix to a PNG file. The darker a cell, the more the attack finds beyond chance.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    attacks, names = list(dict.fromkeys(cell.attack for cell in found)), list(PROTECTIONS)
    cell_at = by_place(found)
    shades = np.array([[advantage(cell_at[attack, name]) for name in names] for attack in attacks])
    with drawing(path, 10, 5, format="png") as figure:
        axis = figure.subplots()
        axis.imshow(shades, cmap="Oranges", vmin=0, vmax=1.6, aspect="auto")
        for row, attack in enumerate(attacks):
            for place, name in enumerate(names):
                axis.text(place, row, _text(cell_at[attack, name]).strip(), ha="center", va="center")
        parts = [in_words(name).replace(", ", ",|").split("|") for name in names]
        heads = ["\n".join("\n".join(wrap(part, 14)) for part in of_one) for of_one in parts]
        axis.set_xticks(range(len(names)), heads, fontsize=9.5)
        axis.set_yticks(range(len(attacks)), attacks)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        figure.suptitle("What an honest server learns about clients with one picture each")
        axis.set_xlabel("percent of the clients; * and color: better than on noise", fontsize=10)


def advantage(cell: Cell) -> float:
    """Return how much an attack finds beyond chance, from 0 to 1."""
    return (cell.success - cell.null.mean) / (1 - cell.null.mean) if cell.leaks else 0.0
