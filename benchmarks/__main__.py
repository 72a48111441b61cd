"""Measure everything and print one table: `python -m benchmarks` (more than half an hour).

The peers are installed apart, below `build/peers/`.
"""

import os

# One thread for the linear algebra library: CPU seconds must mean work, not waiting threads. Before numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import platform
import sys
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path

from benchmarks import accountant, encrypted_sums, large_vectors, leakage, privacy, secure_aggregation
from benchmarks.measure import Line

MARKER = "<!-- table -->"
MODULES = (secure_aggregation, large_vectors, encrypted_sums, accountant, privacy, leakage)
GROUPS = {group.__name__.removeprefix("benchmarks."): group.ALL for group in MODULES}
ALL = tuple(part for group in MODULES for part in group.ALL)
PEERS = tuple(part for group in MODULES for part in group.PEERS)


def table(lines: Iterable[Line]) -> str:
    """Write lines as a Markdown table."""
    rows = ["| what | target | found | met | figures |", "|---|---|---|---|---|"]
    rows += [
        f"| {line.what} | {line.target} | {line.found} | {'yes' if line.met else '**no**'} | {line.detail} |"
        for line in lines
    ]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--no-peers", action="store_true", help="leave out what needs a peer's environment")
    names = [*GROUPS, *(part.__name__ for part in ALL)]
    parser.add_argument("--only", nargs="*", help="names of measurements, or of a group of them", choices=names)
    parser.add_argument("--write", type=Path, help=f"a page whose part after {MARKER} is replaced")
    arguments = parser.parse_args()
    wanted = {part.__name__ for part in ALL}
    if arguments.only:
        groups = {part.__name__ for name in arguments.only for part in GROUPS.get(name, ())}
        wanted &= {*arguments.only, *groups}
    lines = []
    for part in ALL:
        if part.__name__ not in wanted or (arguments.no_peers and part in PEERS):
            continue
        for line in part():
            print(f"{line.what}: {line.found} ({line.target}) {line.detail}", file=sys.stderr, flush=True)
            lines.append(line)
    packages = ", ".join(f"{name} {version(name)}" for name in ("cryptography", "numpy", "scipy"))
    where = (
        f"{date.today()}, Python {platform.python_version()}, {packages}, {os.cpu_count()} cores, {platform.machine()}"
    )
    text = f"{table(lines)}\n\nMeasured {where}.\n"
    print(text)
    if arguments.write:
        kept, marker, _ = arguments.write.read_text().partition(MARKER)
        if not marker:
            parser.error(f"{arguments.write} has no line {MARKER}")
        arguments.write.write_text(f"{kept}{marker}\n\n{text}")


if __name__ == "__main__":
    main()
