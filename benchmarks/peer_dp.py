"""Epsilon from other projects' accountants, and what a query costs: the peers' measurement for our benchmarks.

Runs in a peer's own environment (and must not need secfed); `benchmarks.peers.accountant` starts it:

    echo '{"settings": [[[[0.01, 1.0, 1000]], 1e-6]], "seconds": 20}' | python benchmarks/peer_dp.py dp_accounting_pld

A setting is a list of groups [sampling_rate, noise_multiplier, rounds] and a delta: Poisson sampling, adjacency by
adding or removing one client. Each query runs in a process forked for it, after one query that warms up the imports,
so no query profits from another. A short one is asked a second time there, so that what a fork costs is not counted.
`measured` is also what times our own queries. One JSON list goes to stdout.
"""

import os

# Before numpy is imported: process_time adds up all threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import json
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from time import process_time
from typing import Any

Groups = list[tuple[float, float, int]]
Query = Callable[[Groups, float], dict[str, float]]

# What a peer may take beyond its imports: 8 GiB, so that the machine survives.
MEMORY = 8 << 30
# A query that takes less CPU than this, in seconds, is asked twice; the shorter time counts.
SHORT = 0.5
WARM_UP: tuple[Groups, float] = ([(0.02, 2.0, 3)], 1e-3)


def measured(query: Callable[[], dict[str, Any]], seconds: int, memory: int = MEMORY) -> dict[str, Any]:
    """Run a query in a forked process.

    Args:
        query: The query.
        seconds: Most wall seconds that it may take.
        memory: Most bytes of data that it may hold.

    Returns:
        What the query returned, and `cpu` (CPU seconds) and `memory` (bytes by which the peak resident set grew);
        or `failure`: an exception's name and text, or "timeout" if it took more (wall) seconds than allowed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            json.dump(_limited(query, seconds, memory), pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    number = os.WTERMSIG(status)
    return {"failure": "timeout" if number == signal.SIGALRM else f"ended by signal {number}"}


def _limited(query: Callable[[], dict[str, Any]], seconds: int, memory: int) -> dict[str, Any]:
    # No limit of CPU seconds: with one, Linux counts them in ticks of some milliseconds only.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    # Linux: kibibytes; a forked process starts with what was resident at the fork.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        cpu, result = _timed(query)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if cpu < SHORT:
            # The first query in a forked process pays for copying the parent's memory.
            cpu = min(cpu, _timed(query)[0])
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {error}"[:200]}
    return result | {"cpu": cpu, "memory": 1024 * (peak - before)}


def _timed(query: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    start = process_time()
    result = query()
    return process_time() - start, result


def dp_accounting(kind: str) -> Query:
    """Google's dp-accounting with its defaults: PLD (an interval of 1e-4, said to be an upper bound) or RDP."""
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant
    from dp_accounting.rdp import RdpAccountant

    def query(groups: Groups, delta: float) -> dict[str, float]:
        accountant = PLDAccountant() if kind == "pld" else RdpAccountant()
        for rate, noise, rounds in groups:
            accountant.compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), rounds)
        return {"upper": float(accountant.get_epsilon(delta))}

    return query


def opacus() -> Query:
    """Opacus's PRV accountant with its defaults (eps_error 0.01): an upper bound."""
    from opacus.accountants import PRVAccountant

    def query(groups: Groups, delta: float) -> dict[str, float]:
        accountant = PRVAccountant()
        accountant.history = [(noise, rate, rounds) for rate, noise, rounds in groups]
        return {"upper": float(accountant.get_epsilon(delta))}

    return query


def prv() -> Query:
    """Microsoft's prv-accountant: a lower and an upper bound, with the errors that Opacus has as its defaults."""
    from prv_accountant import PRVAccountant
    from prv_accountant.privacy_random_variables import GaussianMechanism, PoissonSubsampledGaussianMechanism

    def query(groups: Groups, delta: float) -> dict[str, float]:
        rounds = [count for _, _, count in groups]
        losses = [
            PoissonSubsampledGaussianMechanism(rate, noise) if rate < 1 else GaussianMechanism(noise)
            for rate, noise, _ in groups
        ]
        accountant = PRVAccountant(losses, eps_error=0.01, delta_error=delta / 1000, max_self_compositions=rounds)
        lower, _, upper = accountant.compute_epsilon(delta, rounds)
        return {"lower": lower, "upper": upper}

    return query


ENGINES: dict[str, Callable[[], Query]] = {
    "dp_accounting_pld": lambda: dp_accounting("pld"),
    "dp_accounting_rdp": lambda: dp_accounting("rdp"),
    "opacus_prv": opacus,
    "prv_accountant": prv,
}


def main() -> None:
    asked = json.load(sys.stdin)
    # They warn about infinities in their own logarithms; what matters here is what they answer.
    warnings.simplefilter("ignore")
    query = ENGINES[sys.argv[1]]()
    query(*WARM_UP)
    results = []
    for groups, delta in asked["settings"]:
        results.append(measured(lambda groups=groups, delta=delta: query(groups, delta), asked["seconds"]))
        print(groups[:1], delta, results[-1], file=sys.stderr, flush=True)
    json.dump(results, sys.stdout)
    print()


if __name__ == "__main__":
    main()
