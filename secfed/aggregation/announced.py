"""How a client checks the parameters of a sum that a server announces, over any transport."""

from collections.abc import Sequence
from dataclasses import replace

from secfed.aggregation.array_clips import ArrayClips, Clip
from secfed.aggregation.compressed import Compressed, as_maps
from secfed.aggregation.per_array import PerArrayClipping
from secfed.aggregation.privacy import Privacy
from secfed.aggregation.private_sum import PrivateSum
from secfed.aggregation.scaled_mean import ScaledMean
from secfed.aggregation.transform import Transform
from secfed.aggregation.weighted_mean import WeightedMean
from secfed.encoding.compression import Compression
from secfed.encoding.flatten import Update


def read_transform(
    data: bytes,
    *,
    example: Update,
    clip: Clip = 0.0,
    compression: Compression | Sequence[Compression] | None = None,
    privacy: Privacy | None = None,
    scale_weights: bool = False,
) -> Transform:
    """Read the parameters of a sum on a client, which decides for itself what kind of sum it takes part in.

    Args:
        data: What `to_bytes` gave on the server.
        example: What an update looks like on this client, such as its model.
        clip: Has an effect only if it is one number for each array: the client then requires these.
        compression: The maps that the client requires; None means no compression.
        privacy: What the client requires; None means a mean without noise.
        scale_weights: Whether values are multiplied by weights before they are rounded (without compression and noise).

    Raises:
        ConfigError: The compression or the clip does not fit the example.
        MalformedMessageError: T1, these bytes are not parameters of such a sum.
        FaultyServerError: T2 to T5, T7 and T8, the server's sum is not the one that this client requires.
    """
    if isinstance(clip if privacy is None else privacy.clip_norm, ArrayClips):
        return PerArrayClipping.from_bytes(data, example=example, clip=clip, compression=compression, privacy=privacy)
    if compression is not None:
        return Compressed.from_bytes(data, example=example, compression=as_maps(compression), privacy=privacy)
    if privacy is not None:
        return PrivateSum.from_bytes(data, example=example, privacy=privacy)
    if scale_weights:
        return ScaledMean.from_bytes(data, example=example)
    return WeightedMean.from_bytes(data, example=example)


def with_seeds_of(own: Transform, sent: Transform) -> Transform:
    """Use the server's public seeds of rotation and compression, the only part of a sum that only the server can
    choose.

    Args:
        own: The transform that this party's own parameters give.
        sent: The transform that the server announced.

    Returns:
        `own`, with the seeds of `sent` if both are of one kind.
    """
    if isinstance(own, Compressed) and isinstance(sent, Compressed):
        return Compressed(replace(own.maps, seed=sent.maps.seed), with_seeds_of(own.inner, sent.inner))
    if isinstance(own, PerArrayClipping) and isinstance(sent, PerArrayClipping):
        return replace(own, transform=with_seeds_of(own.transform, sent.transform))
    if isinstance(own, PrivateSum) and isinstance(sent, PrivateSum) and own.plan:
        return replace(own, rotation_seed=sent.rotation_seed)
    return own
