"""A session of many clients over HTTP on one machine: some vanish, dawdle or attack. What does it cost the server?

`python -m benchmarks.transport_load` runs three sessions: a quiet one, one with attackers, and one whose server is
killed with SIGKILL and started again. The server is a process of its own, with its state in a file; the clients are
real ones in a few processes. After each session the test adds the vectors of the survivors itself and compares.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import asyncio
import json
import logging
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.transport_clients import key_of, update_of, vectors_of
from secfed.aggregation import WeightedMean
from secfed.secagg import Config, Stage, parameters
from secfed.transport import Driver, HttpServer, SessionParameters, Store

ROOT = Path(__file__).parent.parent
CLIP = 4.0
GONE = ("before", "half", "slow", "after")
STAGES = {
    "semi_honest": ("ADVERTISE_KEYS", "SHARE_KEYS", "MASKED_INPUT_COLLECTION", "UNMASKING"),
    "malicious_server": (
        "ADVERTISE_KEYS",
        "SHARE_KEYS",
        "MASKED_INPUT_COLLECTION",
        "CONSISTENCY_CHECK",
        "UNMASKING",
    ),
}


@dataclass
class Load:
    """One session of the test.

    Args:
        clients: How many.
        entries: Values of an update.
        processes: Processes that run clients.
        adversary: As in `secagg.Config`.
        gone: Fraction of clients that vanish.
        hostile: Whether vanishing clients also send half messages or dawdle, others send everything twice, and
            strangers bother the server.
        kill: Whether the server is killed in the middle of a stage.
        seconds: How long each stage waits, the first one twice as long: processes start in it.
        linger: How long the server waits at the end for clients that vanished.
        seed: Decides who does what.
    """

    clients: int = 1000
    entries: int = 10_000
    processes: int = 4
    adversary: str = "semi_honest"
    gone: float = 0.2
    hostile: bool = True
    kill: bool = False
    seconds: float = 30.0
    linger: float = 10.0
    seed: int = 1


@dataclass
class Outcome:
    """What a session was.

    Attributes:
        problems: What must not happen and did.
        survivors: How many clients are in the sum.
        acknowledged: How many clients got a 2xx for their masked input.
        behavior: How many clients behaved how.
        stages: Of each stage its name, and the server's wall and CPU seconds in it.
        wall: Seconds of the whole session.
        server_cpu: CPU seconds of the server process (of both, if one was killed).
        clients_cpu: CPU seconds of all client processes.
        peak: Most memory of the server process, MiB of resident pages.
        start: Its memory before the first client, MiB.
        lag: The longest time for which the server's event loop did not run, seconds.
        latencies: Seconds that `GET /v1/session` took, again and again.
        killed: The stage in which the server was killed.
    """

    problems: list[str] = field(default_factory=list)
    survivors: int = 0
    acknowledged: int = 0
    behavior: dict[str, int] = field(default_factory=dict)
    stages: list[tuple[str, float, float]] = field(default_factory=list)
    wall: float = 0.0
    server_cpu: float = 0.0
    clients_cpu: float = 0.0
    peak: float = 0.0
    start: float = 0.0
    lag: float = 0.0
    latencies: list[float] = field(default_factory=list)
    killed: str = ""

    def __str__(self) -> str:
        lines = [
            f"  {'wrong: ' + '; '.join(self.problems) if self.problems else 'sum right, nobody lost'}"
            + (f"; killed in {self.killed}" if self.killed else ""),
            f"  clients {dict(sorted(self.behavior.items()))}, acknowledged {self.acknowledged}, "
            f"survivors {self.survivors}",
            f"  wall {self.wall:.1f} s; CPU of the server {self.server_cpu:.1f} s, of clients {self.clients_cpu:.1f} s",
            f"  memory of the server {self.start:.0f} MiB at the start, {self.peak:.0f} MiB at most",
            f"  the event loop stood still for {1000 * self.lag:.0f} ms at most",
        ]
        if len(self.latencies) > 1:
            cuts = statistics.quantiles(self.latencies, n=100)
            lines.append(
                f"  GET /v1/session: median {1000 * cuts[49]:.0f} ms, 99 % {1000 * cuts[98]:.0f} ms, "
                f"longest {1000 * max(self.latencies):.0f} ms of {len(self.latencies)}"
            )
        lines += [
            f"  {name:<24} wall {wall:6.1f} s   CPU of the server {cpu:6.1f} s" for name, wall, cpu in self.stages
        ]
        return "\n".join(lines)


def memory(what: str) -> float:
    """Return MiB of this process's resident pages: now (`VmRSS`) or at most (`VmHWM`)."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def session_of(plan: dict[str, Any]) -> SessionParameters:
    """Return what the server announces: the graph and threshold that suit 20 % of dropouts."""
    ids = range(1, plan["clients"] + 1)
    chosen = parameters(
        clients=len(ids),
        corrupt_fraction=0.05,
        dropout_fraction=plan["gone"] or 0.05,
        adversary=plan["adversary"],
        indivisible=plan["adversary"] == "malicious_server",  # clients with a roster insist on it
    )
    mean = WeightedMean.of(update_of(1, plan["entries"]), clip=CLIP, clients=len(ids))
    config = Config(
        ids,
        chosen.threshold,
        mean.length,
        mean.modulus_bits,
        neighbors=chosen.neighbors,
        colluders=chosen.colluders,
        session_colluders=chosen.session_colluders,
        adversary=plan["adversary"],
        context=mean.context,
    )
    return SessionParameters.of(bytes(32), config, mean)


def planned(load: Load, folder: Path) -> dict[str, Any]:
    """Decide who does what, and write it where the processes find it."""
    chance = Random(load.seed)
    ids = list(range(1, load.clients + 1))
    gone = chance.sample(ids, round(load.gone * len(ids)))
    stages = STAGES[load.adversary]
    behavior = {each: (chance.choice(GONE if load.hostile else GONE[:1]), chance.choice(stages)) for each in gone}
    if load.hostile:
        behavior |= {each: ("twice", "") for each in ids if each not in behavior and chance.random() < 0.25}
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    mean = WeightedMean.of(update_of(1, load.entries), clip=CLIP, clients=load.clients)
    plan = {
        "clients": load.clients,
        "entries": load.entries,
        "gone": load.gone,
        "adversary": load.adversary,
        "behavior": behavior,
        "strangers": 10 if load.hostile else 0,
        "seconds": load.seconds,
        "linger": load.linger,
        "arrive": min(load.clients / 200, load.seconds / 4),
        "port": port,
        "url": f"http://127.0.0.1:{port}",
        "dtype": "<u4" if mean.modulus_bits <= 32 else "<u8",
        "roster": {each: key_of(each).public_bytes.hex() for each in ids}
        if load.adversary == "malicious_server"
        else None,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    vectors_of(folder, plan, "w+").flush()
    return plan


def serve(folder: Path) -> None:
    """Be the server: write a line for each stage that closes, and the sum at the end."""
    plan = json.loads((folder / "plan.json").read_text())
    logging.basicConfig(filename=folder / "server.log", format="%(asctime)s %(message)s", level=logging.INFO)
    lines = (folder / "stages.jsonl").open("a", buffering=1)
    lag = 0.0

    def note(record: logging.LogRecord) -> bool:
        if getattr(record, "event", "") in ("closed", "session", "resume"):
            stage = getattr(record, "stage", "")
            now = {"wall": time.monotonic(), "cpu": time.process_time(), "peak": memory("VmHWM"), "lag": lag}
            lines.write(json.dumps({"event": record.event, "stage": stage, "pid": os.getpid(), **now}) + "\n")  # type: ignore[attr-defined]
        return True

    logging.getLogger("secfed.transport").addFilter(note)
    roster = plan["roster"] and {int(key): bytes.fromhex(value) for key, value in plan["roster"].items()}
    store = Store(folder / "state.db")
    seconds = {stage: plan["seconds"] * (1 + (stage is Stage.ADVERTISE_KEYS)) for stage in Stage if stage < Stage.DONE}
    driver = Driver(session_of(plan), store, directory=roster, timeouts=seconds, threads=2)
    start = memory("VmRSS")

    async def watch() -> None:
        nonlocal lag
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.02)
            lag = max(lag, time.monotonic() - before - 0.02)

    async def run() -> None:
        watching = asyncio.create_task(watch())
        await HttpServer(driver, port=plan["port"]).run(linger=plan["linger"])
        watching.cancel()

    asyncio.run(run())
    found: dict[str, Any] = {"failure": driver.failure, "cpu": time.process_time(), "peak": memory("VmHWM")}
    found |= {"start": start, "lag": lag, "survivors": [], "faults": len(driver.faults)}
    if not driver.failure:
        found["survivors"] = list(driver.survivors)
        np.save(folder / "sum.npy", driver.sum)
    (folder / "result.json").write_text(json.dumps(found))
    store.close()


def start_process(folder: Path, module: str, *arguments: object) -> "subprocess.Popen[bytes]":
    """Start a process of the test; what it writes goes to a file, so that no pipe fills up."""
    with (folder / "errors.log").open("ab") as errors:
        command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
        return subprocess.Popen(command, stdout=errors, stderr=errors, cwd=ROOT)


def run(load: Load, folder: Path) -> Outcome:
    """Run one session in a folder that is empty, and look at what it gave."""
    plan = planned(load, folder)
    outcome = Outcome(behavior=dict(Counter(how for how, _ in plan["behavior"].values())))
    outcome.behavior["well"] = load.clients - len(plan["behavior"])
    start = time.monotonic()
    server = start_process(folder, "transport_load", "--serve", folder)
    size = -(-load.clients // load.processes)
    crowds = [
        start_process(folder, "transport_clients", folder, first, min(first + size - 1, load.clients))
        for first in range(1, load.clients + 1, size)
    ]
    try:
        if load.kill:
            chance = Random(load.seed)
            outcome.killed = chance.choice(STAGES[load.adversary])
            _await_messages(folder, outcome.killed, round(load.clients * chance.uniform(0.1, 0.6)), server)
            server.send_signal(signal.SIGKILL)
            server.wait()
            server = start_process(folder, "transport_load", "--serve", folder)
        limit = 120 + 8 * load.seconds
        for process in (server, *crowds):
            process.wait(timeout=limit)
    finally:
        for process in (server, *crowds):
            if process.poll() is None:
                process.kill()
                process.wait()
    outcome.wall = time.monotonic() - start
    _examine(plan, folder, outcome)
    return outcome


def _await_messages(folder: Path, stage: str, messages: int, server: "subprocess.Popen[bytes]") -> None:
    """Wait until the server has accepted so many messages of a stage."""
    log = folder / "server.log"
    while not log.exists() or log.read_text().count(f"accepted stage={stage}") < messages:
        if server.poll() is not None:
            raise RuntimeError(
                f"the server ended before {messages} clients had answered {stage}: give stages more seconds"
            )
        time.sleep(0.05)


def _examine(plan: dict[str, Any], folder: Path, outcome: Outcome) -> None:
    """Hold a session against what must hold, and gather its figures."""
    if not (folder / "result.json").exists():
        outcome.problems.append("the server left no result: " + (folder / "errors.log").read_text()[-2000:])
        return
    result = json.loads((folder / "result.json").read_text())
    reports = [json.loads(path.read_text()) for path in folder.glob("clients-*.json")]
    survivors = set(result["survivors"])
    acknowledged = {each for report in reports for each in report["acknowledged"]}
    told = {int(each): found for report in reports for each, found in report["survivors"].items()}
    failed = {int(each): why for report in reports for each, why in report["failed"].items()}
    vanish = {int(each) for each, (how, _) in plan["behavior"].items() if how in GONE}
    well = set(range(1, plan["clients"] + 1)) - vanish
    outcome.survivors, outcome.acknowledged = len(survivors), len(acknowledged)
    wrong = outcome.problems
    if result["failure"]:
        wrong.append(f"the session failed: {result['failure']}")
    else:
        vectors = vectors_of(folder, plan, "r")
        total = vectors[[each - 1 for each in sorted(survivors)]].sum(axis=0, dtype=np.uint64)
        modulus_bits = session_of(plan).config.modulus_bits
        found = np.load(folder / "sum.npy").astype(np.uint64)
        if (total % np.uint64(2**modulus_bits) if modulus_bits < 64 else total).tolist() != found.tolist():
            wrong.append("the sum is not that of the survivors")
    if missing := acknowledged - survivors:
        wrong.append(f"acknowledged and not in the sum: {sorted(missing)[:5]} of {len(missing)}")
    if lost := well - survivors:
        wrong.append(f"well-behaved and not in the sum: {sorted(lost)[:5]} of {len(lost)}")
    if odd := {each: why for each, why in failed.items() if each in well}:
        wrong.append(f"{len(odd)} well-behaved clients failed: {dict(list(odd.items())[:2])}")
    if any(set(found) != survivors for found in told.values()):
        wrong.append("a client was told other survivors")
    if len(told) < len(well) - len(odd):
        wrong.append(f"{len(well) - len(told)} well-behaved clients do not know the end")
    outcome.latencies = [each for report in reports for each in report["latencies"]]
    outcome.clients_cpu = sum(report["cpu"] for report in reports)
    lines = [json.loads(line) for line in (folder / "stages.jsonl").read_text().splitlines()]
    outcome.peak = max(result["peak"], *(line["peak"] for line in lines))
    outcome.lag = max(result["lag"], *(line["lag"] for line in lines))
    outcome.start, outcome.server_cpu = result["start"], result["cpu"]
    before = lines[0]
    for line in lines[1:]:
        if line["pid"] == before["pid"]:
            outcome.stages.append((line["stage"], line["wall"] - before["wall"], line["cpu"] - before["cpu"]))
        else:
            outcome.server_cpu += before["cpu"]
        before = line


def main() -> int:
    """Run what the command line asks for, and return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each stage waits")
    parser.add_argument("--adversary", choices=sorted(STAGES), default="semi_honest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("quiet", "hostile", "kill"))
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return 0
    wrong = False
    for name, options in (
        ("quiet", {"hostile": False}),
        ("hostile", {"hostile": True}),
        ("kill", {"hostile": True, "kill": True}),
    ):
        if given.only in (None, name):
            load = Load(
                given.clients,
                given.entries,
                given.processes,
                given.adversary,
                seconds=given.seconds,
                seed=given.seed,
                **options,
            )
            with tempfile.TemporaryDirectory() as folder:
                outcome = run(load, Path(folder))
            print(f"{name}: {load.clients} clients, {load.entries} values, {load.adversary}\n{outcome}", flush=True)
            wrong |= bool(outcome.problems)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
