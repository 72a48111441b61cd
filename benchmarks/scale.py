"""Measure what a session costs each party as the clients grow, and write the tables of a page:
`python -m benchmarks.scale --write docs/scale.md`. About ten minutes with 10,000 clients.

Linux only: the kernel counts the memory.
"""

import os

# One thread for the linear algebra library: CPU seconds must mean work, not waiting threads. Before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secfed.crypto.entropy import Entropy, SeededEntropy, predictable_secrets
from secfed.secagg import Config, Server, Stage, parameters, run_session
from secfed.secagg.rehearsal import client_times

MARKER, END = "<!-- measured -->", "<!-- end of measured -->"
SESSIONS, COHORTS = (100, 1_000, 10_000), (100, 1_000, 10_000, 100_000, 1_000_000)
LENGTH = 1_000
# One client in this many falls silent, in each of the stages in turn.
SILENT = 20
CORRUPT = DROPOUTS = 1 / SILENT


@dataclass(frozen=True)
class Figures:
    """What one session cost; times are CPU seconds, memory is in bytes."""

    clients: int
    neighbors: int
    clients_seconds: float
    server_seconds: float
    bytes_up: float
    bytes_down: float
    all_memory: int
    server_memory: int
    sum_bytes: int


def config_of(clients: int, length: int) -> Config:
    """Choose neighbors and threshold for a twentieth corrupt and a twentieth silent."""
    chosen = parameters(clients=clients, corrupt_fraction=CORRUPT, dropout_fraction=DROPOUTS)
    return Config(
        range(1, clients + 1), chosen.threshold, length, 32, neighbors=chosen.neighbors, colluders=chosen.colluders
    )


def silent_of(clients: int) -> dict[int, Stage]:
    stages = (Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT_COLLECTION, Stage.UNMASKING)
    silent = range(SILENT, clients + 1, SILENT)
    return {client_id: stages[place % len(stages)] for place, client_id in enumerate(silent)}


def nonce_of(party: int) -> Entropy | None:
    """Let the server draw the same nonce twice, so that it can be run again; all else is the system's chance."""
    return None if party else SeededEntropy(bytes(32))


def memory(name: str) -> int:
    """Return what the kernel says of this process: `VmHWM` is its peak, `VmRSS` what it has now."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def whole_session(clients: int, length: int, folder: str) -> dict[str, Any]:
    """Run all parties in this process, and write what the clients answer to a file for each stage."""
    config, before = config_of(clients, length), memory("VmRSS")
    with Path(folder, "messages").open("wb") as file, predictable_secrets():

        def record(stage: Stage, direction: str, client_id: int, data: bytes) -> None:
            if direction == "to_server":
                file.write(b"".join(number.to_bytes(4, "little") for number in (stage, client_id, len(data))) + data)

        started = time.process_time()
        result = run_session(
            config,
            lambda client_id: np.full(length, client_id, np.uint32),
            dropouts=silent_of(clients),
            observer=record,
            entropies=nonce_of,
            threads=1,
        )
    seconds = time.process_time() - started
    assert (result.sum == sum(result.survivors) % (1 << 32)).all()
    np.save(Path(folder, "sum.npy"), result.sum)
    survivors = result.survivors
    return {
        "seconds": seconds,
        "memory": memory("VmHWM") - before,
        "up": sum(map(result.bytes_up.__getitem__, survivors)) / len(survivors),
        "down": sum(map(result.bytes_down.__getitem__, survivors)) / len(survivors),
    }


def server_again(clients: int, length: int, folder: str) -> dict[str, Any]:
    """Let the server alone run the same session: it is given what the clients had answered."""
    config, before, taken = config_of(clients, length), memory("VmRSS"), 0.0

    def timed(call: Callable[[], Any]) -> Any:
        nonlocal taken
        started = time.process_time()
        value = call()
        taken += time.process_time() - started
        return value

    with predictable_secrets(), Path(folder, "messages").open("rb") as file:
        server = timed(lambda: Server(config, entropy=nonce_of(0), threads=1))
        outbox = timed(server.open)
        for stage, client_id, data in messages(file):
            if server.stage is not stage:
                outbox = timed(server.close_stage)
            outbox.pop(client_id)  # sent
            assert timed(lambda: server.receive(client_id, data))  # noqa: B023
        timed(server.close_stage)
    assert np.array_equal(server.sum, np.load(Path(folder, "sum.npy")))
    return {"seconds": taken, "memory": memory("VmHWM") - before}


def messages(file: Any) -> Iterator[tuple[Stage, int, bytes]]:
    while head := file.read(12):
        stage, client_id, size = (int.from_bytes(head[i : i + 4], "little") for i in (0, 4, 8))
        yield Stage(stage), client_id, file.read(size)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measured(clients: int, length: int) -> Figures:
    """Measure one session."""
    with tempfile.TemporaryDirectory() as folder:
        whole = in_own_process(whole_session, clients, length, folder)
        server = in_own_process(server_again, clients, length, folder)
    return Figures(
        clients,
        config_of(clients, length).neighbors,
        whole["seconds"] - server["seconds"],
        server["seconds"],
        whole["up"],
        whole["down"],
        whole["memory"],
        server["memory"],
        4 * length,
    )


def one_client(clients: int, length: int) -> dict[Stage, float]:
    """Time one real client among made-up others, stage by stage."""
    client_times(Config([1, 2], 2, 1), time.process_time)  # what is loaded the first time is no work
    return client_times(config_of(clients, length), time.process_time)


def sessions(counts: list[int], length: int) -> Iterator[str]:
    heads = ("client: CPU", "up", "down", "server: CPU per client", "server: memory per client", "all in one process")
    yield f"| clients | neighbors | {' | '.join(heads)} |"
    yield "|---|---|---|---|---|---|---|---|"
    for clients in counts:
        found = measured(clients, length)
        cells = (
            f"{clients:,}",
            str(found.neighbors),
            f"{1e3 * found.clients_seconds / clients:.1f} ms",
            f"{found.bytes_up / 1e3:.1f} kB",
            f"{found.bytes_down / 1e3:.1f} kB",
            f"{1e3 * found.server_seconds / clients:.2f} ms",
            f"{(found.server_memory - found.sum_bytes) / clients / 1e3:.1f} kB",
            f"{found.all_memory / clients / 1e3:.1f} kB per client ({found.all_memory / 1e6:.0f} MB)",
        )
        yield f"| {' | '.join(cells)} |"


def cohorts(counts: list[int], length: int) -> Iterator[str]:
    yield "| clients | neighbors | AdvertiseKeys | ShareKeys | MaskedInputCollection | Unmasking | together |"
    yield "|---|---|---|---|---|---|---|"
    for clients in counts:
        times = in_own_process(one_client, clients, length)
        cells = [f"{1e3 * seconds:.1f} ms" for seconds in (*times.values(), sum(times.values()))]
        yield f"| {clients:,} | {config_of(clients, 1).neighbors} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--clients", type=int, nargs="*", default=SESSIONS, help="sizes of whole sessions")
    parser.add_argument("--cohorts", type=int, nargs="*", default=COHORTS, help="cohorts around one real client")
    parser.add_argument("--length", type=int, default=LENGTH, help="entries of a vector")
    parser.add_argument("--write", type=Path, help=f"a page whose part from {MARKER} to {END} is replaced")
    arguments = parser.parse_args()
    lines = []
    for part in (sessions(arguments.clients, arguments.length), [""], cohorts(arguments.cohorts, arguments.length)):
        for line in part:
            print(line, file=sys.stderr, flush=True)
            lines.append(line)
    table = "\n".join(lines)
    if arguments.write:
        before, rest = arguments.write.read_text().split(MARKER)
        after = rest.split(END)[1]
        arguments.write.write_text(f"{before}{MARKER}\n\n{table}\n\n{END}{after}")
    else:
        print(table)


if __name__ == "__main__":
    main()
