"""Deep leakage from gradients in PyTorch: the peer's measurement for our benchmarks.

Runs in the peer's own environment (and must not need secfed); `benchmarks.peers.torch_inversion` starts it. On stdin it
takes what `numpy.savez` wrote: the gradient seen and the parameters of a network of convolutions, sigmoids and a linear
layer, and where the search starts. It searches for picture and label twice, from the same start:

* with SciPy's L-BFGS-B within the same bounds, as `secfed.attacks.inversion` does, so that only the derivatives differ;
* with PyTorch's own L-BFGS, which knows no bounds.

Both minimize the squared distance of the gradients, in float64. One JSON object goes to stdout.
"""

import os

# Before numpy is imported: process_time adds up all threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import io
import json
import sys
from collections.abc import Callable
from time import process_time
from typing import Any

import numpy as np
import torch
from scipy.optimize import Bounds, minimize
from torch.nn import functional

torch.set_num_threads(1)
SIDE, CLASSES, STEPS = 28, 10, 300
SHAPE, SIZE = (1, 1, SIDE, SIDE), SIDE * SIDE
STRIDES = (2, 2, 1)  # of the convolutions
NAMES = [f"{number}.{name}" for number in (0, 2, 4, 7) for name in ("weight", "bias")]


def objective(stored: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the squared distance of a guess's gradient from the one seen, relative to the latter's square."""
    parameters = [torch.tensor(stored[f"parameter {name}"], requires_grad=True) for name in NAMES]
    seen = [torch.tensor(stored[f"gradient {name}"]) for name in NAMES]
    square = sum(float((one * one).sum()) for one in seen)

    def distance(guess: torch.Tensor) -> torch.Tensor:
        values = guess[:SIZE].reshape(SHAPE)
        for number, stride in enumerate(STRIDES):
            weight, bias = parameters[2 * number : 2 * number + 2]
            values = torch.sigmoid(functional.conv2d(values, weight, bias, stride=stride, padding=2))
        logits = functional.linear(values.flatten(1), *parameters[-2:])
        loss = functional.cross_entropy(logits, torch.softmax(guess[SIZE:].reshape(1, CLASSES), 1))
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        return sum(((one - other) ** 2).sum() for one, other in zip(gradients, seen, strict=True)) / square

    return distance


def by_scipy(distance: Callable[[torch.Tensor], torch.Tensor], start: np.ndarray, steps: int) -> tuple[np.ndarray, int]:
    def value_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        guess = torch.tensor(flat, requires_grad=True)
        value = distance(guess)
        (slope,) = torch.autograd.grad(value, guess)
        return value.item(), slope.numpy()

    low, high = np.full(SIZE + CLASSES, -np.inf), np.full(SIZE + CLASSES, np.inf)
    low[:SIZE], high[:SIZE] = 0.0, 1.0
    options = {"maxiter": steps, "maxfun": 2 * steps, "maxcor": 30, "ftol": 0.0, "gtol": 0.0}
    found = minimize(value_and_slope, start, jac=True, method="L-BFGS-B", bounds=Bounds(low, high), options=options)
    return found.x, found.nfev


def by_torch(distance: Callable[[torch.Tensor], torch.Tensor], start: np.ndarray, steps: int) -> tuple[np.ndarray, int]:
    guess, evaluations = torch.tensor(start, requires_grad=True), 0
    search = torch.optim.LBFGS(
        [guess], max_iter=steps, max_eval=2 * steps, history_size=100, line_search_fn="strong_wolfe",
        tolerance_grad=0.0, tolerance_change=0.0,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        nonlocal evaluations
        evaluations += 1
        value = distance(guess)
        (guess.grad,) = torch.autograd.grad(value, guess)
        return value.detach()

    search.step(closure)
    return guess.detach().numpy(), evaluations


def main() -> None:
    stored = np.load(io.BytesIO(sys.stdin.buffer.read()))
    distance, start = objective(stored), stored["start"]
    results = {}
    for name, search in (("scipy", by_scipy), ("torch", by_torch)):
        search(distance, start, 5)  # warms up
        before = process_time()
        found, evaluations = search(distance, start, STEPS)
        seconds = process_time() - before
        results[name] = {
            "cpu": seconds,
            "evaluations": evaluations,
            "picture": found[:SIZE].tolist(),
            "label": int(found[SIZE:].argmax()),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
