"""Compare the federated algorithms and write their table: `python -m benchmarks.algorithms --write docs/algorithms.md`.

Each one trains on digits under secure aggregation (FedAsync in the clear), with unequal clients of unequal speed. About
a quarter of an hour.
"""

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.measure import print_or_write
from secfed.cli.algorithm_parameters import ASYNCHRONOUS, DEFAULTS
from secfed.cli.simulation.outcome import Outcome
from secfed.cli.simulation.run import simulate
from secfed.cli.simulation.settings import Settings

MARKER = "<!-- table of algorithms -->"
SEEDS = (0, 1, 2)
# What the clients' data are, how many clients there are, and which part of them a round has on average: about ten.
FEDERATIONS = (
    ("alpha 0.1", {"clients": 50, "alpha": 0.1, "sampling_rate": 0.2}),
    ("alpha 0.5", {"clients": 50, "alpha": 0.5, "sampling_rate": 0.2}),
    ("13 writers", {"clients": 13, "sampling_rate": 0.77}),
)
ROUNDS = 40
SPEED_SPREAD = 0.7


def run(algorithm: str, seed: int, federation: dict[str, float]) -> Outcome:
    """Train as often as the others: a round of FedAsync is one client."""
    return simulate(
        Settings.of(
            algorithm=algorithm,
            aggregator="plain" if algorithm == "fedasync" else "secagg",
            rounds=10 * ROUNDS if algorithm == "fedasync" else ROUNDS,
            speed_spread=SPEED_SPREAD,
            dropout=0.0,
            seed=seed,
            **{
                name: value
                for name, value in federation.items()
                if not (algorithm in ASYNCHRONOUS and name == "sampling_rate")
            },
        )
    )


def cells(outcomes: list[Outcome]) -> list[str]:
    """Return rounds, time and bytes to the target and the last accuracy, over all seeds."""
    reached = [(outcome, outcome.reached) for outcome in outcomes]
    rounds = ", ".join("-" if record is None else str(record.number) for _, record in reached)
    times = [float("inf") if record is None else record.time for _, record in reached]
    volumes = [float("inf") if record is None else outcome.bytes_until(record) / 1e6 for outcome, record in reached]
    accuracy = statistics.mean(outcome.accuracy for outcome in outcomes)
    return [rounds, _median(times), _median(volumes), f"{100 * accuracy:.1f} %"]


def _median(values: list[float]) -> str:
    found = statistics.median(values)
    return "-" if found == float("inf") else f"{found:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.algorithms", description=__doc__)
    parser.add_argument("--write", type=Path, help=f"a page whose part between two lines {MARKER} is replaced")
    arguments = parser.parse_args()
    rows = [
        "| clients | `--algorithm` | rounds to 90 % | time | MB | accuracy at the end |",
        "|---|---|---|---|---|---|",
    ]
    for name, federation in FEDERATIONS:
        for algorithm in DEFAULTS:
            found = cells([run(algorithm, seed, federation) for seed in SEEDS])
            rows.append(f"| {name} | `{algorithm}` | {' | '.join(found)} |")
            print(rows[-1], file=sys.stderr, flush=True)
    print_or_write("\n".join(rows), arguments.write, MARKER)


if __name__ == "__main__":
    main()
