"""A transform that sends fewer values or fewer bits: it compresses, applies another transform, and expands."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.aggregation.messages import CompressedParameters, ScaledMeanParameters
from secfed.aggregation.privacy import Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.scaled_mean import ScaledMean
from secfed.aggregation.transform import Decoded, Preceded, Transform
from secfed.aggregation.weighted_mean import WeightedMean
from secfed.crypto.prg import SEED_BYTES
from secfed.encoding.compression import KINDS, Compression, RandomRotation, map_seed, size_of
from secfed.encoding.flatten import Structure, Update, structure, unflatten
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError
from secfed.wire import kind_of

_MOST_MAPS = 8
_MAP_BYTES = 9


@dataclass(frozen=True)
class Maps:
    """Linear maps one after the other, drawn from one seed, for updates of one structure.

    Args:
        compression: The maps, in the order in which a client takes them.
        structure: Names, shapes and dtypes of an update.
        seed: 32 bytes, public, fresh for every sum.

    Raises:
        ConfigError: A map would change nothing, or the seed has another length.
    """

    compression: tuple[Compression, ...]
    structure: Structure
    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != SEED_BYTES:
            raise ConfigError(f"the seed of the compression has {len(self.seed)} bytes, needs {SEED_BYTES}")
        _ = self._shapes

    @cached_property
    def _shapes(self) -> list[tuple[tuple[int, ...], ...]]:
        """Shapes before each map, then those after the last."""
        shapes = [self.structure.shapes]
        for each in self.compression:
            shapes.append(each.shapes(shapes[-1]))
        return shapes

    @property
    def size(self) -> int:
        """Values of a compressed update."""
        return size_of(self._shapes[-1])

    @property
    def parameters(self) -> list[tuple[int, int]]:
        """Code and number of each map, as clients get them."""
        pairs = zip(self.compression, self._shapes, strict=False)
        return [(each.code, each.parameter(shapes)) for each, shapes in pairs]

    def compress(self, update: Update, divisors: Sequence[float] | None = None) -> npt.NDArray[np.floating[Any]]:
        """Return the compressed update, shape `(size,)`; float32 if all its arrays are, else float64.

        Args:
            update: Array, or list or dictionary of arrays, with the names and shapes of `structure`.
            divisors: One positive number for each array, by which it is divided first, in float64.

        Raises:
            EncodingError: The update does not have the names and shapes of `structure`, or a value is not finite.
        """
        values = self.structure.values(update)
        if values.dtype != np.float32 or divisors is not None:
            values = values.astype(np.float64)
        if divisors is not None:
            ends = np.cumsum([size_of((shape,)) for shape in self.structure.shapes])
            for part, divisor in zip(np.split(values, ends[:-1]), divisors, strict=True):
                with np.errstate(over="ignore"):  # an infinity is refused below
                    part /= divisor
        for number, each in enumerate(self.compression):
            values = each.compress(values, self._shapes[number], map_seed(self.seed, number))
        return values

    def expand(self, values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """Return what compressed values, or their mean, stand for: shape `(structure.size,)`.

        Args:
            values: What `compress` gave, or a mean of it.
        """
        for number, each in reversed([*enumerate(self.compression)]):
            values = each.expand(values, self._shapes[number], map_seed(self.seed, number))
        return values


@dataclass(frozen=True)
class Compressed(Preceded):
    """Compress by public linear maps, apply another transform, and expand the mean.

    Clip, clip norm and rounding of the other transform apply to the compressed values. To it they are a vector like any
    other, so privacy is the same as without compression.

    Args:
        maps: The maps, for updates of one structure.
        transform: What makes the compressed values a vector; its structure is one array of shape `(maps.size,)`.

    Client and server hold the same object; `length`, `modulus_bits` and `context` go into the `secagg.Config`.
    """

    maps: Maps
    transform: Transform = field(repr=False)

    def __post_init__(self) -> None:
        if self.transform.structure.shapes != ((self.maps.size,),):
            shapes = self.transform.structure.shapes
            raise ConfigError(f"the inner transform is for shapes {shapes}, needed (({self.maps.size},),)")

    @property
    def structure(self) -> Structure:  # type: ignore[override]  # read-only is enough
        """Names, shapes and dtypes of the mean."""
        return self.maps.structure

    def to_bytes(self) -> bytes:
        """Return the public parameters, for the clients; see `protocols/aggregation/README.md`."""
        pairs = self.maps.parameters
        return CompressedParameters(
            values=self.structure.size.to_bytes(8, "little"),
            seed=self.maps.seed,
            maps=b"".join(bytes([code]) + number.to_bytes(8, "little") for code, number in pairs),
            inner=self.transform.to_bytes(),
        ).to_bytes()

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        example: Update,
        compression: Compression | Sequence[Compression],
        privacy: Privacy | None = None,
    ) -> "Compressed":
        """Read the parameters of a sum on a client, which checks everything that it can.

        Args:
            data: What `to_bytes` gave on the server.
            example: What an update looks like on this client, such as its model.
            compression: The maps that this client requires, from the application.
            privacy: What this client requires; None for a mean without noise.

        Raises:
            ConfigError: The compression does not fit the example.
            MalformedMessageError: T1, these bytes are not parameters of a compressed sum.
            FaultyServerError: T7, the server would compress in another way; T2 to T5, as for the inner transform.
        """
        found = CompressedParameters.from_bytes(data)
        like, chosen = structure(example), as_maps(compression)
        pairs = _read_maps(found.maps)
        maps = Maps(chosen, like, found.seed)
        if int.from_bytes(found.values, "little") != like.size:  # T2
            values = int.from_bytes(found.values, "little")
            raise FaultyServerError(f"the server's update has {values} values, this client's {like.size}", "T2")
        if pairs != maps.parameters:  # T7
            raise FaultyServerError(f"the server's maps are {pairs}, this client's {maps.parameters}", "T7")
        inner = np.zeros(maps.size)
        if privacy is not None:
            return cls(maps, PrivateSum.from_bytes(found.inner, example=inner, privacy=privacy))
        mean = ScaledMean if kind_of(found.inner) == ScaledMeanParameters.kind else WeightedMean
        return cls(maps, mean.from_bytes(found.inner, example=inner))

    def encode(
        self,
        update: Update,
        weight: float = 1.0,
        *,
        seed: bytes | None = None,
        divisors: Sequence[float] | None = None,
        **noise: Any,
    ) -> Any:
        """Compress one client's update and encode it for the channel.

        Args:
            update: Array, or list or dictionary of arrays, with the names and shapes of `structure`.
            weight: The client's weight.
            seed: 32 bytes that decide how values are rounded; by default fresh from the operating system.
            divisors: One positive number for each array, by which it is divided before it is compressed.
            noise: `noise=`, this client's noise, if the inner transform is a `PrivateSum`.

        Raises:
            EncodingError: The update or the weight does not fit; nothing has been sent.
        """
        return self.transform.encode(self.maps.compress(update, divisors), weight, seed=seed, **noise)

    def inside(self, update: Update) -> Update:
        """Return the compressed values; for errors see `encode`."""
        return self.maps.compress(update)

    def beyond_clip(self, update: Update, divisors: Sequence[float] | None = None) -> int:
        """Count the compressed values beyond the clip; each array is divided by its divisor first, if there are any."""
        return self.transform.beyond_clip(self.maps.compress(update, divisors))

    def decode(self, total: npt.NDArray[Any], survivors: Collection[int]) -> Decoded:
        """Decode the sum to the mean of the compressed values, and expand it.

        Args:
            total: Sum of the vectors, as the protocol gave it.
            survivors: Ids of the clients whose vectors are in the sum, ascending.

        Raises:
            EncodingError: This is not a sum of encoded vectors.
            TooFewSurvivorsError: Too few clients are in it.
        """
        return self.expanded(self.transform.decode(total, survivors))

    def expanded(self, decoded: Decoded) -> Decoded:
        """Return what the inner transform decoded, with its mean expanded to `structure`."""
        return replace(decoded, mean=unflatten(self.maps.expand(decoded.mean), self.structure))


def as_maps(
    compression: Compression | Sequence[Compression] | None, *, rounded: bool = True
) -> tuple[Compression, ...]:
    """Return one map, or several, as a tuple; None means no map.

    Args:
        compression: One map, several, or None.
        rounded: Whether each value is clipped and rounded on its own: only then a rotation has an effect.

    Raises:
        ConfigError: Something is not a map, there are too many maps, or one would have no effect.
    """
    if compression is None:
        return ()
    maps = (compression,) if isinstance(compression, Compression) else compression
    if not isinstance(maps, Sequence) or not all(isinstance(each, Compression) for each in maps):
        raise ConfigError(
            f"compression {compression!r:.100} must be RandomK(fraction), RandomRotation(), LowRank(rank), or several "
            "of them in a tuple"
        )
    if not 1 <= len(maps) <= _MOST_MAPS:
        raise ConfigError(f"compression has {len(maps)} maps, needed 1 to {_MOST_MAPS}; None means no compression")
    if isinstance(maps[-1], RandomRotation) and not rounded:
        raise ConfigError(
            "RandomRotation has an effect only where values are rounded to `bits` bits: with SecAgg or Paillier, and "
            "without privacy, which has a rotation or fine steps of its own"
        )
    if any(isinstance(each, RandomRotation) for each in maps[:-1]):
        raise ConfigError("RandomRotation must be the last map: it serves the rounding that follows")
    return tuple(maps)


def _read_maps(data: bytes) -> list[tuple[int, int]]:
    """Read code and number of each map.

    Raises:
        MalformedMessageError: T1, there are no maps, too many, or one has an unknown code.
    """
    if not data or len(data) % _MAP_BYTES or len(data) > _MOST_MAPS * _MAP_BYTES:
        raise MalformedMessageError(f"{len(data)} bytes are not 1 to {_MOST_MAPS} maps of {_MAP_BYTES} bytes", 0)
    places = range(0, len(data), _MAP_BYTES)
    pairs = [(data[place], int.from_bytes(data[place + 1 : place + _MAP_BYTES], "little")) for place in places]
    if unknown := [code for code, _ in pairs if code not in KINDS]:
        raise MalformedMessageError(f"found maps of codes {unknown}, needed {list(KINDS)}", 0)
    return pairs
