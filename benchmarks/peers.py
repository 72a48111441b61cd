"""Peers, each in a virtual environment of its own below `build/peers/`."""

import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / "build" / "peers"
# Engine in `peer_dp.py` -> its environment, and what is installed there.
ACCOUNTANTS = {
    "dp_accounting_pld": ("dp_accounting", "dp-accounting==0.6.0"),
    "dp_accounting_rdp": ("dp_accounting", "dp-accounting==0.6.0"),
    "opacus_prv": ("opacus", "opacus==1.6.0", "torch==2.13.0"),
    "prv_accountant": ("prv", "prv-accountant==0.2.0"),
}


def environment(name: str, *requirements: str, alone: Sequence[str] = ()) -> Path:
    """Return the interpreter of a peer's environment, which is made if there is none.

    Args:
        name: Of its folder.
        requirements: What is installed there, with everything that it requires.
        alone: What is installed there without what it requires.
    """
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *requirements], check=True, stdout=sys.stderr)
        if alone:
            subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *alone], check=True, stdout=sys.stderr)
        (folder / "complete").touch()
    return python


def flower(*arguments: str) -> dict[str, Any]:
    """Measure Flower's own client or session code; see `peer_flower.py`."""
    python = environment("flower", "flwr==1.41.0", "numpy")
    command = [str(python), str(HERE / "peer_flower.py"), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def heu(key_bits: int, count: int) -> dict[str, float]:
    """Measure HEU's z-paillier, CPU seconds of one operation; see `peer_heu.py`."""
    python = environment("heu", "sf-heu==0.5.2b0")
    command = [str(python), str(HERE / "peer_heu.py"), str(key_bits), str(count)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def accountant(engine: str, settings: Sequence[tuple[Any, float]], seconds: int) -> list[dict[str, Any]]:
    """Ask another project's accountant for epsilons; see `peer_dp.py`.

    Args:
        engine: A name in `ACCOUNTANTS`.
        settings: Groups of (sampling_rate, noise_multiplier, rounds), and delta.
        seconds: CPU seconds allowed for each.
    """
    python = environment(*ACCOUNTANTS[engine])
    asked = json.dumps({"settings": settings, "seconds": seconds})
    command = [str(python), str(HERE / "peer_dp.py"), engine]
    done = subprocess.run(
        command, input=asked, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def torch_inversion(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Search for a picture by its gradient in PyTorch; see `peer_torch.py`.

    Args:
        arrays: `"gradient NAME"` and `"parameter NAME"` for each parameter, and `"start"`: picture and logits.

    Returns:
        For the searches `"scipy"` and `"torch"`: CPU seconds, evaluations, the picture and the label.
    """
    python = environment("torch", "torch==2.13.0", "numpy", "scipy")
    stored = io.BytesIO()
    np.savez(stored, **arrays)
    command = [str(python), str(HERE / "peer_torch.py")]
    done = subprocess.run(
        command, input=stored.getvalue(), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    results: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def breaching(attack: str, overrides: Sequence[str], arrays: Mapping[str, npt.ArrayLike]) -> dict[str, Any]:
    """Attack a gradient with breaching; see `peer_breaching.py`.

    Args:
        attack: `"deepleakage"` or `"invertinggradients"`.
        overrides: Settings in place of breaching's own, such as `"optim.max_iterations=500"`.
        arrays: `"gradient NAME"` and `"parameter NAME"` for each parameter, `"picture"`, `"label"` and `"seed"`.

    Returns:
        CPU seconds in all, and until the search first had 55 dB (None: never); evaluations; the picture.
    """
    # Without its requirements torchvision and lpips, which these attacks do not use.
    needed = ("torch==2.13.0", "numpy", "scipy", "hydra-core", "omegaconf")
    python = environment("breaching", *needed, alone=("breaching==0.1.2",))
    stored = io.BytesIO()
    np.savez(stored, **arrays)
    command = [str(python), str(HERE / "peer_breaching.py"), attack, *overrides]
    done = subprocess.run(
        command, input=stored.getvalue(), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
