"""The accountant: what it answers, how exactly and how fast, next to dp-accounting.

`python -m benchmarks --only accountant` prints its lines. To compare two versions, write what each setting got:

    python -m benchmarks.accountant --settings FILE
"""

import os

# Before numpy is imported: CPU seconds add up all threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import importlib
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import peers
from benchmarks.accountant_settings import POPULATION, Setting, curves, realistic, wide
from benchmarks.measure import Line
from benchmarks.peer_dp import WARM_UP, Groups, measured
from secfed import dp
from secfed.dp.events import Adjacency, Event

# Seconds (wall) and bytes for one query, and seconds for a thousand or more epsilons or distinct rounds.
PATIENCE, MEMORY = 20, 2 << 30
LONG_PATIENCE = 120
# Every round another cohort and another number of survivors.
DISTINCT: tuple[Groups, float] = ([(0.005 + 5e-5 * i, 0.8 + 2e-3 * i, 1) for i in range(200)], 1e-6)
# Milliseconds allowed -> epsilon, delta, rate, rounds.
Budget = tuple[float, float, float, int]
BUDGETS: tuple[tuple[int, tuple[Budget, ...]], ...] = (
    (30, ((3.0, 1e-5, 0.01, 1_000),)),
    (100, ((1.0, 1e-5, 1e-3, 100),)),
    (100, ((20.0, 1e-5, 1e-4, 1_000),)),
    (30, ((1.0, 1e-5, 1.0, 1), (8.0, 1e-6, 0.1, 500), (1.0, 1e-8, 1e-3, 10_000), (0.5, 1e-9, 1e-4, 100_000))),
)


def accountant_of(groups: Groups) -> dp.Accountant:
    """Poisson-sampled Gaussian sums, adjacency by adding or removing one client: what all peers know."""
    accountant = dp.Accountant(adjacency="add_remove")
    for rate, noise, rounds in groups:
        accountant.compose(dp.PoissonSampled(rate, dp.Gaussian(noise)), rounds)
    return accountant


def bounds_of(groups: Groups, delta: float) -> dict[str, Any]:
    lower, upper = accountant_of(groups).epsilon(delta, bounds=True)
    return {"lower": lower, "upper": upper}


def composed(setting: Setting) -> dp.Accountant:
    gaussian = dp.Gaussian(setting.noise)
    event: Event = dp.PoissonSampled(setting.rate, gaussian)
    if setting.sampling == "fixed":
        event = dp.FixedSizeSampled(setting.cohort, POPULATION, gaussian)
    return dp.Accountant(adjacency=cast(Adjacency, setting.adjacency)).compose(event, setting.rounds)


def answer(setting: Setting) -> dict[str, Any]:
    """Return the bounds of epsilon in a setting."""
    lower, upper = composed(setting).epsilon(setting.delta, bounds=True)
    return {"lower": lower, "upper": upper}


def ours(query: Callable[[], dict[str, Any]], repeats: int = 3, seconds: int = PATIENCE) -> dict[str, Any]:
    """Measure a query of ours as the peers' are: each time in a forked process, the imports warmed up before."""
    accountant_of(WARM_UP[0]).epsilon(WARM_UP[1])
    importlib.import_module("scipy.fft")  # which the lattice imports when it is first needed
    runs = [measured(query, seconds, MEMORY) for _ in range(repeats)]
    for run in runs:
        if "failure" in run:
            return run | {"cpu": math.inf, "memory": math.inf}
    costs = {
        "cpu": statistics.median(run["cpu"] for run in runs),
        "memory": statistics.median(run["memory"] for run in runs),
    }
    return runs[0] | costs


@cache
def on_realistic() -> tuple[tuple[Setting, dict[str, Any]], ...]:
    return tuple((setting, ours(lambda setting=setting: answer(setting))) for setting in realistic())


@cache
def on_wide() -> tuple[tuple[Setting, dict[str, Any]], ...]:
    return tuple((setting, ours(lambda setting=setting: answer(setting), 1)) for setting in wide())


def gap(result: dict[str, Any]) -> float:
    """(upper - lower) / upper; infinite where there is no answer."""
    if "failure" in result or not 0 <= result["lower"] <= result["upper"] < math.inf:
        return math.inf
    lower, upper = result["lower"], result["upper"]
    return 0.0 if lower == upper else (upper - lower) / upper


def at_share(values: Sequence[float], share: float) -> float:
    """Return the least value that this share of the values does not exceed."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def told(setting: Setting, result: dict[str, Any]) -> str:
    """Return a setting and what was found there."""
    found = result.get("failure", "")
    if not found:
        found = f"{result['cpu'] * 1e3:.3g} ms, epsilon {result['upper']:.4g}, gap {gap(result):.1e}"
    return f"{setting}: {found}"


def realistic_settings() -> Iterator[Line]:
    found = on_realistic()
    gaps = [gap(result) / (1e-3 if result.get("upper", math.inf) < 1e-2 else 1e-6) for _, result in found]
    answered = sum(value <= 1 for value in gaps)
    failures = sum("failure" in result for _, result in found)
    worst = found[gaps.index(max(gaps))]
    yield Line(
        f"epsilon in {len(found)} settings of DP-SGD and federated learning: answered with bounds apart by at most "
        "1e-6 of epsilon (1e-3 where it is below 0.01)",
        "100 %",
        f"{answered / len(found):.1%}",
        answered == len(found),
        f"{answered} of {len(found)}; {failures} without an answer; nearest to or farthest beyond its limit: "
        f"{told(*worst)}",
    )
    costs = [result["cpu"] * 1e3 for _, result in found]
    kinds = {
        kind: [result["cpu"] * 1e3 for setting, result in found if setting.kind == kind] for kind in ("dp-sgd", "fl")
    }
    largest = max(result["memory"] for _, result in found) / 2**20
    details = (
        "; ".join(f"{kind} {statistics.median(each):.1f} ms" for kind, each in kinds.items()),
        "; ".join(f"{kind} {at_share(each, 0.95):.1f} ms" for kind, each in kinds.items()),
        f"{told(*found[costs.index(max(costs))])}; memory {largest:.0f} MiB at most",
    )
    values = (statistics.median(costs), at_share(costs, 0.95), max(costs))
    for name, value, target, detail in zip(
        ("median", "95th percentile", "maximum"), values, (5, 30, 150), details, strict=True
    ):
        yield Line(f"one query there, {name}", f"at most {target} ms", f"{value:.1f} ms", value <= target, detail)


@cache
def beside_dp_accounting() -> tuple[tuple[Setting, dict[str, Any], dict[str, Any], dict[str, Any]], ...]:
    """Ask ours, its PLD and its RDP in turn, some settings at a time, so that a machine that drifts does not matter."""
    known = [setting for setting in realistic() if (setting.sampling, setting.adjacency) == ("poisson", "add_remove")]
    found = []
    for start in range(0, len(known), 20):
        some = known[start : start + 20]
        asked: list[tuple[Groups, float]] = [([(each.rate, each.noise, each.rounds)], each.delta) for each in some]
        mine = [ours(lambda each=each: answer(each)) for each in some]
        pld = peers.accountant("dp_accounting_pld", asked, PATIENCE)
        rdp = peers.accountant("dp_accounting_rdp", asked, PATIENCE)
        found += list(zip(some, mine, pld, rdp, strict=True))
    return tuple(found)


def against_dp_accounting() -> Iterator[Line]:
    found = beside_dp_accounting()
    pairs = [(setting, mine, pld, rdp) for setting, mine, pld, rdp in found if "failure" not in pld]
    ratios = [pld["cpu"] / mine["cpu"] for _, mine, pld, _ in pairs]
    faster = sum(ratio > 1 for ratio in ratios)
    setting, mine, pld, _ = pairs[ratios.index(min(ratios))]
    # A PLD that gives up in nearly all settings is no comparison.
    enough = len(pairs) >= len(found) / 2
    below = [1 - pld["upper"] / mine["lower"] for _, mine, pld, _ in pairs if pld["upper"] < mine.get("lower", 0)]
    silent: dict[str, int] = {}
    for _, _, other, _ in found:
        if "failure" in other:
            silent[other["failure"]] = silent.get(other["failure"], 0) + 1
    yield Line(
        f"the {len(found)} of these settings that dp-accounting knows: less CPU than its PLD (interval 1e-4)",
        "100 %",
        f"{faster / len(pairs):.1%}",
        faster == len(pairs) and enough,
        f"{faster} of the {len(pairs)} that the PLD answers (others: "
        f"{', '.join(f'{count} {failure}' for failure, count in silent.items()) or 'none'}); least ratio "
        f"{min(ratios):.2f}: {told(setting, mine)}, PLD {pld['cpu'] * 1e3:.3g} ms; its epsilon is below our lower "
        f"bound in {len(below)}{f', by up to {max(below):.0e} of it' if below else ''}",
    )
    ratio = statistics.median(ratios)
    moments = [(mine, rdp) for _, mine, _, rdp in found if "failure" not in rdp and "failure" not in mine]
    wide_by = statistics.median(rdp["upper"] / mine["upper"] - 1 for mine, rdp in moments)
    above = sum(mine["upper"] > rdp["upper"] for mine, rdp in moments)
    yield Line(
        "the same, against its PLD, median of ratios",
        "at least 20 times less CPU",
        f"{ratio:.1f} times",
        ratio >= 20 and enough,
        f"medians {statistics.median(mine['cpu'] for _, mine, _, _ in pairs) * 1e3:.1f} ms and "
        f"{statistics.median(pld['cpu'] for _, _, pld, _ in pairs) * 1e3:.0f} ms; its RDP "
        f"{statistics.median(rdp['cpu'] for _, rdp in moments) * 1e3:.1f} ms, "
        f"{statistics.median(rdp['cpu'] / mine['cpu'] for mine, rdp in moments):.1f} times ours, epsilon larger by "
        f"{wide_by:.0%} in the median, smaller than ours in {above} of {len(moments)}",
    )


def calibrated(budget: Budget) -> tuple[float, bool, str]:
    """Return the CPU seconds, whether it is the least noise that keeps the budget, to 1e-9, and the result in words."""
    epsilon, delta, rate, rounds = budget
    mine = ours(lambda: {"noise": dp.noise_multiplier(epsilon=epsilon, delta=delta, sampling_rate=rate, rounds=rounds)})
    if "failure" in mine:
        return math.inf, False, str(mine["failure"])
    noise = mine["noise"]
    enough = ours(lambda: bounds_of([(rate, noise, rounds)], delta), 1).get("upper", math.inf) <= epsilon * (1 + 1e-12)
    less = ours(lambda: bounds_of([(rate, noise * (1 - 1e-9), rounds)], delta), 1).get("lower", 0.0) > epsilon
    words = f"noise {noise:.6g}" + ("" if enough else ", budget not kept") + ("" if less else ", not shown to be least")
    return mine["cpu"], enough and less, words


def calibration() -> Iterator[Line]:
    for target, budgets in BUDGETS:
        found = [calibrated(budget) for budget in budgets]
        slowest = max(cpu for cpu, _, _ in found) * 1e3
        which = ", ".join(f"({epsilon:g}, {delta:g}, {rate:g}, {rounds:,})" for epsilon, delta, rate, rounds in budgets)
        yield Line(
            f"`dp.noise_multiplier` to 1e-9, (epsilon, delta, rate, rounds) = {which}"
            + (", the dearest" if len(budgets) > 1 else ""),
            f"at most {target} ms",
            f"{slowest:.1f} ms",
            slowest <= target and all(right for _, right, _ in found),
            "; ".join(f"{words} ({cpu * 1e3:.1f} ms)" for cpu, _, words in found),
        )


def curve_of(accountant: dp.Accountant, delta: float) -> dict[str, Any]:
    values = accountant.curve(delta)
    return {"length": len(values), "last": float(values[-1]), "rising": bool((np.diff(values) > 0).all())}


def curve() -> Iterator[Line]:
    rounds, delta = 1_000, 1e-5
    for rate, noise in ((0.01, 1.1), (1e-3, 0.8)):
        groups: Groups = [(rate, noise, rounds)]
        found = ours(lambda groups=groups: curve_of(accountant_of(groups), delta), seconds=LONG_PATIENCE)
        mine = {"length": 0, "rising": False, "last": math.nan} | found
        once = ours(lambda groups=groups: bounds_of(groups, delta))
        lower, upper = once.get("lower", math.nan), once.get("upper", math.nan)
        right = mine["length"] == rounds and mine["rising"] and lower <= mine["last"] <= upper * (1 + 1e-6)
        yield Line(
            f"`Accountant.curve`: epsilon after each of {rounds:,} rounds, rate {rate:g}, noise {noise:g}, "
            f"delta {delta:g}",
            "at most 100 ms in all",
            f"{mine['cpu'] * 1e3:.1f} ms",
            mine["cpu"] <= 0.1 and right,
            mine.get("failure", f"epsilon {mine['last']:.6f} after the last, {upper:.6f} when asked alone")
            + ("" if mine["rising"] or "failure" in mine else ", not rising"),
        )


def further_curves() -> Iterator[Line]:
    found = []
    for setting in curves():
        mine = ours(lambda setting=setting: curve_of(composed(setting), setting.delta), 1, LONG_PATIENCE)
        once = ours(lambda setting=setting: answer(setting), 1)
        lower, upper = once.get("lower", math.nan), once.get("upper", math.nan)
        right = mine.get("length") == setting.rounds and mine["rising"] and lower <= mine["last"] <= upper * (1 + 1e-4)
        found.append((mine["cpu"], right, setting, mine.get("last", math.nan), upper))
    slowest, _, which, last, alone = max(found, key=lambda each: each[0])
    wrong = [str(setting) for _, right, setting, _, _ in found if not right]
    yield Line(
        f"`Accountant.curve`, 1,000 rounds in {len(found)} further settings (rate 1e-4 to 0.1, noise 0.6 to 2, delta "
        "1e-5 and 1e-8), the slowest",
        "at most 3 s",
        f"{slowest:.2f} s",
        slowest <= 3 and not wrong,
        f"{which}: epsilon {last:.6g} after the last, {alone:.6g} when asked alone; median "
        f"{statistics.median(cpu for cpu, *_ in found):.2f} s" + (f"; wrong: {'; '.join(wrong)}" if wrong else ""),
    )


def distinct_rounds() -> Iterator[Line]:
    groups, delta = DISTINCT
    mine = ours(lambda: bounds_of(groups, delta))
    many = [(1e-3 * (1 + i / 10_000), 0.8 + 1e-4 * i, 1) for i in range(10_000)]
    more = ours(lambda: bounds_of(many, delta), 1, LONG_PATIENCE)
    took = more.get("failure", f"{more['cpu']:.2f} s")
    yield Line(
        "200 rounds with distinct rates in one composition",
        "at most 70 ms",
        f"{mine['cpu'] * 1e3:.1f} ms",
        mine["cpu"] <= 0.07,
        f"gap {gap(mine):.0e}; 10,000 distinct rounds {took}",
    )


def wide_range() -> Iterator[Line]:
    found = on_wide()

    def excess(result: dict[str, Any]) -> float:
        """Return how many times the limits of seconds and of the gap are used up, the larger of both."""
        width = gap(result)
        if width < math.inf and result["upper"] < 1e-3:
            width = (result["upper"] - result["lower"]) * 1e3
        return max(width / 1e-3, result["cpu"] / 2)

    excesses = [excess(result) for _, result in found]
    met = sum(value <= 1 for value in excesses)
    slowest = max(found, key=lambda pair: pair[1]["cpu"])
    yield Line(
        f"{len(found)} settings of a wide range (rate 1e-7 to 1, noise 0.3 to 50, up to a million rounds, delta 1e-12 "
        "to 1e-3): answered within 2 s of CPU, bounds apart by at most 1e-3 of epsilon (1e-6 where it is below 1e-3)",
        "100 %",
        f"{met / len(found):.1%}",
        met == len(found),
        f"{met} of {len(found)}; worst: {told(*found[excesses.index(max(excesses))])}; slowest: {told(*slowest)}",
    )


ALL = (
    realistic_settings,
    against_dp_accounting,
    calibration,
    curve,
    further_curves,
    distinct_rounds,
    wide_range,
)
PEERS = (against_dp_accounting,)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accountant", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--settings",
        type=Path,
        required=True,
        help="a JSON file to write: each setting with its bounds and CPU seconds",
    )
    arguments = parser.parse_args()
    rows = []
    for setting, result in (*on_realistic(), *on_wide()):
        # The time of a query that failed is not known.
        kept = ("failure",) if "failure" in result else ("lower", "upper", "cpu")
        rows.append(asdict(setting) | {name: result[name] for name in kept})
    arguments.settings.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    print(f"{len(rows)} settings written to {arguments.settings}")


if __name__ == "__main__":
    main()
