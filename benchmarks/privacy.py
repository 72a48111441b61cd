"""Privacy accounting, how exact, and exact noise: against a reference, other accountants and a central Gaussian."""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.accountant import DISTINCT, PATIENCE, bounds_of, gap, ours
from benchmarks.measure import Line, cpu
from benchmarks.peer_dp import Groups
from secfed import dp
from secfed.dp.events import Adjacency, Event
from secfed.dp.noise import distributed, samplers
from secfed.encoding.conditional_rounding import Lattice, clip_by_norm
from secfed.encoding.rotation import Rotation

VECTORS = Path(__file__).parent.parent / "protocols" / "dp" / "vectors" / "epsilon.json"

# (rounds, delta) -> sampling rate -> the noise multipliers that give an epsilon of 0.5, 1, 3 and 8, to three digits:
# budgets that people state, from a cohort of 1 in 10,000 to 1 in 10.
NOISE = {
    (100, 1e-5): {
        1e-4: (0.448, 0.414, 0.352, 0.276),
        1e-3: (0.645, 0.577, 0.461, 0.341),
        1e-2: (1.15, 0.904, 0.65, 0.466),
        1e-1: (7.22, 3.94, 1.68, 0.937),
    },
    (1_000, 1e-6): {
        1e-4: (0.558, 0.511, 0.427, 0.327),
        1e-3: (0.791, 0.697, 0.552, 0.411),
        1e-2: (2.71, 1.57, 0.866, 0.617),
        1e-1: (25.6, 13.5, 4.99, 2.22),
    },
    (10_000, 1e-8): {
        1e-4: (0.693, 0.63, 0.523, 0.396),
        1e-3: (1.24, 0.879, 0.674, 0.511),
        1e-2: (10.1, 5.29, 1.97, 1.01),
        1e-1: (101.0, 52.8, 18.6, 8.0),
    },
}
GRID: list[tuple[Groups, float]] = [
    ([(rate, noise, rounds)], delta)
    for (rounds, delta), by_rate in NOISE.items()
    for rate, noises in by_rate.items()
    for noise in noises
]
PEERS_NAMES = {
    "dp_accounting_pld": "dp-accounting PLD",
    "dp_accounting_rdp": "dp-accounting RDP",
    "opacus_prv": "Opacus PRV",
    "prv_accountant": "prv-accountant",
}
RANDOM_SETTINGS = 400


@cache
def on_the_grid() -> list[dict[str, Any]]:
    return [ours(lambda groups=groups, delta=delta: bounds_of(groups, delta)) for groups, delta in (*GRID, DISTINCT)]


@cache
def at_random() -> list[dict[str, Any]]:
    """Settings drawn evenly, on a logarithmic scale, from all that the accountant must answer."""
    generator = np.random.default_rng(3)
    population = 10**6

    def draw(low: float, high: float) -> float:
        return float(np.exp(generator.uniform(math.log(low), math.log(high))))

    results = []
    for i in range(RANDOM_SETTINGS):
        rate, noise, rounds, delta = draw(1e-6, 1), draw(0.05, 1000), round(draw(1, 1e6)), draw(1e-30, 0.5)
        adjacency: Adjacency = "replace" if i % 2 else "add_remove"
        gaussian = dp.Gaussian(noise)
        event: Event = dp.PoissonSampled(rate, gaussian)
        if i % 4 >= 2:
            event = dp.FixedSizeSampled(max(1, round(rate * population)), population, gaussian)

        def query(
            adjacency: Adjacency = adjacency, event: Event = event, rounds: int = rounds, delta: float = delta
        ) -> dict[str, Any]:
            lower, upper = dp.Accountant(adjacency=adjacency).compose(event, rounds).epsilon(delta, bounds=True)
            return {"lower": lower, "upper": upper}

        results.append(ours(query, 1) | {"setting": f"{event} x {rounds}, {adjacency}, delta {delta:.1e}"})
    return results


def certified_gap() -> Iterator[Line]:
    results = at_random()
    gaps = [gap(result) for result in results]
    widest = max(gaps)
    worst = results[gaps.index(widest)]
    typical = statistics.median(gaps)
    failures = sum("failure" in result for result in results)
    yield Line(
        f"certified gap of epsilon, {len(results)} random settings (rate 1e-6 to 1, noise 0.05 to 1000, up to a "
        "million rounds, delta down to 1e-30)",
        "at most 1e-6, typically 1e-9",
        f"{widest:.1e}, median {typical:.1e}",
        widest <= 1e-6 and typical <= 1e-9,
        f"{failures} without an answer; widest: {worst['setting']} {worst.get('failure', '')}".strip(),
    )
    slowest = max(result["cpu"] for result in results) * 1e3
    largest = max(result["memory"] for result in results) / 2**20
    yield Line(
        "the dearest query there",
        "at most 100 ms and 50 MiB",
        f"{slowest:.0f} ms, {largest:.0f} MiB",
        slowest <= 100 and largest <= 50,
        f"median {statistics.median(result['cpu'] for result in results) * 1e3:.1f} ms",
    )


def truth_inside() -> Iterator[Line]:
    cases = json.loads(VECTORS.read_text())["result"]["cases"]
    outside, widest = [], (0.0, "")
    for case in cases:
        accountant = dp.Accountant(adjacency=case["adjacency"])
        for event, count in case["events"]:
            accountant.compose(dp.events.from_json(event), count)
        ask, given = (
            (accountant.epsilon, case["delta"]) if case["query"] == "epsilon" else (accountant.delta, case["epsilon"])
        )
        try:
            lower, upper = ask(float(given), bounds=True)
        except Exception as failure:  # the table must say so, not stop
            outside.append(f"{case['name']} ({type(failure).__name__})")
            continue
        truth, error = Decimal(case[case["query"]]), Decimal(case["error"])
        if not Decimal(lower) - error <= truth <= Decimal(upper) + error:
            outside.append(case["name"])
        widest = max(widest, (gap({"lower": lower, "upper": upper}), case["name"]))
    yield Line(
        f"the {len(cases)} answers of the high-precision reference (`protocols/dp`): outside our bounds",
        "none",
        f"{len(outside)} of {len(cases)}",
        not outside,
        "; ".join([*outside, f"widest gap {widest[0]:.0e} ({widest[1]})"]),
    )


def accuracy_against_peers() -> Iterator[Line]:
    results = on_the_grid()
    wrong, notes = 0, []
    for engine, name in PEERS_NAMES.items():
        theirs = peers.accountant(engine, [*GRID, DISTINCT], PATIENCE)
        pairs = [
            (mine, other)
            for mine, other in zip(results, theirs, strict=True)
            if "failure" not in other and "failure" not in mine
        ]
        low = [1 - other["upper"] / mine["lower"] for mine, other in pairs if other["upper"] < mine["lower"]]
        wide = statistics.median(other["upper"] / mine["upper"] - 1 for mine, other in pairs)
        wrong += sum(mine["upper"] < other.get("lower", 0.0) for mine, other in pairs)
        if engine == "dp_accounting_rdp":
            wrong += sum(mine["upper"] > other["upper"] for mine, other in pairs)
        note = f"{name} {wide:+.1e}"
        if low:
            note += f" but {len(low)} below the truth by up to {max(low):.0e}"
        if len(pairs) < len(results):
            note += f", {len(results) - len(pairs)} without an answer"
        note += f", the distinct rounds {theirs[-1]['cpu']:.1f} s" if "cpu" in theirs[-1] else ""
        notes.append(note)
    wrong += sum("failure" in mine for mine in results)
    yield Line(
        f"{len(GRID)} settings of stated budgets, and 200 distinct rounds, in which ours is below prv-accountant's "
        "lower bound, or above RDP",
        "none",
        f"{wrong} of {len(results)}",
        wrong == 0,
        "claimed upper bounds against ours, median: " + "; ".join(notes),
    )


def distributed_gaussian() -> Iterator[Line]:
    clients, dimension, clip_norm, delta = 100, 1 << 16, 1.0, 1e-5
    # All clients' updates alike: the sum is then as large as it can be, and wraps soonest.
    update = np.random.default_rng(0).normal(size=dimension)
    update = clip_by_norm(2 * update / np.linalg.norm(update), clip_norm)
    for bits, target in ((14, 1.10), (16, 1.02)):
        ratios = {}
        for epsilon in (1.0, 5.0):
            noise_multiplier = dp.noise_multiplier(epsilon=epsilon, delta=delta)
            plan = distributed.choose(
                clients=clients, threshold=clients, dimension=dimension, clip_norm=clip_norm,
                noise_multiplier=noise_multiplier, bits=bits,
            )  # fmt: skip
            spent = dp.Accountant(adjacency="add_remove").compose(plan.event(clients)).epsilon(delta)
            assert spent <= epsilon + 2e-9, spent
            errors = [distributed_error(plan, update) for _ in range(5)]
            ratios[epsilon] = statistics.mean(errors) / (noise_multiplier * clip_norm) ** 2
        yield Line(
            f"distributed discrete Gaussian, {clients} clients x 2^16 equal updates, {bits} bits: squared error "
            "against a central Gaussian of equal epsilon and delta",
            f"at most {target:.2f} times",
            f"{max(ratios.values()):.3f} times",
            max(ratios.values()) <= target,
            ", ".join(f"{ratio:.3f} at epsilon {epsilon:g}" for epsilon, ratio in ratios.items()),
        )


def distributed_error(plan: distributed.NoisePlan, update: np.ndarray) -> float:
    """Return the mean squared error of a sum in which every client has the same update, through all steps."""
    rotation = Rotation(plan.dimension, os.urandom(32))
    lattice = Lattice(plan.step, plan.clip_norm, plan.dimension)
    rotated = rotation.rotate(update)
    total = np.zeros(plan.dimension, np.int64)
    for _ in range(plan.clients):
        total += lattice.round(rotated, seed=os.urandom(32))
        for variance in plan.noise.variances:
            total += samplers.discrete_gaussian(variance, plan.dimension, os.urandom(32))
        total &= (1 << plan.modulus_bits) - 1
    centred = total - ((total >> (plan.modulus_bits - 1)) << plan.modulus_bits)
    found = rotation.rotate_back(lattice.decode(centred))
    return float(np.square(found - plan.clients * update).mean())


def exact_sampler() -> Iterator[Line]:
    size = 1 << 22
    speeds, building = {}, []
    for deviation in (1, 3, 10, 30, 100, 300, 1000):
        variance = float(deviation**2)
        building.append(cpu(lambda variance=variance: samplers.discrete_gaussian(variance, 1, bytes(32))))
        seconds = statistics.median(
            cpu(lambda variance=variance: samplers.discrete_gaussian(variance, size, os.urandom(32))) for _ in range(5)
        )
        speeds[deviation] = size / seconds
    slowest = min(speeds.values())
    yield Line(
        "exact discrete Gaussian, one core, standard deviations 1 to 1000",
        "at least 3e7 samples/s",
        f"{slowest:.1e}/s",
        slowest >= 3e7,
        ", ".join(f"{speed:.1e} at {deviation}" for deviation, speed in speeds.items())
        + f"; tables made once, {max(building):.2f} s at most",
    )


def importing() -> Iterator[Line]:
    def seconds(module: str) -> float:
        code = f"import time; start = time.process_time(); import {module}; print(time.process_time() - start)"
        command = [sys.executable, "-c", code]
        return statistics.median(float(subprocess.check_output(command)) for _ in range(7))

    found, bare = seconds("secfed.dp"), seconds("numpy")
    yield Line(
        "`import secfed.dp` in a fresh process",
        "at most 0.3 s of CPU",
        f"{found:.2f} s",
        found <= 0.3,
        f"numpy alone {bare:.2f} s",
    )


ALL = (
    certified_gap,
    truth_inside,
    accuracy_against_peers,
    distributed_gaussian,
    exact_sampler,
    importing,
)
PEERS = (accuracy_against_peers,)
