"""The attacks: how well and how fast they rebuild inputs, and whether the self-audit finds bugs that were planted.

Pictures are real: MNIST's digits, and a photograph that scikit-image ships. CPU time of one thread, unless a line says
otherwise.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from skimage.data import astronaut

import secfed
from benchmarks import peers
from benchmarks.measure import Line, cpu, wall
from secfed.attacks import (
    CrossEntropy,
    Inversion,
    View,
    exact_inputs,
    inversion,
    linear_inputs,
    psnr,
    self_audit,
)
from secfed.attacks.networks import Activation, Conv2d, Flatten, Linear, Network
from secfed.cli.simulation.datasets import mnist
from secfed.encoding.conditional_rounding import clip_by_norm

Update = dict[str, np.ndarray]
Found = TypeVar("Found")

PIXELS, UNITS, CLASSES = 784, 400, 10
CLIENTS, EXACT_SEEDS, EXACT = 14, 20, 1e-6
PICTURES = 10  # for deep leakage from gradients
PHOTOGRAPH_SEEDS, PHOTOGRAPH_STEPS = 3, 500
AUDIT_SEEDS, COORDINATES = 200, 20_000


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return MNIST's held-out pictures, shape `(1000, 784)`, and their labels; both in a fixed random order."""
    pictures, labels = mnist(1).test
    order = np.random.default_rng(0).permutation(len(labels))
    return pictures[order], labels[order]


def timed(attack: Callable[[], Found]) -> tuple[float, Found]:
    """Return the CPU seconds of one attack, and what it found."""
    found: list[Found] = []
    return cpu(lambda: found.append(attack())), found[0]


def perceptron_updates(clients: int, seed: int) -> tuple[np.ndarray, list[Update]]:
    """Return the clients' digits, and each one's gradient of the first layer of an untrained perceptron."""
    random = np.random.default_rng(seed)
    network = Network.drawn([Linear(PIXELS, UNITS), Activation("relu"), Linear(UNITS, CLASSES)], random)
    rows = random.choice(len(digits()[1]), clients, replace=False)
    pictures, targets = digits()[0][rows], np.eye(CLASSES)[digits()[1][rows]]
    gradients = [network.gradients(pictures[i : i + 1], targets[i : i + 1])[0] for i in range(clients)]
    return pictures, [{"weight": one["0.weight"], "bias": one["0.bias"]} for one in gradients]


def analytic_recovery() -> Iterator[Line]:
    [picture], [update] = perceptron_updates(1, 0)
    found = linear_inputs(update["weight"], update["bias"])
    seconds = statistics.median(cpu(lambda: linear_inputs(update["weight"], update["bias"])) for _ in range(15))
    error = float(np.abs(found - picture).max())
    yield Line(
        f"one digit's {PIXELS} pixels from the gradient of a linear layer of {UNITS} units",
        "largest error at most 1e-12, under 10 ms",
        f"{error:.0e}, {seconds * 1000:.2f} ms",
        error <= 1e-12 and seconds < 0.01,
    )


def seen_from_lenet(number: int, most: float | None = None) -> tuple[Network, np.ndarray, Update]:
    """Return an untrained LeNet of sigmoids, a digit of shape `(1, 1, 28, 28)`, and the gradient of that digit.

    Args:
        number: Of the digit; it also decides the parameters.
        most: Parameters are uniform between plus and minus this; None: as PyTorch draws them.
    """
    sigmoid = Activation("sigmoid")
    layers = (
        Conv2d(1, 12, 5, 2, 2), sigmoid, Conv2d(12, 12, 5, 2, 2), sigmoid, Conv2d(12, 12, 5, 1, 2), sigmoid, Flatten(),
        Linear(588, CLASSES),
    )  # fmt: skip
    random = np.random.default_rng(number)
    network = Network.drawn(layers, random)
    if most is not None:
        drawn = {name: random.uniform(-most, most, array.shape) for name, array in network.parameters.items()}
        network = Network(network.layers, drawn)
    picture = digits()[0][number].reshape(1, 1, 28, 28)
    return network, picture, network.gradients(picture, np.eye(CLASSES)[[digits()[1][number]]])[0]


class Run(NamedTuple):
    """One search.

    Attributes:
        seconds: Of CPU.
        quality: PSNR of what it found, in dB.
        evaluations: Of the distance and its slope.
        reached: CPU seconds until the search first had 55 dB; None: never, or not noted.
    """

    seconds: float
    quality: float
    evaluations: int
    reached: float | None = None


def medians(runs: list[Run]) -> str:
    seconds, quality, evaluations = (statistics.median(one[at] for one in runs) for at in range(3))
    each = statistics.median(one.seconds / one.evaluations for one in runs) * 1e3
    lowest = min(one.quality for one in runs)
    return f"{seconds:.2f} s, {quality:.1f} dB (lowest {lowest:.1f}), {evaluations:.0f} evaluations of {each:.1f} ms"


def deep(network: Network, update: Update, seed: int) -> Inversion:
    """Search for a digit and its label."""
    return inversion(network, CrossEntropy(CLASSES), update, shape=(1, 1, 28, 28), seed=seed)


def deep_leakage() -> Iterator[Line]:
    quality, seconds, right = [], [], 0
    for number in range(PICTURES):
        network, picture, update = seen_from_lenet(number)
        took, found = timed(lambda network=network, update=update, number=number: deep(network, update, number))
        seconds.append(took)
        quality.append(psnr(found.inputs, picture))
        right += int(found.labels[0] == digits()[1][number])
    size = sum(array.size for array in network.parameters.values())
    yield Line(
        f"deep leakage from gradients, LeNet of sigmoids ({size:,} parameters), label unknown, {PICTURES} digits of "
        "28 x 28, one start each: lowest PSNR",
        "at least 55 dB",
        f"{min(quality):.0f} dB",
        min(quality) >= 55,
        f"{sum(one >= 55 for one in quality)} of {PICTURES} digits reach 55 dB, median "
        f"{statistics.median(quality):.0f} dB; label right for {right}; {statistics.median(seconds):.2f} s in the "
        f"median, {max(seconds):.2f} s at most",
    )


def of_breaching(
    attack: str,
    overrides: tuple[str, ...],
    network: Network,
    picture: np.ndarray,
    update: Update,
    label: int,
    seed: int,
) -> Run:
    """Attack the gradient of a picture with breaching, with some of its settings replaced."""
    arrays: dict[str, npt.ArrayLike] = {"picture": picture, "label": label, "seed": seed}
    arrays |= {f"parameter {name}": array for name, array in network.parameters.items()}
    arrays |= {f"gradient {name}": array for name, array in update.items()}
    found = peers.breaching(attack, overrides, arrays)
    quality = psnr(np.reshape(found["picture"], picture.shape), picture)
    return Run(found["cpu"], quality, found["evaluations"], found["reached"])


def deep_leakage_against_breaching() -> Iterator[Line]:
    for name, most in (("breaching's LeNet, uniform from -0.5 to 0.5", 0.5), ("the lines above", None)):
        pairs = []
        for number in range(PICTURES):
            network, picture, update = seen_from_lenet(number, most)
            seconds, found = timed(lambda network=network, update=update, number=number: deep(network, update, number))
            ours = Run(seconds, psnr(found.inputs, picture), found.evaluations // 2)
            # Of its 1,200 outer steps: where the search converges, the others take longer and find no more.
            fewer, label = ("optim.max_iterations=60",), int(digits()[1][number])
            pairs.append((ours, of_breaching("deepleakage", fewer, network, picture, update, label, number)))
        both = [(one, other) for one, other in pairs if min(one.quality, other.quality) >= 55]
        ratio = statistics.median([other.seconds / one.seconds for one, other in both] or [0.0])
        if both:
            early = statistics.median((other.reached or other.seconds) / one.seconds for one, other in both)
            compared = f"{ratio:.1f} times less"
            detail = f"{early:.1f} times if breaching stopped as soon as it has 55 dB; "
        else:
            compared, detail = "breaching rebuilds none", ""
        reach = [sum(run.quality >= 55 for run in runs) for runs in zip(*pairs, strict=True)]
        yield Line(
            f"deep leakage from gradients, {PICTURES} digits, against breaching's in float32, parameters as in {name}: "
            "median of ratios over the digits that both rebuild at 55 dB",
            "at least 3 times less CPU",
            compared,
            ratio >= 3,
            f"ours rebuilds {reach[0]} of {PICTURES}, breaching {reach[1]}, both {len(both)}; {detail}medians of all: "
            f"ours {medians([one for one, _ in pairs])}; breaching {medians([other for _, other in pairs])}",
        )


def deep_leakage_against_torch() -> Iterator[Line]:
    ours: list[Run] = []
    theirs: dict[str, list[Run]] = {"scipy": [], "torch": []}
    for number in range(PICTURES):
        network, picture, update = seen_from_lenet(number)
        random = np.random.default_rng(number)  # draws the start as `inversion` does
        arrays = {"start": np.append(random.uniform(0.0, 1.0, picture.size), random.normal(size=CLASSES))}
        arrays |= {f"parameter {name}": array for name, array in network.parameters.items()}
        arrays |= {f"gradient {name}": array for name, array in update.items()}
        seconds, found = timed(lambda network=network, update=update, number=number: deep(network, update, number))
        ours.append(Run(seconds, psnr(found.inputs, picture), found.evaluations // 2))
        for name, other in peers.torch_inversion(arrays).items():
            quality = psnr(np.reshape(other["picture"], picture.shape), picture)
            theirs[name].append(Run(other["cpu"], quality, other["evaluations"]))

    names = {"scipy": "SciPy's L-BFGS-B, as ours", "torch": "PyTorch's own L-BFGS"}
    for name, search_name in names.items():
        pairs = list(zip(ours, theirs[name], strict=True))
        ratio = statistics.median(one.seconds / other.seconds for one, other in pairs)
        each = statistics.median(
            one.seconds / one.evaluations / (other.seconds / other.evaluations) for one, other in pairs
        )
        yield Line(
            f"the same search, {PICTURES} digits, against PyTorch's derivatives with {search_name}, median of ratios",
            "at most 1 times its CPU",
            f"{ratio:.2f} times",
            ratio <= 1,
            f"{each:.2f} times for one evaluation; medians: ours {medians(ours)}; PyTorch {medians(theirs[name])}",
        )


def photograph() -> np.ndarray:
    """Return the astronaut's head, each pixel the mean of 8 x 8: shape `(1, 3, 32, 32)`, values from 0 to 1."""
    crop = np.asarray(astronaut(), np.float64)[:256, 96:352] / 255
    return crop.reshape(32, 8, 32, 8, 3).mean(axis=(1, 3)).transpose(2, 0, 1)[None]


def seen_from_convolutions(seed: int) -> tuple[Network, Update]:
    """Return an untrained network of convolutions and ReLUs, and the photograph's gradient; `seed` is its label too."""
    relu = Activation("relu")
    layers = (
        Conv2d(3, 32, 3, 1, 1), relu, Conv2d(32, 32, 3, 2, 1), relu, Conv2d(32, 64, 3, 2, 1), relu, Flatten(),
        Linear(4096, CLASSES),
    )  # fmt: skip
    network = Network.drawn(layers, np.random.default_rng(seed))
    return network, network.gradients(photograph(), np.eye(CLASSES)[[seed]])[0]


def by_cosine(network: Network, update: Update, seed: int) -> Run:
    """Search for the photograph in our way."""
    picture = photograph()
    options = {"shape": picture.shape, "method": "cosine", "steps": PHOTOGRAPH_STEPS, "seed": seed}
    seconds, found = timed(lambda: inversion(network, CrossEntropy(CLASSES, [seed]), update, **options))
    return Run(seconds, psnr(found.inputs, picture), found.evaluations // 2)


def inverting_gradients() -> Iterator[Line]:
    runs = [by_cosine(*seen_from_convolutions(seed), seed) for seed in range(PHOTOGRAPH_SEEDS)]
    size = sum(array.size for array in seen_from_convolutions(0)[1].values())
    lowest = min(one.quality for one in runs)
    yield Line(
        f"inverting gradients, convolutions and ReLUs ({size:,} parameters), a color photograph of 32 x 32, label "
        f"known, {PHOTOGRAPH_STEPS} steps, {PHOTOGRAPH_SEEDS} networks: lowest PSNR",
        "at least 25 dB",
        f"{lowest:.1f} dB",
        lowest >= 25,
        f"median {statistics.median(one.quality for one in runs):.1f} dB; "
        f"{statistics.median(one.seconds for one in runs):.1f} s in the median",
    )


def inverting_gradients_against_breaching() -> Iterator[Line]:
    steps = f"optim.max_iterations={PHOTOGRAPH_STEPS}"
    settings = {
        "its settings": (steps,),
        "its settings, but our weight of total variation": (steps, "regularization.total_variation.scale=0.006"),
    }
    pairs: dict[str, list[tuple[Run, Run]]] = {name: [] for name in settings}
    for seed in range(PHOTOGRAPH_SEEDS):
        network, update = seen_from_convolutions(seed)
        for name, overrides in settings.items():
            ours = by_cosine(network, update, seed)
            other = of_breaching("invertinggradients", overrides, network, photograph(), update, seed, seed)
            pairs[name].append((ours, other))
    for name, runs in pairs.items():
        better = statistics.median(one.quality - other.quality for one, other in runs)
        ratio = statistics.median(one.seconds / other.seconds for one, other in runs)
        yield Line(
            f"inverting gradients, the same networks and steps, against breaching's in float32, {name}: medians of "
            "differences and ratios",
            "at least its PSNR, at most 1 times its CPU",
            f"{better:+.1f} dB, {ratio:.2f} times",
            better >= 0 and ratio <= 1,
            f"medians: ours {medians([one for one, _ in runs])}; breaching {medians([other for _, other in runs])}",
        )


def exact_recovery() -> Iterator[Line]:
    """From the sum that secure aggregation shows the server, rounded to 32 bits."""
    seconds, errors, without = [], [], 0
    for seed in range(EXACT_SEEDS):
        pictures, sent = perceptron_updates(CLIENTS, seed)
        clip = 1.1 * max(float(np.abs(array).max()) for update in sent for array in update.values())
        session = secfed.SecAgg(threshold=1.0, max_weight=1, clip=clip, bits=32)
        mean = View.of_server(session.aggregate(sent, record=True).transcript).mean
        took, found = timed(lambda mean=mean: exact_inputs(mean["weight"], mean["bias"]))
        seconds.append(took)
        if found.found:  # of each client's picture: the largest error of the answer next to it
            errors.append(float(np.abs(found.inputs[:, None] - pictures).max(axis=2).min(axis=0).max()))
        else:
            without += 1
    exact = sum(error < EXACT for error in errors)
    yield Line(
        f"all {CLIENTS} clients' digits from the sum of their gradients under secure aggregation (784-400-10, "
        f"untrained): sums of which every pixel is within {EXACT:g}",
        f"{EXACT_SEEDS} of {EXACT_SEEDS}",
        f"{exact} of {EXACT_SEEDS}",
        exact == EXACT_SEEDS,
        f"largest error of an answer {max(errors, default=0.0):.0e}; {len(errors) - exact} wrong answers, {without} "
        "without one",
    )
    yield Line(
        "the same: time of the attack on one sum, the slowest",
        "at most 2 s",
        f"{max(seconds):.1f} s",
        max(seconds) <= 2,
        f"{sum(one <= 2 for one in seconds)} of {EXACT_SEEDS} take at most 2 s; {statistics.median(seconds):.2f} s "
        "in the median",
    )


def pipeline(
    seed: int, *, clip_norm: float = 1.0, noise_std: float = 1.0, without_noise: int = 0
) -> Callable[[list[np.ndarray], int], np.ndarray]:
    """Return a noisy sum whose claim is a clip of 1 and noise of 1; the arguments plant a bug."""
    random = np.random.default_rng([seed, 1])

    def release(contributions: list[np.ndarray], number: int) -> np.ndarray:
        noise = random.normal(0.0, noise_std, COORDINATES)
        noise[COORDINATES - without_noise :] = 0.0
        return sum((clip_by_norm(one, clip_norm) for one in contributions), noise)

    return release


def planted_bugs() -> Iterator[Line]:
    """The slow part: 800 audits."""
    bugs = {
        "none": {},
        f"no noise on the last 100 of {COORDINATES:,} coordinates": {"without_noise": 100},
        "a clip of 1.2 instead of 1": {"clip_norm": 1.2},
        "half the noise": {"noise_std": 0.5},
    }
    for name, bug in bugs.items():
        failures, seconds = [], []
        for seed in range(AUDIT_SEEDS):

            def run(bug: dict[str, float] = bug, seed: int = seed, failures: list[tuple[str, ...]] = failures) -> None:
                random = np.random.default_rng([seed, 0])
                claim = {"clients": 10, "size": COORDINATES, "clip_norm": 1.0, "noise_multiplier": 1.0}
                failures.append(self_audit(pipeline(seed, **bug), generator=random, **claim).failures)

            seconds.append(cpu(run))
        alarms, right = sum(map(bool, failures)), 0 if name == "none" else AUDIT_SEEDS
        checks = sorted({check for names in failures for check in names})
        yield Line(
            f"self-audit of a noisy sum, {AUDIT_SEEDS} seeds, planted bug: {name}",
            f"{right} alarms",
            f"{alarms}",
            alarms == right,
            f"{sum(seconds):.0f} s in all, {statistics.median(seconds) * 1000:.0f} ms for one audit; "
            + (f"found by {', '.join(checks)}" if checks else "no check failed"),
        )


def whole_matrix() -> Iterator[Line]:
    for options, most in ((["--quick"], 40), ([], 300)):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "secfed", "attack", "--all", *options, "--output", folder, "--json"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = wall(
                lambda command=command: subprocess.run(
                    command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        yield Line(
            f"`{' '.join(['secfed attack --all', *options])}`, every attack against every protection: wall time",
            f"under {most} s",
            f"{seconds:.0f} s",
            seconds < most,
            f"{used:.0f} s of CPU",
        )


ALL = (
    analytic_recovery,
    deep_leakage,
    deep_leakage_against_torch,
    deep_leakage_against_breaching,
    inverting_gradients,
    inverting_gradients_against_breaching,
    exact_recovery,
    planted_bugs,
    whole_matrix,
)
PEERS = (deep_leakage_against_torch, deep_leakage_against_breaching, inverting_gradients_against_breaching)
