"""Flower's own processes on loopback: a SuperLink, SuperNodes, and `flwr run`; all are stopped at the end."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[3]
APP = ROOT / "examples" / "flower_app"
BIN = Path(sys.executable).parent
START_SECONDS = 90
RUN_SECONDS = 420


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_until(ready: Callable[[], bool], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, f"{what}: not within {seconds} s"
        time.sleep(0.2)


def is_open(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def copy_app(folder: Path, change: Callable[[str], str] = lambda text: text) -> Path:
    """Copy the example app; `change` gets the text of each Python file."""
    copy = folder / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        path.write_text(change(path.read_text()))
    return copy


def without_secfed(text: str) -> str:
    """Take the marked lines out: what is left is an ordinary Flower app."""
    return "\n".join(line for line in text.splitlines() if not line.endswith("# secfed")) + "\n"


def superlink_command(port: int, simulation: bool) -> str:
    host = "" if simulation else " --host 0.0.0.0"  # for nodes on other machines
    command = f"flower-superlink --insecure{host} --port {port} --disable-runtime-dependency-installation"
    return f"{command} --simulation" if simulation else command


def supernode_command(superlink: str, config: str) -> str:
    return f'flower-supernode --insecure --superlink {superlink} --node-config "{config}"'


def run_command(app: Path | str, simulated_nodes: int = 0) -> str:
    command = f"flwr run {app} --stream"
    resources = f'"num-supernodes={simulated_nodes} client-resources-num-cpus=1"'
    return f"{command} --federation-config {resources}" if simulated_nodes else command


class Engine:
    """A federation on loopback.

    Args:
        folder: Where logs and Flower's files go.
        nodes: SuperNodes to start as processes, or to simulate.
        simulation: Whether the SuperLink simulates the nodes.
        partitions: Parts of the data; by default one for each node.
        node_config: More settings of each SuperNode's `--node-config`, by number from 0.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int,
        *,
        simulation: bool = False,
        partitions: int | None = None,
        node_config: Callable[[int], str] = lambda node: "",
    ) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._nodes, self._simulation, self._node_config = folder, nodes, simulation, node_config
        self._partitions = nodes if partitions is None else partitions
        self._processes: list[subprocess.Popen[bytes]] = []
        self.supernodes: list[subprocess.Popen[bytes]] = []
        home = folder / "flower"
        home.mkdir()
        self._port = free_port()
        self._environment = {
            **os.environ,
            "FLWR_HOME": str(home),
            "XDG_RUNTIME_DIR": str(home),
            "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(self._port),  # where `flwr run` looks first: 39091 by default
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        }

    def _start(self, name: str, command: str) -> "subprocess.Popen[bytes]":
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                shlex.split(str(BIN / command)),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,  # so that its children can be stopped with it
            )
        self._processes.append(process)
        return process

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def text(self, name: str) -> str:
        return self.log(name).read_text(errors="replace")

    def __enter__(self) -> Self:
        self._start("superlink", superlink_command(self._port, self._simulation))
        try:
            wait_until(lambda: is_open(self._port), START_SECONDS, "the SuperLink's port")
            for number in range(0 if self._simulation else self._nodes):
                config = f"partition-id={number} num-partitions={self._partitions} {self._node_config(number)}"
                command = supernode_command(f"127.0.0.1:{self._port}", config.strip().replace('"', '\\"'))
                self.supernodes.append(self._start(f"node{number}", f"{command} --port {free_port()}"))
            for number in range(len(self.supernodes)):
                wait_until(lambda: "SuperNode ID" in self.text(f"node{number}"), START_SECONDS, f"SuperNode {number}")  # noqa: B023
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            kill(process)

    def start_run(self, app: Path, **config: object) -> "subprocess.Popen[bytes]":
        """Start `flwr run`, whose output goes to the log `run`."""
        command = run_command(app, self._nodes if self._simulation else 0)
        if config:
            values = " ".join(f"{name.replace('_', '-')}={value}" for name, value in config.items())
            command += f' --run-config "{values}"'
        return self._start("run", command)

    def run(self, app: Path, **config: object) -> str:
        """Run an app to its end and return its output."""
        process = self.start_run(app, **config)
        return self.output(process)

    def output(self, process: "subprocess.Popen[bytes]") -> str:
        """Wait for a run's end and return its output."""
        try:
            code = process.wait(RUN_SECONDS)
        finally:
            text = self.text("run")
        assert code == 0, text
        return text


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and its children, as a machine that loses its power."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
