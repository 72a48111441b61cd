"""What a simulation is told to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secfed import paillier
from secfed.aggregation import Compression, LowRank, RandomK, RandomRotation
from secfed.cli.algorithm_parameters import ASYNCHRONOUS, DEFAULTS
from secfed.errors import ConfigError
from secfed.secagg import Stage

# Up to this many clients all share masks with each other.
_COMPLETE = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        dataset: A name in `datasets.LOADERS`; without effect with data.
        data: A file with data to train on, see `own_data`; None: the data set.
        label_column: Of a CSV file; None: the last one.
        model: `"mlp"`, a perceptron with one hidden layer, or `"logistic"`, logistic regression.
        hidden: Units of the hidden layer; without effect with logistic.
        clients: Number of clients.
        rounds: Number of rounds.
        aggregator: `"plain"`, `"secagg"` or `"paillier"`.
        algorithm: A name in `algorithm_parameters.DEFAULTS`.
        server_learning_rate: Factor on the server's step; None is what suits the algorithm here.
        server_momentum: With fedavgm only: how much of the last momentum is kept, from 0 to below 1. None is what
            suits it here.
        mu: With fedprox only: strength of the pull toward the model, at least 0. None is what suits it here.
        buffer_size: With fedbuff only: updates in one sum. None is what suits it here.
        concurrency: With fedbuff and fedasync only: clients that train at the same time. None is what suits it
            here.
        staleness_exponent: With fedbuff and fedasync only: how fast the weight of a stale update falls. None is
            what suits it here.
        mixing: With fedasync only: how far the model moves toward what a client trained, above 0 and at most 1.
            None is what suits it here.
        speed_spread: How unequally fast clients train: the standard deviation of the logarithm of their times. The
            median client takes 1.
        deadline: How long a round waits for slow clients; None: for all. Without effect with fedbuff and fedasync.
        target: An accuracy; the run reports when it reached it.
        dropout: Probability that a client of the cohort drops out in a round, at a stage drawn among all.
        threshold: Fewest clients (with `neighbors`: of a client's neighbors) that can unmask. A number, or a
            fraction of them (rounded up, and never below the minimum for the adversary). 1.0 means all of them; 1 is
            refused.
        neighbors: How many clients each client shares pair masks with; None means all.
        adversary: `"semi_honest"` or `"malicious_server"`.
        sampling_rate: Probability that a client joins a round's cohort.
        cohort_size: Clients in each round's cohort, drawn uniformly among all, instead of `sampling_rate`.
        alpha: How unequal the clients are; see `datasets`.
        key_bits: Bits of the Paillier key, at least 2048.
        clip: Values are clipped to [-clip, clip]. Without effect with privacy.
        bits: Bits of a rounded value; None takes 16, or as few as 12 where that keeps the sum within 32 bits.
            Without effect with privacy.
        scale_weights: Multiply by weights before rounding, not after. An entry takes `log2(max_weight)` bits less,
            but needs two or three more `bits` for the same error. Without effect with privacy.
        compression: Maps as `maps_of` reads them; nothing ("") sends every value.
        privacy: Who adds noise: `"none"`, `"central"` (the server) or `"distributed"` (the clients).
        epsilon: Budget of all rounds together.
        delta: Budget of all rounds together.
        clip_norm: With privacy: updates are scaled down to this Euclidean norm, all arrays of an update together.
        seed: Decides everything except secrets and noise.
    """

    dataset: str = "digits"
    data: Path | None = None
    label_column: str | None = None
    model: Literal["mlp", "logistic"] = "mlp"
    hidden: int = 32
    clients: int = 50
    rounds: int = 30
    aggregator: Literal["plain", "secagg", "paillier"] = "secagg"
    algorithm: Literal["fedavg", "fedavgm", "fedprox", "fedadagrad", "fedadam", "fedyogi", "fedbuff", "fedasync"] = (
        "fedavg"
    )
    server_learning_rate: float | None = None
    server_momentum: float | None = None
    mu: float | None = None
    buffer_size: int | None = None
    concurrency: int | None = None
    staleness_exponent: float | None = None
    mixing: float | None = None
    speed_spread: float = 0.0
    deadline: float | None = None
    target: float = 0.9
    dropout: float = 0.1
    threshold: float = 2 / 3
    neighbors: int | None = None
    adversary: Literal["semi_honest", "malicious_server"] = "semi_honest"
    sampling_rate: float = 1.0
    cohort_size: int | None = None
    alpha: float = 0.5
    key_bits: int = 3072
    clip: float = 4.0
    bits: int | None = None
    scale_weights: bool = False
    compression: str = ""
    privacy: Literal["none", "central", "distributed"] = "none"
    epsilon: float = 3.0
    delta: float = 1e-5
    clip_norm: float = 1.0
    seed: int = 0

    @classmethod
    def of(cls, **given: Any) -> "Settings":
        """Fill in what is None. With privacy there are more clients: noise that hides one of few costs accuracy."""
        chosen: dict[str, Any] = {"clients": 50 if given.get("data") is None else 10, "threshold": 2 / 3}
        if given.get("privacy", "none") != "none":
            chosen |= {"clients": 300}
            many = (given.get("clients") or chosen["clients"]) > _COMPLETE
            if (
                many
                and given.get("algorithm") not in ASYNCHRONOUS
                and given.get("aggregator", "secagg") == "secagg"
                and given.get("neighbors") is None
            ):
                # `secagg.parameters` gives these neighbors for 300 clients, a twentieth corrupt and a tenth silent.
                # With a threshold of more than half of them, no server can split the sum unless clients collude.
                chosen |= {"neighbors": 28, "threshold": 15}
        return cls(**chosen | {name: value for name, value in given.items() if value is not None})

    @property
    def parameters(self) -> dict[str, float]:
        """The algorithm's parameters: the chosen ones, otherwise those that suit it here."""
        defaults = DEFAULTS[self.algorithm]
        chosen = {name: getattr(self, name) for name in defaults}
        found = {name: defaults[name] if value is None else value for name, value in chosen.items()}
        for name in ("buffer_size", "concurrency"):
            if name in found and chosen[name] is None:
                found[name] = min(int(found[name]), self.clients)
        return found

    @property
    def source(self) -> str:
        """What the data are called: the data set, or the name of the file."""
        return self.dataset if self.data is None else self.data.name

    @property
    def units(self) -> int | None:
        """Units of the hidden layer; None without one."""
        return self.hidden if self.model == "mlp" else None

    @property
    def asynchronous(self) -> bool:
        """Whether a round takes the clients that are ready first."""
        return self.algorithm in ASYNCHRONOUS

    @property
    def timed(self) -> bool:
        """Whether simulated time matters: clients are unequally fast, or rounds do not wait for all."""
        return self.asynchronous or self.speed_spread > 0 or self.deadline is not None

    @property
    def expected_cohort(self) -> float:
        """Clients in a round, on average."""
        if self.asynchronous:
            return self.parameters.get("buffer_size", 1)
        return self.sampling_rate * self.clients

    @property
    def private(self) -> bool:
        """Whether noise is added."""
        return self.privacy != "none"

    @property
    def protected(self) -> bool:
        """Whether anything protects the updates from the server, or hides clients from readers of the model."""
        return self.private or self.aggregator != "plain"

    @property
    def protection(self) -> str:
        """What that is, in words."""
        compressed = f"{self.aggregator}, {self.compression}" if self.compression else self.aggregator
        return f"{compressed} with {self.privacy} noise" if self.private else compressed

    @property
    def maps(self) -> tuple[Compression, ...] | None:
        """The compression; None without one."""
        return maps_of(self.compression) if self.compression else None

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages in which clients may drop out; with Paillier only the one that collects inputs."""
        if self.aggregator == "paillier":
            return (Stage.MASKED_INPUT_COLLECTION,)
        stages = (Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT_COLLECTION)
        checked = (Stage.CONSISTENCY_CHECK,) if self.adversary == "malicious_server" else ()
        return (*stages, *checked, Stage.UNMASKING)

    @property
    def timed_stages(self) -> tuple[Any, ...]:
        """The stages whose wall time a session reports."""
        if self.aggregator == "paillier":
            return (paillier.Stage.ENCRYPTED_INPUT_COLLECTION, paillier.Stage.DECRYPTION)
        return self.stages if self.aggregator == "secagg" else ()


def maps_of(text: str) -> tuple[Compression, ...]:
    """Read a compression: `random-k:FRACTION`, `low-rank:RANK` and `rotation`, joined by `+` in their order.

    Raises:
        ConfigError: The text does not name a compression, or a number is out of range.
    """
    maps: list[Compression] = []
    for part in text.split("+"):
        name, _, number = part.partition(":")
        try:
            if name == "random-k":
                maps.append(RandomK(float(number)))
            elif name == "low-rank":
                maps.append(LowRank(int(number)))
            elif part == "rotation":
                maps.append(RandomRotation())
            else:
                raise ConfigError(f"found {part!r}")
        except ValueError as error:  # a ConfigError is one
            raise ConfigError(
                f"compression {text!r}: {error}; needed random-k:FRACTION, low-rank:RANK or rotation, or several of "
                "them joined by +"
            ) from None
    return tuple(maps)
