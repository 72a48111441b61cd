"""A transform that clips each array of an update on its own and then applies another transform."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.aggregation.array_clips import LARGEST, LEAST, Clip, as_clip, whole_norm
from secfed.aggregation.compressed import Compressed, as_maps
from secfed.aggregation.messages import (
    ArrayClipsParameters,
    ScaledMeanParameters,
    f64,
    read_f64,
)
from secfed.aggregation.privacy import Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.scaled_mean import ScaledMean
from secfed.aggregation.transform import Decoded, Preceded, Transform
from secfed.aggregation.weighted_mean import WeightedMean
from secfed.encoding.compression import Compression, RandomRotation
from secfed.encoding.conditional_rounding import clip_by_norm
from secfed.encoding.flatten import Structure, Update, combine, structure
from secfed.errors import ConfigError, FaultyServerError, MalformedMessageError
from secfed.wire import kind_of


@dataclass(frozen=True)
class PerArrayClipping(Preceded):
    """Clip each array on its own, then apply another transform.

    * For a mean, each value is divided by the clip of its array, and the inner transform has the clip 1. So each
      value is rounded with a step that fits its array, and the server multiplies the mean by the clips.
    * For a private sum, each array is scaled down to its own Euclidean norm. The norm of the update is then at most the
      root of the sum of their squares, and that is the `clip_norm` of the inner transform: noise and event are
      the same as if the whole update were clipped to this norm.

    Args:
        structure: Names, shapes and dtypes of the mean.
        clips: One for each array, in the order of `structure`.
        transform: What makes the clipped arrays a vector: a `WeightedMean`, a `ScaledMean` or one of these in a
            `Compressed`, for `structure` with dtypes of float64; or a `PrivateSum`.

    Client and server hold the same object; `length`, `modulus_bits` and `context` go into the `secagg.Config`.

    Raises:
        ConfigError: There is not one clip for each array, or the inner transform does not fit.

    Source: McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models, ICLR 2018,
    section 3 (per-layer clipping), for private sums.
    """

    structure: Structure
    clips: tuple[float, ...]
    transform: Transform

    def __post_init__(self) -> None:
        if len(self.clips) != len(self.structure.paths):
            raise ConfigError(f"{len(self.clips)} clips for {len(self.structure.paths)} arrays")
        if difference := self.structure.difference(self.transform.structure, dtypes=False):
            raise ConfigError(f"the inner transform is for another update: {difference}")
        inner = self.transform.inner
        private = isinstance(self.transform, PrivateSum)
        found = inner.privacy.clip_norm if isinstance(inner, PrivateSum) else _clip_of(inner)
        needed = whole_norm(self.clips) if private else 1.0
        if found != needed or isinstance(inner, PrivateSum) is not private:
            raise ConfigError(f"the inner transform has the clip {found}, needed {needed}")
        if isinstance(self.transform, Compressed):
            refuse_rotation(self.transform.maps.compression)

    def to_bytes(self) -> bytes:
        """Return the public parameters, for the clients; see `protocols/aggregation/README.md`."""
        clips = b"".join(f64(clip) for clip in self.clips)
        return ArrayClipsParameters(clips=clips, inner=self.transform.to_bytes()).to_bytes()

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        example: Update,
        clip: Clip | None = None,
        compression: Compression | Sequence[Compression] | None = None,
        privacy: Privacy | None = None,
    ) -> "PerArrayClipping":
        """Read the parameters of a sum on a client, which checks everything that it can.

        Args:
            data: What `to_bytes` gave on the server.
            example: What an update looks like on this client, such as its model.
            clip: The clips that this client requires, in the structure of the example; for a mean.
            compression: The maps that this client requires; for a mean.
            privacy: What this client requires, with a `clip_norm` for each array; for a private sum.

        Raises:
            ConfigError: The clips do not fit the example, or there are no clips.
            MalformedMessageError: T1, the bytes are not parameters of a sum with such clips.
            FaultyServerError: T8, the server's clips are others; T2 to T7, as for the inner transform.
        """
        found, like = ArrayClipsParameters.from_bytes(data), structure(example)
        own = as_clip("clip", clip) if privacy is None else privacy.clip_norm
        insisted = clips_of(own, like)
        sent = _read_clips(found.clips)
        if len(sent) != len(like.paths):  # T2
            raise FaultyServerError(
                f"the server's update has {len(sent)} arrays, this client's {len(like.paths)}", "T2"
            )
        if sent != insisted:  # T8
            differ = [path for path, one, other in zip(like.paths, sent, insisted, strict=True) if one != other]
            raise FaultyServerError(f"the server's clips of arrays {differ[:5]} are not this client's", "T8")
        inner: Transform
        if privacy is not None:
            whole = replace(privacy, clip_norm=whole_norm(sent))
            return cls(like, sent, PrivateSum.from_bytes(found.inner, example=example, privacy=whole))
        maps = as_maps(compression)
        refuse_rotation(maps)
        if maps:
            inner = Compressed.from_bytes(found.inner, example=in_float64(example), compression=maps)
        elif kind_of(found.inner) == ScaledMeanParameters.kind:
            inner = ScaledMean.from_bytes(found.inner, example=in_float64(example))
        else:
            inner = WeightedMean.from_bytes(found.inner, example=in_float64(example))
        if (one := _clip_of(inner.inner)) != 1:
            raise MalformedMessageError(f"the inner transform has the clip {one}, needed 1", 0)
        return cls(like, sent, inner)

    def inside(self, update: Update) -> Update:
        """Return what is rounded and sent of an update: each array is clipped to its norm, or divided by its clip.

        Raises:
            EncodingError: The update does not fit.
        """
        self.structure.check(update, dtypes=False)
        clips = iter(self.clips)
        if isinstance(self.transform, PrivateSum):
            return combine(lambda array: clip_by_norm(array.reshape(-1), next(clips)).reshape(array.shape), update)
        return self.transform.inside(combine(lambda array: np.divide(array, next(clips), dtype=np.float64), update))

    def encode(self, update: Update, weight: float = 1.0, *, seed: bytes | None = None, **noise: Any) -> Any:
        """Clip one client's update and encode it for the channel.

        Args:
            update: Array, or list or dictionary of arrays, with the names and shapes of `structure`.
            weight: The client's weight.
            seed: 32 bytes that decide how values are rounded; by default fresh from the operating system.
            noise: `noise=`, this client's noise, if the inner transform is a `PrivateSum`.

        Raises:
            EncodingError: The update or the weight does not fit; nothing has been sent.
        """
        if isinstance(self.transform, PrivateSum):
            return self.transform.encode(self.inside(update), weight, seed=seed, **noise)
        # The inner transform divides block by block, so no second update is in memory.
        encode: Any = self.transform.encode
        return encode(update, weight, seed=seed, divisors=self.clips)

    def beyond_clip(self, update: Update) -> int:
        """Count the values beyond the clip of their array."""
        if isinstance(self.transform, PrivateSum):
            return 0
        beyond_clip: Any = self.transform.beyond_clip
        return int(beyond_clip(update, divisors=self.clips))

    def decode(self, total: npt.NDArray[Any], survivors: Collection[int]) -> Decoded:
        """Decode the sum to the mean; for a mean of divided values, multiply it by the clips.

        Args:
            total: Sum of the vectors, as the protocol gave it.
            survivors: Ids of the clients whose vectors are in the sum, ascending.

        Raises:
            EncodingError: This is not a sum of encoded vectors.
            TooFewSurvivorsError: Too few clients are in it.
        """
        return self._multiplied(self.transform.decode(total, survivors))

    def expanded(self, decoded: Decoded) -> Decoded:
        """Return what the innermost transform decoded, with its mean turned back into one of updates."""
        return self._multiplied(self.transform.expanded(decoded))

    def _multiplied(self, decoded: Decoded) -> Decoded:
        if isinstance(self.transform, PrivateSum):
            return decoded
        clips, dtypes = iter(self.clips), iter(self.structure.dtypes)
        mean = combine(lambda part: np.multiply(part, next(clips)).astype(next(dtypes), copy=False), decoded.mean)
        return replace(decoded, mean=mean)


def clips_of(clip: Any, like: Structure) -> tuple[float, ...]:
    """Return the clips of the arrays of an update.

    Raises:
        ConfigError: There is no clip for each array.
    """
    if not hasattr(clip, "of"):
        raise ConfigError(f"found the clip {clip!r:.100}, needed a dictionary or list of clips, one for each array")
    found: tuple[float, ...] = clip.of(like)
    return found


def in_float64(example: Update) -> Update:
    """Return what looks like the example with dtypes of float64, and takes no memory for its values."""
    return combine(lambda array: np.broadcast_to(np.float64(0), array.shape), example)


def refuse_rotation(maps: Sequence[Compression]) -> None:
    """Refuse a map that mixes arrays: after it, values belong to no array.

    Raises:
        ConfigError: There is a rotation.
    """
    if any(isinstance(each, RandomRotation) for each in maps):
        raise ConfigError(
            "RandomRotation mixes the values of all arrays, so it has no clips for each array: needed one number for "
            "clip, or another compression"
        )


def _clip_of(transform: Transform) -> float:
    return transform.fixed_point.clip if isinstance(transform, WeightedMean | ScaledMean) else math.nan


def _read_clips(data: bytes) -> tuple[float, ...]:
    """Read the clips.

    Raises:
        MalformedMessageError: T1, the bytes are not a whole number of clips, or one is out of range.
    """
    if not data or len(data) % 8:
        raise MalformedMessageError(f"{len(data)} bytes are not clips of 8 bytes", 0)
    clips = tuple(read_f64("clip", data[place : place + 8]) for place in range(0, len(data), 8))
    if odd := [clip for clip in clips if not LEAST <= clip <= LARGEST]:
        raise MalformedMessageError(f"found the clip {odd[0]}, needed {LEAST} to {LARGEST}", 0)
    return clips
