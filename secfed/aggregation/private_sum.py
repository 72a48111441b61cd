"""The transform of a private sum: flatten, clip, rotate, round to whole steps, add noise; and back.

All lengths inside are in units of the clip. So a clip that changes from round to round changes no parameter of the
noise, and all rounds are the same event.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.aggregation.cohort_sizes import ANY_COHORT, decisive_probability
from secfed.aggregation.messages import PrivateSumParameters, f64, read_f64, u32s
from secfed.aggregation.privacy import CentralGaussian, DistributedGaussian, Privacy, check_one_norm
from secfed.aggregation.transform import Decoded, Transform
from secfed.crypto.entropy import SystemEntropy
from secfed.crypto.prg import SEED_BYTES
from secfed.crypto.ring import narrowest_dtype, signed
from secfed.dp import events
from secfed.dp.noise import samplers
from secfed.dp.noise.distributed import MECHANISMS, NOISE_MARGIN, Layers, NoisePlan, choose, least_variance
from secfed.dp.noise.shares import NoiseShare
from secfed.dp.noise.surplus import SurplusNoise
from secfed.encoding.conditional_rounding import Lattice, clip_by_norm
from secfed.encoding.flatten import Structure, Update, structure, unflatten
from secfed.encoding.rotation import Rotation, rotated_length
from secfed.errors import ConfigError, EncodingError, FaultyServerError, MalformedMessageError

# A step of central sums: rounding adds at most a thousandth to the noise's variance, and to the square of the norms.
_STEP_OF_CLIP, _STEP_OF_SPREAD, _STEP_OF_NOISE = 1e-3, 0.05, 1 / 16
# A larger cohort is drawn less than once in a million rounds.
_DEVIATIONS = 5.0
# Scale the noise up by 1e-6. Discrete noise costs slightly more epsilon than Gaussian noise; this covers the difference
# for hundreds of rounds, so a budget calibrated exactly for Gaussian noise still holds.
_HEADROOM = 1 + 1e-6

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
    plan: NoisePlan | None
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
            survivors: Fewest clients whose noise may be in the sum; has no effect with `CentralGaussian`.
            cohorts: The smallest and the largest cohort that a sum can have, whichever clients are sampled.

        Raises:
            ConfigError: The parameters do not fit together.
            EncodingError: The example is not an update.
        """
        if not isinstance(privacy, Privacy):
            raise ConfigError(f"found {privacy!r:.100}, needed secfed.CentralGaussian or secfed.DistributedGaussian")
        check_one_norm(privacy)
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
    def fewest(self) -> int:
        """Fewest survivors that bring enough noise; 0 if the server adds it."""
        return self.plan.threshold if self.plan else 0

    @property
    def bound(self) -> int:
        """Largest absolute value of an entry; with the clients' noise, less than one in 2^100 sums exceeds it."""
        return self.plan.largest_entry if self.plan else math.isqrt(self.lattice.largest_square)

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The narrowest unsigned dtype that holds an entry."""
        return narrowest_dtype(self.modulus_bits)

    @property
    def noise_variance(self) -> float:
        """Parameter sigma squared of the noise that the server adds, in square steps; 0 if clients do."""
        if self.plan:
            return 0.0
        multiplier = self.privacy.noise_multiplier * _HEADROOM
        return multiplier * multiplier * self.lattice.largest_square + NOISE_MARGIN

    @property
    def noise_is_fixed(self) -> bool:
        """Whether the clients' noise must not depend on how many are in the sum, which is a secret."""
        return self.plan is not None and self.privacy.sampling_rate < 1 and self._counts_sampling

    @property
    def _counts_sampling(self) -> bool:
        return not isinstance(self.privacy, DistributedGaussian) or self.privacy.secret_cohort

    def noise_share(self) -> NoiseShare | None:
        """Return one client's fresh noise; None if the server adds it."""
        return NoiseShare(self.plan, self.hash) if self.plan else None

    def surplus_noise(self, survivors: Collection[int]) -> SurplusNoise | None:
        """Return the noise that the server asks survivors to reveal, and subtracts; None if the server adds the noise.

        Args:
            survivors: Ids of the clients in the sum.

        Raises:
            TooFewSurvivorsError: They are too few for any sum.
        """
        if self.plan is None:
            return None
        return SurplusNoise(self.plan, self.hash, survivors, modulus_bits=self.modulus_bits, secret=self.noise_is_fixed)

    @property
    def context(self) -> bytes:
        """What binds a session to these parameters."""
        return b"secfed/aggregation/v1 " + self.hash.hex().encode()

    def to_bytes(self) -> bytes:
        """Return the public parameters, for the clients; they include no noise and no secret.

        Returns:
            80 bytes, 32 more with a rotation and 4 for each layer of noise; see `protocols/aggregation/README.md`.
        """
        plan, privacy = self.plan, self.privacy
        return PrivateSumParameters(
            values=self.structure.size.to_bytes(8, "little"),
            clip_norm=f64(privacy.whole_norm),
            weight_cap=f64(privacy.weight_cap or 0.0),
            count_scale=f64(self.count_scale),
            divisor=f64(self.expected),
            step=f64(self.lattice.step),
            modulus_bits=bytes([self.modulus_bits]),
            rotation_seed=self.rotation_seed,
            mechanism=bytes([1 + MECHANISMS.index(plan.mechanism) if plan else 0]),
            clients=(plan.clients if plan else 0).to_bytes(4, "little"),
            threshold=self.fewest.to_bytes(4, "little"),
            colluders=(plan.colluders if plan else 0).to_bytes(4, "little"),
            noise_variance=f64(plan.noise.variance if plan else self.noise_variance),
            honest=b"".join(honest.to_bytes(4, "little") for honest in (plan.noise.honest if plan else ())),
        ).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, *, example: Update, privacy: Privacy) -> "PrivateSum":
        """Read the parameters of a sum on a client, which checks everything that it can.

        Args:
            data: What `to_bytes` gave on the server.
            example: What an update looks like on this client, such as its model.
            privacy: What this client requires, from the application. The clip may differ if it is adaptive.
                More colluders, more survivors and fewer layers of noise than asked for are accepted.

        Raises:
            MalformedMessageError: T1, these bytes are not parameters of a private sum.
            FaultyServerError: T2 to T5, the server wants something else from this client, or too little noise.

        Security:
            The client must also require enough survivors before it helps to unmask: give its `secagg.Client` a
            `Policy(minimum_cohort=transform.plan.threshold)`.
        """
        check_one_norm(privacy)
        found, like = PrivateSumParameters.from_bytes(data), structure(example)
        clip_norm, scale = read_f64("clip_norm", found.clip_norm), read_f64("count_scale", found.count_scale)
        clients, threshold, colluders = (
            int.from_bytes(number, "little") for number in (found.clients, found.threshold, found.colluders)
        )
        if int.from_bytes(found.values, "little") != like.size:  # T2
            raise FaultyServerError(f"the server's update has {int.from_bytes(found.values, 'little')} values", "T2")
        same_clip = clip_norm == privacy.clip_norm or privacy.adaptive is not None
        cap = read_f64("weight_cap", found.weight_cap)
        if not same_clip or cap != (privacy.weight_cap or 0.0) or bool(scale) != (privacy.adaptive is not None):  # T3
            raise FaultyServerError(
                f"clip_norm {clip_norm}, weight_cap {cap} or the count are not those that this client requires", "T3"
            )
        norm, size = math.hypot(1.0, scale / 2), like.size + bool(scale)
        divisor, modulus_bits = read_f64("divisor", found.divisor), found.modulus_bits[0]
        if not divisor or not 2 <= modulus_bits <= 64:
            raise MalformedMessageError(f"divisor {divisor} or modulus_bits {modulus_bits} is out of range", 0)
        try:
            privacy = replace(privacy, clip_norm=clip_norm)
            rotation = Rotation(size, found.rotation_seed) if found.rotation_seed or found.mechanism[0] else None
            lattice = Lattice(read_f64("step", found.step), norm, rotation.length if rotation else size)
            noise = read_f64("noise_variance", found.noise_variance)
            plan = None
            if rotation and found.mechanism[0]:
                plan = NoisePlan(
                    MECHANISMS[found.mechanism[0] - 1], clients, threshold, colluders, rotation.length, rotation.spread,
                    norm, privacy.noise_multiplier, 1.0, modulus_bits, lattice.step, Layers(noise, u32s(found.honest)),
                )  # fmt: skip
        except (ConfigError, IndexError) as error:
            raise MalformedMessageError(f"these parameters of a private sum do not fit together: {error}", 0) from None
        if isinstance(privacy, CentralGaussian) and plan:  # T4
            raise FaultyServerError("the clients are to add noise, but the server should", "T4")
        if isinstance(privacy, DistributedGaussian):
            _check_promised(privacy, plan)
        return cls(privacy, like, lattice, modulus_bits, scale, divisor, plan, found.rotation_seed)

    def event(self, survivors: int) -> events.Event:
        """Return what is released if this many clients are in the sum.

        Args:
            survivors: How many clients are in the sum.

        Raises:
            TooFewSurvivorsError: Their noise is too little: nothing may be released.
        """
        event: events.Release
        if self.plan:
            event = self.plan.event(survivors)
            if self.noise_is_fixed:  # the same for every cohort, or the committed event would tell its size
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
        """What is released if as few clients arrive as allowed; a budget must have room for it."""
        return self.event(self.plan.threshold if self.plan else 1)

    def coordinates(self, update: Update, weight: float = 1.0) -> npt.NDArray[np.float64]:
        """Return the vector that rounding starts from, in units of the clip; shape `(length,)`.

        Raises:
            EncodingError: The update does not fit.
        """
        values = self.structure.values(update)
        clip_norm = self.privacy.whole_norm
        clipped = clip_by_norm(values, clip_norm)
        within = np.array_equal(clipped, values)
        clipped /= clip_norm
        if self.privacy.weight_cap is not None:
            if not weight >= 0:  # catches NaN too; a negative weight would lift the norm above the clip
                raise EncodingError("the weight must not be negative")
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
            steps += (noise or NoiseShare(self.plan, self.hash)).draw()
        return self.wrap(steps)

    def wrap(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.unsignedinteger[Any]]:
        """Return whole numbers modulo `2**modulus_bits`, in the narrowest unsigned dtype."""
        return (steps.astype(np.uint64) & np.uint64((1 << self.modulus_bits) - 1)).astype(self.dtype)

    def centre(self, total: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int64]:
        """Read entries modulo `2**modulus_bits` as signed numbers."""
        return signed(total, self.modulus_bits)

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
        """Decode a sum in steps without adding noise."""
        values = self._unrotated(steps)
        size = self.structure.size
        within = float(values[size]) / (self.count_scale * self.expected) + 0.5 if self.count_scale else None
        mean = values[:size] * (self.privacy.whole_norm / self.expected)
        return Decoded(unflatten(mean, self.structure), self.expected, event, within)

    def values(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Read a vector in steps, one client's or a sum, as the values of an update; shape `(structure.size,)`."""
        found: npt.NDArray[np.float64] = self._unrotated(steps)[: self.structure.size] * self.privacy.whole_norm
        return found

    def _unrotated(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        values = self.lattice.decode(steps)
        return np.asarray(self._rotation.rotate_back(values), np.float64) if self.rotation_seed else values

    @property
    def _rotation(self) -> Rotation:
        return Rotation(self.structure.size + bool(self.count_scale), self.rotation_seed)


def _check_promised(privacy: DistributedGaussian, plan: NoisePlan | None) -> None:
    """Check that the clients' noise is what a client requires.

    Raises:
        FaultyServerError: T4, it is another kind of noise; T5, it is too little.
    """
    if plan is None or (plan.mechanism, plan.noise.honest[-1]) != (privacy.mechanism, plan.threshold - plan.colluders):
        raise FaultyServerError(f"the clients' noise is not {privacy.mechanism} for the fewest survivors", "T4")
    if (
        plan.colluders < privacy.colluders
        or plan.threshold < (privacy.minimum_survivors or 0)
        or len(plan.noise.honest) > privacy.layers
    ):  # T4
        raise FaultyServerError(
            f"noise for {plan.threshold} survivors, {plan.colluders} colluders, in {len(plan.noise.honest)} layers: "
            f"needed {privacy.minimum_survivors}, {privacy.colluders} and at most {privacy.layers}",
            "T4",
        )
    if plan.noise.variance < (needed := least_variance(plan)):  # T5
        raise FaultyServerError(f"noise of variance {plan.noise.variance:.6g}, needed {needed:.6g}", "T5")


def _check_noise_is_fixed(plan: NoisePlan) -> None:
    """Refuse noise whose law would reveal how many clients joined a secret Poisson cohort.

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
