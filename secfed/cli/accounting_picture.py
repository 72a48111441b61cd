"""The picture of `secfed epsilon --plot`: epsilon by round, and the best membership tests at the end."""

from pathlib import Path
from typing import Any

import numpy as np

from secfed import dp
from secfed.cli.accounting import FALSE_POSITIVE_RATES, CohortSampling
from secfed.cli.figures import BLUE, GRAY, drawing, round_ticks
from secfed.dp.rounding import exact, up
from secfed.errors import SecFedError

# Up to this many rounds, epsilon is drawn after each. With more, it is drawn after this many, evenly spread.
_EACH_ROUND = 1000
_POINTS = 200
# The smallest false positive rate that is drawn.
_SMALLEST_RATE = 1e-5
_ADJACENCY = {"add_remove": "a client's data are there or not", "replace": "a client's data are replaced"}


def picture(report: dict[str, Any], sampling: CohortSampling, file: Path) -> None:
    """Draw epsilon by round, and the best tests after the last round, to a file whose ending names the format.

    Args:
        report: What `accounting.epsilon_of` returned.
        sampling: How cohorts are drawn.
        file: Ends in .pdf, .png or .svg.

    Raises:
        MissingExtraError: matplotlib is not installed.
        SecFedError: The file cannot be written.
    """
    release, rounds, delta = sampling.release(report["noise_multiplier"]), report["rounds"], report["delta"]
    accountant = dp.Accountant(adjacency=report["adjacency"])
    if rounds <= _EACH_ROUND:
        counts = list(range(1, rounds + 1))
        epsilons = list(accountant.copy().compose(release, rounds).curve(delta))
    else:
        counts = sorted({max(1, rounds * point // _POINTS) for point in range(_POINTS + 1)})
        epsilons = [accountant.copy().compose(release, count).epsilon(delta) for count in counts]
    rates = np.geomspace(_SMALLEST_RATE, 1.0, _POINTS)
    hits = accountant.compose(release, rounds).roc(rates)
    try:
        with drawing(file, 10, 4.6) as figure:
            axes, tests = figure.subplots(1, 2)
            figure.suptitle(
                f"Noise multiplier {exact(report['noise_multiplier'])}, {_cohorts(sampling)}\n"
                f"({_ADJACENCY[report['adjacency']]})"
            )
            _spent(axes, counts, epsilons, delta)
            _tests(tests, rates, hits, rounds)
    except OSError as error:
        raise SecFedError(f"cannot write {file}: {error.strerror}") from None


def _cohorts(sampling: CohortSampling) -> str:
    if sampling.cohort is not None:
        return f"{sampling.cohort:,} of {sampling.population:,} clients in each round"
    if sampling.rate == 1:
        return "all clients in each round"
    return f"each client in a round with probability {exact(sampling.rate)}"


def _spent(axis: Any, counts: list[int], epsilons: list[float], delta: float) -> None:
    axis.plot(counts, epsilons, color=BLUE, marker="o" if len(counts) == 1 else None)
    last = up(epsilons[-1], 4)
    axis.annotate(last, (counts[-1], epsilons[-1]), (-4, 6), textcoords="offset points", ha="right", va="bottom")
    axis.set(title="Epsilon spent", xlabel="Rounds", ylabel=f"Epsilon at delta {exact(delta)}")
    axis.set(xlim=(0, 1.05 * counts[-1]), ylim=(0, 1.15 * max(epsilons)))
    round_ticks(axis.yaxis, whole=False)
    round_ticks(axis.xaxis, 6)
    axis.grid()


def _tests(axis: Any, rates: Any, hits: Any, rounds: int) -> None:
    after = "after 1 round" if rounds == 1 else f"after {rounds:,} rounds"
    axis.loglog(rates, hits, color=BLUE, label=f"No test is better {after}")
    axis.loglog(rates, rates, color=GRAY, linestyle="--", label="A blind guess")
    for rate in FALSE_POSITIVE_RATES:
        axis.axvline(rate, color=GRAY, linestyle=":", linewidth=0.8)
    axis.set(title="Was this client's data used?", xlabel="False positive rate", ylabel="True positive rate")
    axis.set(xlim=(_SMALLEST_RATE, 1.0), ylim=(_SMALLEST_RATE, 1.5))
    axis.legend(loc="lower right")
    axis.grid()
