"""Ask two versions of the accountant the same random queries, and print where their answers differ.

    git worktree add /tmp/before HEAD~5
    python -m benchmarks.compare_accountants /tmp/before . --seconds 120

Each version runs in a process of its own. Printed are intervals that do not overlap (one of the versions is wrong),
bounds that got wider, failures, and queries that got slower. The exit code is 1 if intervals do not overlap or if the
second version fails where the first one answers.
"""

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Seconds for one query.
PATIENCE = 20
# Rounding that two correct versions may differ by.
ROUNDING = 1e-12

Query = dict[str, Any]
Interval = tuple[float, float]

_KINDS = ["poisson", "poisson", "fixed", "gaussian", "laplace", "sampled laplace", "discrete laplace"]


def queries(seed: int) -> Iterator[Query]:
    """Draw queries: one kind of event, sometimes after unsampled Gaussian noise; epsilon, delta or a curve."""
    from secfed.dp.events import ADJACENCIES, ONE_SIDED

    draw = random.Random(seed)

    def log(low: float, high: float) -> float:
        return math.exp(draw.uniform(math.log(low), math.log(high)))

    while True:
        ask = draw.choice(["epsilon", "epsilon", "epsilon", "delta", "curve"])
        kind = draw.choice(_KINDS)
        yield {
            "ask": ask,
            "kind": kind,
            "adjacency": draw.choice(ADJACENCIES if kind == "fixed" else (*ADJACENCIES, *ONE_SIDED)),
            "rate": log(1e-6, 1.0),
            "noise": log(0.1 if "laplace" not in kind else 0.3, 20.0),
            "rounds": int(log(1, 40 if ask == "curve" else 1e5)),
            "before": log(1.0, 100.0) if draw.random() < 0.3 else 0.0,
            "at": log(1e-3, 10.0) if ask == "delta" else log(1e-12, 0.9),
        }


def answered(query: Query) -> list[Interval]:
    """Ask the accountant that this process imports; a curve has upper values only."""
    from secfed import dp

    gaussian = dp.Gaussian(query["noise"])
    rate, kind = query["rate"], query["kind"]
    event: dp.Event = gaussian
    if kind == "poisson":
        event = dp.PoissonSampled(rate, gaussian)
    elif kind == "fixed":
        event = dp.FixedSizeSampled(max(1, round(rate * 10**6)), 10**6, gaussian)
    elif kind == "laplace":
        event = dp.Laplace(query["noise"])
    elif kind == "sampled laplace":
        event = dp.PoissonSampled(rate, dp.Laplace(query["noise"]))
    elif kind == "discrete laplace":
        event = dp.DiscreteLaplace(query["noise"])
    accountant = dp.Accountant(query["adjacency"])
    if query["before"]:
        accountant.compose(dp.Gaussian(query["before"]))
    accountant.compose(event, query["rounds"])
    if query["ask"] == "curve":
        return [(-math.inf, float(value)) for value in accountant.curve(query["at"])]
    return [tuple(getattr(accountant, query["ask"])(query["at"], bounds=True))]


def answer_from_stdin() -> None:
    """Answer queries, one line of JSON each. Warnings count as failures."""
    warnings.simplefilter("error")

    def give_up(*_: object) -> None:
        raise TimeoutError(f"no answer in {PATIENCE} s")

    signal.signal(signal.SIGALRM, give_up)
    for line in sys.stdin:
        start = time.process_time()
        result: dict[str, Any] = {}
        signal.alarm(PATIENCE)
        try:
            result["bounds"] = answered(json.loads(line))
        except Exception as error:
            result["failure"] = repr(error)[:120]
        signal.alarm(0)
        print(json.dumps(result | {"seconds": time.process_time() - start}), flush=True)


def started(tree: Path) -> subprocess.Popen[str]:
    """Start a process that answers with the package in a source tree."""
    if not (tree / "secfed").is_dir():
        raise SystemExit(f"{tree} has no folder secfed; give the root of a source tree")
    environment = os.environ | {"PYTHONPATH": str(tree.resolve()), "OPENBLAS_NUM_THREADS": "1"}
    code = "from runpy import run_path; run_path(__import__('sys').argv[1])['answer_from_stdin']()"
    return subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).resolve())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tree,
        env=environment,
    )


def asked(process: subprocess.Popen[str], query: Query) -> dict[str, Any]:
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(query) + "\n")
    process.stdin.flush()
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Name what is different between two answers."""
    if "failure" in before or "failure" in after:
        if "failure" not in before:
            yield "fails"
        elif "failure" not in after:
            yield "answers now"
        return
    if after["seconds"] > 3 * before["seconds"] + 0.3:
        yield "slower"
    for (low, high), (least, most) in zip(before["bounds"], after["bounds"], strict=True):
        if low > most + ROUNDING * abs(most) or least > high + ROUNDING * abs(high):
            yield "contradiction"
        elif low == -math.inf:  # a point of a curve
            if most > high * (1 + 1e-4) + 1e-9:
                yield "larger"
        elif most - least > 2 * (high - low) + 1e-6 * most + 1e-300:
            yield "wider"


def main() -> int:
    """Compare two source trees and print what is different."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("before", type=Path, help="root of the first source tree")
    parser.add_argument("after", type=Path, help="root of the second source tree")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to ask (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="other queries for another seed (default: 0)")
    arguments = parser.parse_args()
    processes = [started(tree) for tree in (arguments.before, arguments.after)]
    counts, seconds, end = Counter[str](), [0.0, 0.0], time.monotonic() + arguments.seconds
    for query in queries(arguments.seed):
        if time.monotonic() > end:
            break
        first, second = (asked(process, query) for process in processes)
        seconds = [seconds[0] + first["seconds"], seconds[1] + second["seconds"]]
        found = sorted(set(differences(first, second)))
        counts.update(["queries", *found])
        if found:
            print(f"{', '.join(found)}: {json.dumps(query)}\n    {first}\n    {second}", flush=True)
    for process in processes:
        process.kill()
    print(f"{dict(counts)}; CPU seconds {seconds[0]:.1f} and {seconds[1]:.1f}")
    return 1 if counts["contradiction"] or counts["fails"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
