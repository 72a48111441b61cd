"""What a party holds in each stage, one type for each: what another stage needed is not there to be used or saved.

A client's hold secrets, so they are neither shown, copied nor pickled. `snapshot.py` saves every field by its type.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated

import numpy.typing as npt

from secfed.crypto.agreement import KEY_BYTES, KeyPair
from secfed.crypto.shamir import SHARE_BYTES
from secfed.secagg.config import HASH_BYTES, Config
from secfed.secagg.graph import Graph, Set
from secfed.secagg.masking import Vector
from secfed.secagg.stages import Stage

# A vector, or what makes it when it is masked.
Contribution = Vector | Callable[[], npt.ArrayLike]
Hash = Annotated[bytes, HASH_BYTES]
Seed = Annotated[bytes, 32]
SharePairs = Annotated[dict[int, bytes], 2 * SHARE_BYTES]  # mask key's share, self seed's share


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Held:
    """What a client holds; each stage has a type of its own."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(redacted)"

    def __reduce__(self) -> str:
        raise TypeError("what a client holds is secret and cannot be pickled")

    def erase(self) -> None:
        """Drop every field, so that a traceback that still holds this object holds no secret by it."""
        for field in fields(self):
            object.__delattr__(self, field.name)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Joined(Held):
    """Before AdvertiseKeys."""

    vector: Contribution


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Keys(Held):
    """After AdvertiseKeys."""

    nonce: Seed
    channel: KeyPair
    mask: KeyPair
    signature: bytes  # empty without identity keys
    share_seed: Seed
    vector: Contribution


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Shared(Held):
    """After ShareKeys."""

    session_id: Hash
    advertised: Set
    graph: Graph
    mask: KeyPair
    self_seed: Seed
    mask_keys: Annotated[dict[int, bytes], KEY_BYTES]  # by number of the neighbor
    opening_keys: Annotated[dict[int, bytes], 16]  # by number of the sender
    shares: SharePairs  # its own, by its number; none on a k-regular graph
    vector: Contribution


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Masked(Held):
    """After MaskedInputCollection: the vector and what masked it are gone."""

    session_id: Hash
    advertised: Set
    graph: Graph
    shared: Set
    shares: SharePairs  # by number of the owner


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Signed(Masked):
    """After ConsistencyCheck."""

    survivors: Set


def held_in(stage: Stage, config: Config) -> type[Held]:
    """Return what a client holds in a stage of a session that is not over."""
    if stage is Stage.UNMASKING and config.malicious_server:
        return Signed
    return _HELD[stage]


_HELD: dict[Stage, type[Held]] = {
    Stage.ADVERTISE_KEYS: Joined,
    Stage.SHARE_KEYS: Keys,
    Stage.MASKED_INPUT_COLLECTION: Shared,
    Stage.CONSISTENCY_CHECK: Masked,
    Stage.UNMASKING: Masked,
}
