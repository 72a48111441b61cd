"""Accuracy of private training: `python -m benchmarks.private_runs --write docs/algorithms.md` (half an hour).

No seed decides the noise, so every run gives other accuracies. The first lines compare the clients' noise with the
server's, as in the README; the table compares the algorithms.
"""

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.measure import print_or_write
from secfed.cli.algorithm_parameters import ASYNCHRONOUS, DEFAULTS
from secfed.cli.simulation.run import simulate
from secfed.cli.simulation.settings import Settings

MARKER = "<!-- table of private runs -->"
SEEDS = range(7)
RUNS = 5
BUDGET = {"epsilon": 3.0, "delta": 1e-5}


def both_kinds_of_noise() -> str:
    """Run `secfed simulate --privacy distributed --epsilon 3 --delta 1e-5` with each seed; return the means."""
    clients, server = [], []
    for seed in SEEDS:
        last = simulate(Settings.of(privacy="distributed", seed=seed, **BUDGET)).records[-1]
        assert last.central_accuracy is not None
        clients.append(last.accuracy)
        server.append(last.central_accuracy)
        print(f"seed {seed}: {clients[-1]:.3f} {server[-1]:.3f}", file=sys.stderr, flush=True)
    widest = max(abs(one - other) for one, other in zip(clients, server, strict=True))
    return (
        f"{len(SEEDS)} runs: mean accuracy {100 * statistics.mean(clients):.1f} % with the clients' noise, "
        f"{100 * statistics.mean(server):.1f} % with the server's, at most {100 * widest:.1f} points apart"
    )


def algorithms() -> str:
    """Train with each algorithm and the server's noise; return the table."""
    found = {}
    for algorithm in DEFAULTS:
        if algorithm not in ASYNCHRONOUS:
            settings = Settings.of(algorithm=algorithm, privacy="central", aggregator="plain", dropout=0.0, **BUDGET)
            found[algorithm] = [100 * simulate(settings).accuracy for _ in range(RUNS)]
            print(algorithm, found[algorithm], file=sys.stderr, flush=True)
    rows = ["| `--algorithm` | mean | lowest and highest |", "|---|---|---|"]
    for algorithm, values in sorted(found.items(), key=lambda each: -statistics.mean(each[1])):
        rows.append(f"| `{algorithm}` | {statistics.mean(values):.1f} % | {min(values):.1f} to {max(values):.1f} % |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.private_runs", description=__doc__)
    parser.add_argument("--write", type=Path, help=f"a page whose part between two lines {MARKER} is replaced")
    arguments = parser.parse_args()
    print(both_kinds_of_noise())
    print_or_write(algorithms(), arguments.write, MARKER)


if __name__ == "__main__":
    main()
