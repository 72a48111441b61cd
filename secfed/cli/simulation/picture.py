"""The picture of a run: accuracy, budget and clients, round by round."""

from pathlib import Path
from typing import Any

from secfed.cli.figures import AGGREGATORS, BLUE, GRAY, GREEN, ORANGE, PALE, VERMILION, drawing, round_ticks
from secfed.cli.simulation.display import threshold_lines
from secfed.cli.simulation.outcome import Outcome
from secfed.cli.simulation.settings import Settings
from secfed.dp.rounding import exact, up_to_hundredths

_NOISE = {"none": "", "central": ", the server's noise", "distributed": ", the clients' noise"}
_ALGORITHMS = {
    "fedavg": "FedAvg",
    "fedavgm": "FedAvgM",
    "fedprox": "FedProx",
    "fedadagrad": "FedAdagrad",
    "fedadam": "FedAdam",
    "fedyogi": "FedYogi",
    "fedbuff": "FedBuff",
    "fedasync": "FedAsync",
}
_TOOK_PART = "Took part"
_SURVIVED = "Survived to the sum"
_WIDTH = 7.0
# Height of a panel, and of everything around the panels; in inches.
_PANELS = {"accuracy": 2.9, "budget": 1.8, "clients": 1.8}
_AROUND = 0.9


def picture(outcome: Outcome, path: Path) -> None:
    """Draw a run to a PNG file: panels below each other that share the rounds; that of the budget only with privacy.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    settings, private = outcome.settings, outcome.epsilon is not None
    panels = {name: height for name, height in _PANELS.items() if private or name != "budget"}
    with drawing(path, _WIDTH, sum(panels.values()) + _AROUND, format="png") as figure:
        axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=list(panels.values()))
        figure.suptitle(f"{_ALGORITHMS[settings.algorithm]} on {settings.source}, {settings.clients} clients")
        _accuracy(axes[0], outcome)
        if private:
            _budget(axes[1], outcome)
        _clients(axes[-1], outcome)
        rounds = len(outcome.records)
        axes[-1].set(xlabel="Round", xlim=(0.4, rounds + 0.6))
        round_ticks(axes[-1].xaxis)


def protection(settings: Settings) -> str:
    """Say in words how the server gets the mean, and who adds noise."""
    compressed = f" ({settings.compression})" if settings.compression else ""
    if settings.aggregator == "plain" and settings.private:
        return f"Plain average{compressed}{_NOISE[settings.privacy]}"
    return AGGREGATORS[settings.aggregator] + compressed + _NOISE[settings.privacy]


def _accuracy(axis: Any, outcome: Outcome) -> None:
    settings, records = outcome.settings, outcome.records
    numbers = [record.number for record in records]

    def curve(label: str, accuracies: list[float | None], **style: Any) -> None:
        percent = [100 * (accuracy or 0.0) for accuracy in accuracies]
        axis.plot(numbers, percent, label=f"{label}: {percent[-1]:.1f} %", **style)

    if settings.protected:
        style = {"color": BLUE, "marker": "o", "zorder": 3}
        curve(protection(settings), [record.accuracy for record in records], **style)
    if outcome.central_accuracy is not None:
        style = {"color": GREEN, "linestyle": "--", "marker": "^", "zorder": 2.5}
        curve("Same budget, the server's noise", [record.central_accuracy for record in records], **style)
    # The curves may coincide; a wide line below a narrow one shows both.
    style = {"color": ORANGE, "linewidth": 6, "alpha": 0.6, "solid_capstyle": "round"}
    label = AGGREGATORS["plain"]
    if settings.algorithm != "fedavg":
        label = f"{_ALGORITHMS[settings.algorithm]} {label[0].lower()}{label[1:]}"
    curve(label, [record.plain_accuracy for record in records], **style)
    if outcome.fedavg_accuracy is not None:
        style = {"color": GRAY, "linestyle": ":", "marker": "s"}
        curve("FedAvg without protection", [record.fedavg_accuracy for record in records], **style)
    axis.set(title="Accuracy on the test rows", ylabel="Percent")
    axis.margins(y=0.08)
    round_ticks(axis.yaxis)
    axis.legend(loc="lower right")
    axis.grid()


def _budget(axis: Any, outcome: Outcome) -> None:
    settings, records = outcome.settings, outcome.records
    spent = [record.epsilon or 0.0 for record in records]
    label = f"Epsilon spent: {up_to_hundredths(spent[-1])}"
    axis.plot([record.number for record in records], spent, color=BLUE, marker="o", label=label)
    axis.axhline(settings.epsilon, color=VERMILION, linestyle="--", label=f"Budget: {exact(settings.epsilon)}")
    axis.set(title=f"Privacy budget (delta {exact(settings.delta)})", ylabel="Epsilon")
    axis.set_ylim(0, 1.15 * max(settings.epsilon, *spent))
    round_ticks(axis.yaxis, 5, whole=False)
    axis.legend(loc="lower right")
    axis.grid()


def _clients(axis: Any, outcome: Outcome) -> None:
    records = outcome.records
    numbers, most = [record.number for record in records], max(1, *(record.cohort for record in records))
    axis.bar(numbers, [record.cohort for record in records], color=PALE, label=_TOOK_PART)
    axis.bar(numbers, [record.survivors for record in records], color=BLUE, label=_SURVIVED)
    if outcome.threshold is not None:
        style = {"color": VERMILION, "linestyle": "--", "linewidth": 2.2}
        axis.axhline(outcome.threshold, label=f"Threshold: {outcome.threshold}", **style)
    elif outcome.settings.neighbors is not None:
        for line in threshold_lines(outcome.settings):  # it counts neighbors, so it cannot be a line among clients
            axis.plot([], [], " ", label=line.partition(" can ")[0].capitalize())
    failed = [record.number for record in records if record.failure]
    if failed:
        style = {"color": VERMILION, "marker": "x", "linestyle": "none", "markersize": 8, "markeredgewidth": 2}
        axis.plot(failed, [most / 8] * len(failed), label="Round failed", **style)
    axis.set(title="Clients in each round", ylabel="Clients", ylim=(0, 1.4 * most))
    round_ticks(axis.yaxis, 5)
    handles, labels = axis.get_legend_handles_labels()
    bars_first = sorted(zip(handles, labels, strict=True), key=lambda pair: pair[1] not in (_TOOK_PART, _SURVIVED))
    axis.legend(
        *zip(*bars_first, strict=True), loc="upper center", ncols=4, frameon=False, columnspacing=1.2, handlelength=1.4
    )
