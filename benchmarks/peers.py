"""Peers, each in a virtual environment of its own below `build/peers/`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / "build" / "peers"


def environment(name: str, *requirements: str) -> Path:
    """Return the interpreter of a peer's environment; make it where there is none."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True, stdout=sys.stderr)
        (folder / "complete").touch()
    return python


def flower(*arguments: str) -> dict[str, Any]:
    """Measure Flower's own client or session code; see `peer_flower.py`."""
    python = environment("flower", "flwr==1.41.0", "numpy")
    command = [str(python), str(HERE / "peer_flower.py"), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
