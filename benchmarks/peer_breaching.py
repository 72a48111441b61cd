"""The attacks of breaching, a library in PyTorch: the peer's measurement for our benchmarks.

Runs in the peer's own environment (and must not need secfed); `benchmarks.peers.breaching` starts it. The arguments are
the name of the attack and settings in place of breaching's own for it, such as `optim.max_iterations=500`. On stdin it
takes what `numpy.savez` wrote: a seed, the parameters of a network, a picture and its label, and the gradient of that
picture. breaching works in float32.

breaching has neither of our two networks (its LeNet takes 32 x 32 pixels), so the same layers are built here, and the
parameters are loaded into them. The script stops if the gradient of the picture is not the one given, up to 1e-5 of
its norm. Apart from that, the picture only serves to note when the search first had it at 55 dB.

One JSON object goes to stdout.
"""

import os

# Before numpy is imported: process_time adds up all threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import contextlib
import io
import json
import sys
from time import process_time
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.nn import Conv2d, CrossEntropyLoss, Flatten, Linear, Module, ReLU, Sequential, Sigmoid

torch.set_num_threads(1)
CLASSES, REACHED = 10, 10**-5.5  # mean squared error at 55 dB


def without_torchvision() -> None:
    """Let breaching be imported without torchvision: the attacks use none of it.

    The import needs one class of it, which a DenseNet inherits from.
    """
    for name in ("torchvision", "torchvision.transforms", "torchvision.models", "torchvision.models.densenet"):
        parent, _, own = name.rpartition(".")
        sys.modules[name] = ModuleType(name)
        if parent:
            setattr(sys.modules[parent], own, sys.modules[name])
    sys.modules["torchvision.models.densenet"]._DenseLayer = Module  # type: ignore[attr-defined]


without_torchvision()
import breaching  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402


def lenet() -> Sequential:
    return Sequential(
        Conv2d(1, 12, 5, 2, 2), Sigmoid(), Conv2d(12, 12, 5, 2, 2), Sigmoid(), Conv2d(12, 12, 5, 1, 2), Sigmoid(),
        Flatten(), Linear(588, CLASSES),
    )  # fmt: skip


def convolutions() -> Sequential:
    return Sequential(
        Conv2d(3, 32, 3, 1, 1), ReLU(), Conv2d(32, 32, 3, 2, 1), ReLU(), Conv2d(32, 64, 3, 2, 1), ReLU(), Flatten(),
        Linear(4096, CLASSES),
    )  # fmt: skip


def float32(array: Any) -> torch.Tensor:
    return torch.tensor(array, dtype=torch.float32)


def attacked(stored: Any, attack: str, overrides: list[str]) -> dict[str, Any]:
    """Attack one gradient; `"deepleakage"` looks for the label too, `"invertinggradients"` is told it."""
    network = lenet() if attack == "deepleakage" else convolutions()
    network.load_state_dict({name: float32(stored[f"parameter {name}"]) for name in network.state_dict()})
    seen = [float32(stored[f"gradient {name}"]) for name, _ in network.named_parameters()]
    picture, label = float32(stored["picture"]), torch.tensor([int(stored["label"])])
    own = torch.autograd.grad(CrossEntropyLoss()(network(picture), label), list(network.parameters()))
    norm = float(torch.cat([one.flatten() for one in seen]).norm())
    error = max(float((one - other).abs().max()) for one, other in zip(own, seen, strict=True)) / norm
    if error > 1e-5:
        raise SystemExit(f"the gradient of the same layers in PyTorch is off by {error:.1e} of its norm")

    attacker = breaching.attacks.prepare_attack(
        network, CrossEntropyLoss(), breaching.get_attack_config(attack, overrides=overrides)
    )
    shape = list(picture.shape[1:])
    case = {"modality": "vision", "task": "classification", "classes": CLASSES, "shape": shape}
    case |= {"mean": [0.0] * shape[0], "std": [1.0] * shape[0]}  # values from 0 to 1, as the network takes them
    payload = {"parameters": list(network.parameters()), "buffers": None, "metadata": OmegaConf.create(case)}
    known = None if attack == "deepleakage" else label
    about = {"num_data_points": 1, "labels": known, "local_hyperparams": None}
    evaluations, reached = 0, None

    def watch(objective: Module, arguments: Any, result: Any) -> None:
        nonlocal evaluations, reached
        evaluations += 1
        if reached is None and float((arguments[2].detach() - picture).square().mean()) <= REACHED:
            reached = process_time() - before

    attacker.objective.register_forward_hook(watch)
    torch.manual_seed(int(stored["seed"]))
    before = process_time()
    found, _ = attacker.reconstruct([payload], [{"gradients": seen, "buffers": None, "metadata": about}], {})
    seconds = process_time() - before
    # Not its label: version 0.1.2 returns the one that the search starts from.
    return {"cpu": seconds, "reached": reached, "evaluations": evaluations, "picture": found["data"].tolist()}


def main() -> None:
    attack, *overrides = sys.argv[1:]
    stored = np.load(io.BytesIO(sys.stdin.buffer.read()))
    with contextlib.redirect_stdout(sys.stderr):  # breaching prints
        attacked(stored, attack, [*overrides, "optim.max_iterations=3"])  # warms up
        result = attacked(stored, attack, overrides)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
