"""The transform of a private sum: flatten, clip, rotate, round to whole steps, add noise; and back.

All lengths inside are in units of the clip, so that a clip that changes from round to round changes no parameter of the
noise, and all rounds are the same event.
"""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

from secfed.aggregation.noise_shares import NoiseShare, surplus
from secfed.aggregation.privacy import CentralGaussian, DistributedGaussian, Privacy
from secfed.aggregation.transform import Decoded, Transform
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.crypto.ring import narrowest_dtype, signed
from secfed.dp import events, samplers
from secfed.dp.distributed import Plan, choose
from secfed.encoding.conditional_rounding import Lattice, clip_by_norm
from secfed.encoding.flatten import Structure, Update, structure, unflatten
from secfed.encoding.rotation import Rotation, rotated_length
from secfed.errors import ConfigError, TooFewSurvivorsError

# What whole noise needs beyond a Gaussian's variance, in square steps; see `dp.distributed`.
_MARGIN = 2.25
# A step of central sums: rounding adds at most a thousandth to the noise's variance, and to the square of the norms.
_STEP_OF_CLIP, _STEP_OF_SPREAD, _STEP_OF_NOISE = 1e-3, 0.05, 1 / 16
# A larger cohort is drawn less than once in a million rounds.
_DEVIATIONS = 5.0
# Scale the noise up by 1e-6. Discrete noise costs slightly more epsilon than Gaussian noise; this covers the difference
# for hundreds of rounds, so a budget calibrated exactly for Gaussian noise still holds.
_HEADROOM = 1 + 1e-6

# More than the relative error of the binomial law in double precision.
_BINOMIAL_MARGIN = 1 + 1e-6
# Every number of clients.
ANY_COHORT = (0, 1 << 62)

_choose = lru_cache(16)(choose)


@dataclass(frozen=True)
class PrivateSum(Transform):
    """How updates become vectors of whole steps whose noisy sum is private.

    Args:
        privacy: What was asked for.
        structure: Names, shapes and dtypes of the mean.
        lattice: The rounding, in units of the clip.
        modulus_bits: Bits of an entry.
        count_scale: Distance of the two values of the entry that counts clients within the clip; 0: no such entry.
        expected: What the sum is divided by.
        plan: Parameters of the clients' noise; None: the server adds it.
        rotation_seed: 32 bytes, public, fresh for every sum; empty: no rotation.
        cohorts: The smallest and the largest cohort of which a sum can be made.

    Client and server hold the same object; `length`, `modulus_bits` and `context` go into the `secagg.Config`.
    """

    privacy: Privacy
    structure: Structure
    lattice: Lattice
    modulus_bits: int
    count_scale: float
    expected: float
    plan: Plan | None
    rotation_seed: bytes = field(repr=False)
    cohorts: tuple[int, int] = ANY_COHORT

    @classmethod
    def of(
        cls,
        privacy: Privacy,
        example: Update,
        *,
        clients: int,
        survivors: int = 1,
        cohorts: tuple[int, int] = ANY_COHORT,
    ) -> "PrivateSum":
        """Make the transform of one sum.

        Args:
            privacy: `CentralGaussian` or `DistributedGaussian`.
            example: Array, or list or dictionary of arrays, that looks like an update.
            clients: Size of the cohort.
            survivors: Fewest clients whose noise may be in the sum; of no matter for `CentralGaussian`.
            cohorts: The smallest and the largest cohort of which a sum can be made, whoever is sampled.

        Raises:
            ConfigError: The parameters do not fit together.
            EncodingError: The example is no update.
        """
        if not isinstance(privacy, Privacy):
            raise ConfigError(f"found {privacy!r:.100}, needed secfed.CentralGaussian or secfed.DistributedGaussian")
        like = structure(example)
        population = clients if privacy.population is None else privacy.population
        if clients > population:
            raise ConfigError(f"a cohort of {clients} clients cannot come from a population of {population}")
        expected = float(privacy.cohort_size or privacy.sampling_rate * population)
        scale = privacy.adaptive.scale(privacy.noise_multiplier, expected) if privacy.adaptive else 0.0
        norm, size = math.hypot(1.0, scale / 2), like.size + bool(privacy.adaptive)
        if isinstance(privacy, CentralGaussian):
            lattice, bits = _central(privacy.noise_multiplier, norm, size, population)
            return cls(privacy, like, lattice, bits, scale, expected, None, b"", cohorts)
        most = clients
        if privacy.secret_cohort and privacy.cohort_size is None:
            # What is published must not depend on the cohort's size.
            spread = math.sqrt(expected * (1 - privacy.sampling_rate))
            most = max(survivors, min(population, math.ceil(expected + _DEVIATIONS * (spread + 1))))
        seed = SystemEntropy().draw("rotation", SEED_BYTES)
        plan = _choose(
            clients=most,
            threshold=survivors,
            dimension=rotated_length(size),
            spread=Rotation(size, seed).spread,
            clip_norm=norm,
            noise_multiplier=privacy.noise_multiplier * _HEADROOM,
            bits=privacy.bits,
            mechanism=privacy.mechanism,
            colluders=privacy.colluders,
            layers=privacy.layers,
        )
        if privacy.secret_cohort and privacy.sampling_rate < 1:
            _check_noise_is_fixed(plan)
            cohorts = cohorts[0], min(cohorts[1], plan.clients)
        lattice = Lattice(plan.step, norm, plan.dimension)
        return cls(privacy, like, lattice, plan.modulus_bits, scale, expected, plan, seed, cohorts)

    @property
    def length(self) -> int:
        """Entries of a vector."""
        return self.lattice.dimension

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The narrowest unsigned dtype that holds an entry."""
        return narrowest_dtype(self.modulus_bits)

    @property
    def noise_variance(self) -> float:
        """Parameter sigma squared of the noise that the server adds, in square steps; 0 if clients do."""
        if self.plan:
            return 0.0
        return (self.privacy.noise_multiplier * _HEADROOM) ** 2 * self.lattice.largest_square + _MARGIN

    @property
    def noise_is_fixed(self) -> bool:
        """Whether the clients' noise must not depend on how many are in the sum, which is a secret."""
        return self.plan is not None and self.privacy.sampling_rate < 1 and self._counts_sampling

    @property
    def _counts_sampling(self) -> bool:
        return not isinstance(self.privacy, DistributedGaussian) or self.privacy.secret_cohort

    @property
    def context(self) -> bytes:
        """What binds a session to these parameters."""
        noise = "server"
        if self.plan:
            layers = hashlib.sha256(repr(self.plan.noise).encode()).hexdigest()
            noise = f"{self.plan.mechanism} colluders={self.plan.colluders} threshold={self.plan.threshold} {layers}"
        spec = (
            f"clip_norm={float(self.privacy.clip_norm).hex()} weight_cap={self.privacy.weight_cap} "
            f"count_scale={self.count_scale.hex()} values={self.structure.size} rotation={self.rotation_seed.hex()} "
            f"noise={noise} variance={self.noise_variance.hex()} "
        )
        return b"secfed/aggregation/v1 " + spec.encode() + self.lattice.context

    def event(self, survivors: int) -> events.Event:
        """Return what is released if so many clients are in the sum.

        Raises:
            TooFewSurvivorsError: Their noise is too little: nothing may be released.
        """
        event: events.Release
        if self.plan:
            event = self.plan.event(survivors)
            if self.noise_is_fixed:  # the same for every cohort, or what is committed would tell its size
                event = self.plan.event(self.plan.clients)
        else:
            lattice = self.lattice
            event = events.DiscreteGaussianSum(
                self.noise_variance, 1, lattice.sensitivity, lattice.sensitivity_l1, lattice.dimension
            )
        counts = self._counts_sampling
        rate, size, population = self.privacy.sampling_rate, self.privacy.cohort_size, self.privacy.population
        if counts and size is not None and population is not None and size < population:
            return events.FixedSizeSampled(size, population, event)
        if counts and rate < 1 and population is not None:
            return events.PoissonSampled(rate, event, decisive_probability(population, rate, self.cohorts))
        return event

    @property
    def worst_event(self) -> events.Event:
        """What is released if as few clients arrive as allowed: what a budget must have room for."""
        return self.event(self.plan.threshold if self.plan else 1)

    def coordinates(self, update: Update, weight: float = 1.0) -> npt.NDArray[np.float64]:
        """Return the vector that rounding starts from, in units of the clip; shape `(length,)`.

        Raises:
            EncodingError: The update does not fit.
        """
        values = self.structure.values(update)
        clip_norm = self.privacy.clip_norm
        clipped = clip_by_norm(values, clip_norm)
        within = np.array_equal(clipped, values)
        clipped /= clip_norm
        if self.privacy.weight_cap is not None:
            clipped *= min(weight, self.privacy.weight_cap) / self.privacy.weight_cap
        if self.count_scale:
            clipped = np.append(clipped, self.count_scale / 2 if within else -self.count_scale / 2)
        return np.asarray(self._rotation.rotate(clipped), np.float64) if self.rotation_seed else clipped

    def encode(
        self, update: Update, weight: float = 1.0, *, seed: bytes | None = None, noise: NoiseShare | None = None
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Encode one client's update, with its noise if clients add it.

        Args:
            update: Array, or list or dictionary of arrays, with the names and shapes of `structure`.
            weight: Used if there is a `weight_cap`.
            seed: 32 bytes that decide how values are rounded; by default fresh from the operating system.
            noise: This client's noise, so that layers of it can be revealed later; by default fresh.

        Returns:
            Shape `(length,)`, modulo `2**modulus_bits`.

        Raises:
            EncodingError: The update does not fit; nothing has been sent.
        """
        rounding = SystemEntropy().draw("rounding", SEED_BYTES) if seed is None else seed
        steps = self.lattice.round(self.coordinates(update, weight), seed=rounding)
        if self.plan:
            steps += (noise or NoiseShare(self.plan)).draw()
        return self.wrap(steps)

    def wrap(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return whole numbers modulo `2**modulus_bits`, in the narrowest unsigned dtype."""
        return (steps.astype(np.uint64) & np.uint64((1 << self.modulus_bits) - 1)).astype(self.dtype)

    def centre(self, total: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int64]:
        """Read entries modulo `2**modulus_bits` as signed numbers."""
        return signed(total, self.modulus_bits)

    def subtract_surplus(
        self, total: npt.NDArray[np.unsignedinteger[Any]], survivors: int, replies: Mapping[int, bytes]
    ) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return the sum without the layers of noise whose seeds survivors revealed.

        Args:
            total: The sum modulo `2**modulus_bits`, shape `(length,)`.
            survivors: How many clients are in it.
            replies: What `NoiseShare.reveal` gave, by client id, of those that answered.

        Raises:
            MalformedMessageError: A reply has not one seed for each surplus layer.
            TooFewSurvivorsError: Not all answered, and what is left would tell the size of a secret cohort.
        """
        assert self.plan is not None
        if self.noise_is_fixed and len(replies) < survivors:
            raise TooFewSurvivorsError(
                f"{len(replies)} of {survivors} survivors revealed surplus noise, needed all: what the others leave "
                "would tell how many joined a secret cohort",
                len(replies),
                survivors,
            )
        return self.wrap(self.centre(total) - surplus(self.plan, survivors, replies))

    def add_noise(self, total: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int64]:
        """Return the private sum in steps: the sum itself if clients added the noise, else with the server's noise.

        Args:
            total: The sum modulo `2**modulus_bits`, shape `(length,)`; surplus noise already subtracted.
        """
        steps = self.centre(total)
        if not self.plan:
            seed = SystemEntropy().draw("noise", SEED_BYTES)
            steps += samplers.discrete_gaussian(self.noise_variance, self.length, seed)
        return steps

    def decode(self, total: npt.NDArray[np.unsignedinteger[Any]], survivors: Collection[int]) -> Decoded:
        """Add the server's noise, unless clients added theirs, and decode.

        Args:
            total: The sum modulo `2**modulus_bits`, shape `(length,)`; surplus noise already subtracted.
            survivors: Ids of the clients in it.

        Raises:
            TooFewSurvivorsError: Their noise is too little: nothing may be released.
        """
        event = self.event(len(survivors))
        return self.read(self.add_noise(total), event)

    def read(self, steps: npt.NDArray[np.int64], event: events.Event | None = None) -> Decoded:
        """Turn a sum in steps into what it says, without adding noise."""
        values = self.lattice.decode(steps)
        if self.rotation_seed:
            values = np.asarray(self._rotation.rotate_back(values), np.float64)
        size = self.structure.size
        within = float(values[size]) / (self.count_scale * self.expected) + 0.5 if self.count_scale else None
        mean = values[:size] * (self.privacy.clip_norm / self.expected)
        return Decoded(unflatten(mean, self.structure), self.expected, event, within)

    @property
    def _rotation(self) -> Rotation:
        return Rotation(self.structure.size + bool(self.count_scale), self.rotation_seed)


def _check_noise_is_fixed(plan: Plan) -> None:
    """Refuse noise whose law would tell how many clients joined a secret Poisson cohort.

    Raises:
        ConfigError: The noise grows with the number of survivors.
    """
    numbers = plan.clients - plan.threshold + 1
    if plan.colluders or len(plan.noise.honest) < numbers:
        raise ConfigError(
            "secret_cohort with a sampling_rate needs noise that does not depend on how many clients join: found "
            f"{len(plan.noise.honest)} layers and {plan.colluders} colluders, needed layers={numbers} (one for each "
            f"number of survivors from {plan.threshold} to {plan.clients}) and no colluders; or cohort_size in place "
            "of sampling_rate"
        )


@lru_cache(64)
def decisive_probability(population: int, sampling_rate: float, cohorts: tuple[int, int]) -> float:
    """Bound the probability that it depends on one client whether a Poisson cohort is too small or too large for a sum.

    Args:
        population: Clients that may join.
        sampling_rate: Probability with which each of them does.
        cohorts: The smallest and the largest cohort of which a sum can be made.

    Returns:
        The probability that of the others one less than the smallest cohort, or the largest one, joined; whether or
        not the client is one of the `population`.
    """
    smallest, largest = cohorts
    sizes = [size for size in (smallest - 1, largest) if 0 <= size <= population]
    most = max(
        sum(_binomial(others, sampling_rate, size) for size in sizes if size <= others)
        for others in (population - 1, population)
    )
    return min(1.0, most * _BINOMIAL_MARGIN)


def _binomial(count: int, rate: float, successes: int) -> float:
    """Return the probability of so many successes, for a rate below 1."""
    ways = gammaln(count + 1) - gammaln(successes + 1) - gammaln(count - successes + 1)
    return math.exp(ways + successes * math.log(rate) + (count - successes) * math.log1p(-rate))


def _central(noise_multiplier: float, norm: float, size: int, clients: int) -> tuple[Lattice, int]:
    """Choose the lattice of a sum with the server's noise, and a ring in which it cannot wrap."""
    step = norm * min(
        _STEP_OF_CLIP, _STEP_OF_SPREAD / math.sqrt(size), _STEP_OF_NOISE * noise_multiplier / math.sqrt(clients)
    )
    lattice = Lattice(step, norm, size)
    bits = (clients * math.isqrt(lattice.largest_square)).bit_length() + 1
    if bits > 64:
        raise ConfigError(f"a sum of {clients} clients with noise_multiplier {noise_multiplier} needs {bits} bits")
    return lattice, bits
