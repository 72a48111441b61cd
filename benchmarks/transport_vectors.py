"""Peak memory, CPU and wall time of one session over HTTP with long vectors: `secfed serve` and three `secfed join`.

Each command is a process of its own. A session with 1,000 entries gives what the programs take anyway; the table shows
what a session takes beyond that. Run `python -m benchmarks.transport_vectors 10000000`.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASELINE = 1_000
MAKE = """
import sys
import numpy as np
entries, clients = int(sys.argv[1]), int(sys.argv[2])
np.savez("model.npz", w=np.zeros(entries, np.float32))
for i in range(1, clients + 1):
    np.savez(f"update-{i}.npz", w=np.random.default_rng(i).uniform(-1, 1, entries).astype(np.float32))
"""


def session(entries: int, clients: int, folder: Path, state: bool) -> dict[str, list[float]]:
    """Run one session; return peak MiB, CPU seconds and wall seconds of the server and of the costliest client."""
    subprocess.run([sys.executable, "-c", MAKE, str(entries), str(clients)], cwd=folder, check=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    secfed = [sys.executable, "-m", "secfed"]
    serve = [*secfed, "serve", "--like", "model.npz", "--clients", str(clients), "--port", str(port), "--json"]
    commands = {"server": [*serve, "--timeout", "600", *(("--state", "server.db") if state else ())]}
    for i in range(1, clients + 1):
        join = [*secfed, "join", f"http://127.0.0.1:{port}", f"update-{i}.npz", "--id", str(i), "--clip", "4"]
        commands[f"client {i}"] = [*join, *(("--state", f"client-{i}.db") if state else ())]
    start, running, found = time.monotonic(), {}, {}
    with (folder / "log").open("wb") as log:
        for name, command in commands.items():
            output = subprocess.PIPE if name == "server" else log
            running[name] = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=log)
        stdout = running["server"].stdout
        assert stdout is not None
        output_text = stdout.read()
        for name, process in running.items():
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(f"{name} ended with {process.returncode}:\n{(folder / 'log').read_text()[-3000:]}")
            found[name] = [usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime, time.monotonic() - start]
    if json.loads(output_text)["survivors"] != list(range(1, clients + 1)):
        sys.exit(f"not everybody is in the sum: {output_text!r}")
    others = [found[name] for name in found if name != "server"]
    return {"server": found["server"], "client": [max(column) for column in zip(*others, strict=True)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("entries", type=int, nargs="+")
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--state", action="store_true", help="with --state files for the server and the clients")
    options = parser.parse_args()
    rows = {}
    for entries in (BASELINE, *options.entries):
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            rows[entries] = session(entries, options.clients, Path(folder), options.state)
    for entries in options.entries:
        for role in ("server", "client"):
            memory, cpu, wall = rows[entries][role]
            more = memory - rows[BASELINE][role][0]
            vectors = more * 2**20 / (4 * entries)
            print(
                f"{entries:>12,} {role}: {more:,.0f} MiB ({vectors:.1f} times 4 bytes an entry), {cpu:.1f} s CPU,",
                end=" ",
            )
            print(f"{wall:.1f} s wall")


if __name__ == "__main__":
    main()
