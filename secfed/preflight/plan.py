"""A plan of aggregations: what the caller asks for, before anyone takes part."""

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from secfed.aggregation.aggregator import Aggregator
from secfed.aggregation.aggregators import Plain, SecAgg
from secfed.aggregation.paillier import Paillier
from secfed.aggregation.privacy import CentralGaussian, DistributedGaussian, Privacy
from secfed.dp.events import Adjacency
from secfed.dp.noise.distributed import Mechanism
from secfed.encoding.flatten import Update
from secfed.secagg.config import Adversary

DEFAULT_DELTA = 1e-5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Rounds of one aggregation. Only `preflight` checks them.

    An option that is None has its default. An option that is given but has no effect in this plan is a problem.

    Args:
        update: How many values an update has (of float32), or an example of one, such as the model.
        clients: Clients in a round's cohort; with a `population`, drawn from it.
        population: Clients that cohorts are drawn from; None: the same clients take part in every round.
        sampling_rate: Probability that each client of the population joins a cohort, in place of `clients`.
        rounds: How many sums are made.
        dropout_fraction: Probability that a client drops out in a round, independently of the others.
        corrupt_fraction: Clients that may collude with the server, as a fraction of all; with `secagg` only.
        most_failures: Largest acceptable probability that any of the rounds has too few survivors.
        aggregator: `"secagg"`, `"paillier"` or `"plain"`.
        threshold: Fewest clients (with `neighbors`: of a client's neighbors) that can unmask. A number, or a
            fraction of them (rounded up, and never below the minimum for the adversary). 1.0 means all of them; 1 is
            refused.
        neighbors: How many clients each client shares pair masks with; None means all (Bonawitz et al. 2017).
        adversary: `"semi_honest"` or `"malicious_server"`.
        colluders: Most clients among one client's holders that may collude with the server. With `paillier` and the
            clients' noise: how many survivors may leave out their noise or tell it to the server.
        session_colluders: Most clients of the whole session that may collude with a malicious server; makes the sum
            of a k-regular graph indivisible.
        key_bits: With `paillier`: bits of the key, at least 2048; None is 3072.
        degree: With `paillier`: Damgard and Jurik's `s`, 1 to 7. With 3 a 16-bit value takes 3.4 bytes in place of
            5.1; decryption takes longer.
        minimum_cohort: With `paillier`: fewest clients in a sum that the key holder opens, at least 2.
        clip: Without privacy: values are clipped to [-clip, clip].
        bits: Without privacy: bits of a rounded value; with the clients' noise: bits of an entry.
        max_weight: Without privacy: the largest weight; None: all weights are 1.
        privacy: Who adds noise: `"none"`, `"central"` (the server) or `"distributed"` (the clients).
        clip_norm: With privacy: updates are scaled down to this Euclidean norm; None is 1.
        noise_multiplier: With privacy: standard deviation of the noise, divided by `clip_norm`; None takes the least
            that meets `epsilon`.
        epsilon: With privacy: the budget of all rounds together.
        delta: With privacy: the budget of all rounds together; None is 1e-5.
        adjacency: With privacy: `"add_remove"` (None) or `"replace"`.
        minimum_survivors: Fewest clients in a sum; None is the aggregator's threshold or `minimum_cohort`. Needed
            with `neighbors`, where the threshold counts only a client's neighbors, and with `secret_cohort`.
        mechanism: `"discrete_gaussian"` or `"skellam"`.
        layers: With 1 all noise stays, which is too much if more than the fewest clients survive. With more, the noise
            has that many layers. Once clients know how many survived, they reveal the layers that are not needed.
    """

    update: int | Update
    clients: int | None = None
    population: int | None = None
    sampling_rate: float | None = None
    rounds: int = 1
    dropout_fraction: float = 0.0
    corrupt_fraction: float | None = None
    most_failures: float = 1e-3
    aggregator: Literal["secagg", "paillier", "plain"] = "secagg"
    threshold: float | None = None
    neighbors: int | None = None
    adversary: Adversary | None = None
    colluders: int | None = None
    session_colluders: int | None = None
    key_bits: int | None = None
    degree: int | None = None
    minimum_cohort: int | None = None
    clip: float | None = None
    bits: int | None = None
    max_weight: int | None = None
    privacy: Literal["none", "central", "distributed"] = "none"
    clip_norm: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    adjacency: Adjacency | None = None
    minimum_survivors: int | None = None
    mechanism: Mechanism | None = None
    layers: int | None = None

    @property
    def example(self) -> Update:
        """An example of an update."""
        if isinstance(self.update, int | np.integer):
            return np.broadcast_to(np.float32(0), (int(self.update),))  # one value in memory
        return self.update

    @property
    def cohort(self) -> int:
        """Clients in a round; with a `sampling_rate` their expected number, rounded."""
        if self.clients is not None:
            return int(self.clients)
        return round((self.sampling_rate or 0.0) * (self.population or 0))

    @property
    def by_chance(self) -> bool:
        """Whether a cohort's size is random."""
        return self.sampling_rate is not None and self.sampling_rate < 1

    @property
    def spent_delta(self) -> float | None:
        """Delta of the budget; None without privacy."""
        return None if self.privacy == "none" else DEFAULT_DELTA if self.delta is None else self.delta

    @property
    def counts_sampling(self) -> bool:
        """Whether sampling adds privacy: not against a server that sees which clients take part."""
        return self.privacy == "central"

    def given(self, *names: str) -> dict[str, Any]:
        """Return those of these options that were given."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def changed(self, **options: Any) -> "Plan":
        """Return this plan with other options.

        Args:
            options: Options of a plan, by name.
        """
        return replace(self, **options)

    @classmethod
    def default(cls, name: str) -> Any:
        """Return an option's default; None if it must be given."""
        [found] = [option.default for option in fields(cls) if option.name == name]
        return None if found is MISSING else found

    def idle_options(self) -> Iterator[tuple[str, str]]:
        """Yield each option that has no effect in this plan, and the choice because of which it has none."""
        idle = {name: choice for choice, names in self._without_effect() for name in names}
        for option in fields(self):
            if option.name in idle and getattr(self, option.name) is not None:
                yield option.name, idle[option.name]

    def _without_effect(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        graph = "threshold", "neighbors", "adversary", "session_colluders", "corrupt_fraction"
        encryption = "key_bits", "degree", "minimum_cohort"
        weighing = "clip", "max_weight"
        noise = "clip_norm", "noise_multiplier", "epsilon", "delta", "adjacency"
        clients_noise = "minimum_survivors", "mechanism", "layers"
        if self.aggregator == "secagg":
            yield "aggregator secagg", encryption
        elif self.aggregator == "paillier":
            yield "aggregator paillier", graph
        elif self.aggregator == "plain":
            yield "aggregator plain", (*graph, *encryption, *weighing, "colluders")
        if self.privacy != "none":
            yield f"privacy {self.privacy}", weighing
        if self.privacy == "none":
            yield "privacy none", (*noise, *clients_noise)
        elif self.privacy == "central":
            yield "privacy central", clients_noise
        if self.privacy != "distributed":
            if self.aggregator == "paillier":
                yield "aggregator paillier without the clients' noise", ("colluders",)
            if self.privacy == "central" or self.aggregator == "plain":
                yield f"aggregator {self.aggregator} and privacy {self.privacy}", ("bits",)
        if self.clients is not None and self.sampling_rate is not None:
            yield "a sampling_rate", ("clients",)

    def make_aggregator(self) -> Aggregator:
        """Return the aggregator of this plan.

        Raises:
            ConfigError: A parameter is out of range.
        """
        shown: dict[str, Any] = {} if self.privacy != "none" else self.given("clip", "bits", "max_weight")
        if self.aggregator == "plain":
            return Plain()
        if self.aggregator == "paillier":
            return Paillier(**shown, **self.given("key_bits", "degree", "minimum_cohort"))
        graph = self.given("threshold", "neighbors", "adversary", "colluders", "session_colluders")
        return SecAgg(**shown, **graph)

    def make_privacy(self, noise_multiplier: float) -> Privacy | None:
        """Return the privacy of this plan with this noise.

        Raises:
            ConfigError: A parameter is out of range.
        """
        if self.privacy == "none":
            return None
        population = self.cohort if self.population is None else self.population
        given: dict[str, Any] = {"clip_norm": 1.0 if self.clip_norm is None else self.clip_norm}
        given |= {"noise_multiplier": noise_multiplier, "population": population}
        if self.sampling_rate is not None:
            given["sampling_rate"] = self.sampling_rate
        elif self.population is not None:
            given["cohort_size"] = self.cohort
        if self.privacy == "central":
            return CentralGaussian(**given)
        noise = self.given("minimum_survivors", "mechanism", "layers", "colluders", "bits")
        return DistributedGaussian(**given, **noise)
