"""Sessions of 10^7 and 10^8 entries, each party in a process of its own: CPU seconds, bytes and peak memory.

`python -m benchmarks --only large_vectors` runs them; the rest of this file is what runs in the parties' processes.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmarks.measure import Line
from secfed import aggregation, secagg
from secfed.secagg import Stage

MIB = 1 << 20
CLIENTS, BITS = 4, 32
GONE = 4  # falls silent before it sends its masked vector
READ_BYTES = MIB  # what a transport hands on at a time
LENGTHS = (10**7, 10**8)


class Meter:
    """CPU seconds of what is called through it, and peak memory since it was made, less what there was before."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here (Linux)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time()
        try:
            return function(*arguments)
        finally:
            self.seconds += time.process_time() - start

    def report(self) -> dict[str, float]:
        return {"seconds": self.seconds, "memory": _memory("VmHWM") - self._before}


def _memory(name: str) -> int:
    """Return a figure of this process in bytes, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def configuration(length: int) -> secagg.Config:
    return secagg.Config(range(1, CLIENTS + 1), CLIENTS - 1, length, BITS)


def values(client_id: int, length: int) -> np.ndarray:
    """A client's vector, made block by block: no second one is in memory."""
    vector = np.arange(length, dtype=np.uint32)
    vector *= np.uint32(2_654_435_761)
    vector += np.uint32(client_id)
    return vector


# On the pipes each piece of a message goes behind its length; a piece of no bytes ends the message.


def send(stream: BinaryIO, piece: bytes) -> None:
    stream.write(len(piece).to_bytes(8, "little"))
    stream.write(piece)
    if not piece:
        stream.flush()


def pieces(stream: BinaryIO) -> Iterator[bytes]:
    while left := int.from_bytes(stream.read(8), "little"):
        while left:
            piece = stream.read(min(left, READ_BYTES))
            left -= len(piece)
            yield piece


def client(client_id: int, length: int, chunked: bool) -> None:
    """Answer requests from standard input until one is empty, then report."""
    config, source, sink = configuration(length), sys.stdin.buffer, sys.stdout.buffer
    meter, sent = Meter(), 0
    options = {"copy": False} if chunked else {}
    party = secagg.Client(config, client_id, lambda: values(client_id, length), threads=1, **options)
    while request := b"".join(pieces(source)):
        answer = meter(party.receive_chunks, request) if chunked else iter([meter(party.receive, request)])
        while chunk := meter(next, answer, b""):
            sent += len(chunk)
            send(sink, chunk)
            del chunk
        send(sink, b"")
    send(sink, json.dumps({**meter.report(), "sent": sent}).encode())
    send(sink, b"")


def server(length: int, chunked: bool) -> None:
    """Run a session with clients in processes of their own, and print what each party reports."""
    arguments = [str(length), str(int(chunked))]
    parties = {i: _start("client", str(i), *arguments, stdin=subprocess.PIPE) for i in range(1, CLIENTS + 1)}
    config = configuration(length)
    meter = Meter()
    party = secagg.Server(config, threads=1)
    outbox = meter(party.open)
    while not party.done:
        for client_id, request in outbox.items():
            if client_id == GONE and party.stage is Stage.MASKED_INPUT_COLLECTION:
                continue
            send(parties[client_id].stdin, request)
            send(parties[client_id].stdin, b"")
            if chunked:
                upload = party.upload(client_id)
                for piece in pieces(parties[client_id].stdout):
                    meter(upload.write, piece)
                meter(upload.finish)
            else:
                whole = bytearray()
                for piece in pieces(parties[client_id].stdout):
                    whole += piece
                meter(party.receive, client_id, whole)
                del whole
        outbox = meter(party.close_stage)
    found = meter.report()
    expected = sum(values(i, length) for i in party.survivors)
    if (party.sum != expected).any():
        raise RuntimeError("the sum is wrong")
    reports = []
    for client_id in party.survivors:
        send(parties[client_id].stdin, b"")
        reports.append(json.loads(b"".join(pieces(parties[client_id].stdout))))
    parties[GONE].kill()
    print(json.dumps({"server": found, "clients": reports}))


def encoding(length: int, chunked: bool) -> None:
    """Encode a float32 update, and print what it took in addition to the update and its vector."""
    update = np.full(length - 1, 0.125, np.float32)
    transform = aggregation.WeightedMean.of(update, clip=1.0, clients=CLIENTS, max_weight=1)
    meter = Meter()
    vector = meter(transform.encode, update, 1)
    print(json.dumps({**meter.report(), "vector": vector.nbytes}))


def _start(*arguments: str, stdin: int | None = None) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "benchmarks.large_vectors", *arguments]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE)


@cache
def measured(role: str, length: int, chunked: bool) -> dict[str, Any]:
    """Run a process to its end and return what it printed."""
    process = _start(role, str(length), str(int(chunked)))
    text, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{role} at {length} entries ended with {process.returncode}")
    found: dict[str, Any] = json.loads(text)
    return found


def beyond(found: dict[str, Any], length: int, vectors: int) -> str:
    return f"{(found['memory'] - 4 * length * vectors) / MIB:.1f} MiB"


def session() -> Iterator[Line]:
    for length in LENGTHS:
        chunks, whole = (measured("server", length, chunked) for chunked in (True, False))
        one, other = (max(found["clients"], key=lambda each: each["memory"]) for found in (chunks, whole))
        extra = one["memory"] - 4 * length
        yield Line(
            f"a client's memory, {length:,} entries of {BITS} bits, {CLIENTS} clients, in chunks: beyond its vector",
            "at most 16 MiB",
            f"{extra / MIB:.1f} MiB",
            extra <= 16 * MIB,
            f"{one['seconds']:.2f} s CPU, {one['sent'] / 1e6:.0f} MB sent; whole messages: "
            f"{(other['memory'] - 4 * length) / MIB:.0f} MiB, {other['seconds']:.2f} s",
        )
        ours, theirs = chunks["server"], whole["server"]
        yield Line(
            f"the server's memory in that session, {length:,} entries, 1 dropout",
            "at most 2 vectors",
            f"{ours['memory'] / (4 * length):.2f} vectors",
            ours["memory"] <= 8 * length,
            f"{ours['memory'] / MIB:.0f} MiB, {ours['seconds']:.2f} s CPU; whole messages: "
            f"{theirs['memory'] / (4 * length):.2f} vectors, {theirs['seconds']:.2f} s",
        )


def encoding_memory() -> Iterator[Line]:
    for length in LENGTHS:
        found = measured("encoding", length, True)
        extra = found["memory"] - found["vector"]
        yield Line(
            f"a weighted mean's vector from a float32 update, {length:,} entries: memory beyond both",
            "at most 16 MiB",
            f"{extra / MIB:.1f} MiB",
            extra <= 16 * MIB,
            f"{found['seconds']:.2f} s CPU",
        )


ALL = (session, encoding_memory)
PEERS = ()

if __name__ == "__main__":
    role, *numbers, chunks = sys.argv[1:]
    {"client": client, "server": server, "encoding": encoding}[role](*map(int, numbers), chunks == "1")
