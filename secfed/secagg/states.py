"""What a party holds in each stage, one type for each: it has nothing that only another stage needs.

A client's state holds secrets, so it is not shown, copied or pickled. `snapshot.py` saves every field by its type.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Annotated

import numpy.typing as npt

from secfed.crypto.agreement import KEY_BYTES, KeyPair
from secfed.crypto.shamir import SHARE_BYTES
from secfed.crypto.signing import SIGNATURE_BYTES
from secfed.secagg.config import Config
from secfed.secagg.graph import Graph
from secfed.secagg.masking import Accumulator, Vector
from secfed.secagg.stages import Stage
from secfed.wire import HASH_BYTES, Set

# A vector, or what makes it when it is masked.
Contribution = Vector | Callable[[], npt.ArrayLike]
Hash = Annotated[bytes, HASH_BYTES]
Seed = Annotated[bytes, 32]
SharePairs = Annotated[dict[int, bytes], 2 * SHARE_BYTES]  # mask key's share, self seed's share


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Held:
    """What a client holds; each stage has its own type."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(redacted)"

    def __reduce__(self) -> str:
        raise TypeError("what a client holds is secret and cannot be pickled")

    def erase(self) -> None:
        """Drop every field, so that a traceback that still holds this object holds no secret."""
        for each in fields(self):
            object.__delattr__(self, each.name)


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
    mask_keys: Annotated[dict[int, bytes], KEY_BYTES]  # by position of the neighbor
    opening_keys: Annotated[dict[int, bytes], 16]  # by position of the sender
    shares: SharePairs  # its own, by its position; none on a k-regular graph
    vector: Contribution


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Masked(Held):
    """After MaskedInputCollection: the vector and its masks are gone."""

    session_id: Hash
    advertised: Set
    graph: Graph
    shared: Set
    shares: SharePairs  # by position of the owner


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Signed(Masked):
    """After ConsistencyCheck."""

    survivors: Set


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Released(Held):
    """After Unmasking: nothing secret is left."""

    survivors: Set


# What the server holds: no secrets, only what clients sent, by their positions.


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Seen:
    """What the server holds; each stage has its own type."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Advertising(Seen):
    """During AdvertiseKeys."""

    nonce: Seed
    channel_keys: dict[int, bytes]
    mask_keys: dict[int, bytes]
    signatures: dict[int, bytes]  # empty bytes without identity keys
    known_keys: set[bytes] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.known_keys.update(self.channel_keys.values(), self.mask_keys.values())


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Advertised(Seen):
    """Once the keys are known, up to the sum."""

    session_id: Hash
    advertised: Set
    graph: Graph
    mask_keys: dict[int, bytes]
    commitments: Annotated[dict[int, bytes], HASH_BYTES]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Sharing(Advertised):
    """During ShareKeys."""

    sealed: dict[int, bytes]  # a column over its holders other than itself


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Collecting(Advertised):
    """During MaskedInputCollection; each masked vector is added at once."""

    shared: Set
    unopened: dict[int, bytes]  # by position of the holder: whose shares it could not open
    accumulator: Accumulator


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Signing(Seen):
    """During ConsistencyCheck."""

    collected: Collecting
    survivors: Set
    signatures: Annotated[dict[int, bytes], SIGNATURE_BYTES]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Opening(Seen):
    """During Unmasking."""

    collected: Collecting
    survivors: Set
    shares: dict[int, bytes]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Ended(Seen):
    """After the end without a sum; survivors are empty if it came before the end of MaskedInputCollection."""

    survivors: Set


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Done(Ended):
    """After the end."""

    sum: Vector


def held_in(stage: Stage, config: Config) -> type[Held]:
    """Return what a client holds in a stage of a session that is not over."""
    return Signed if stage is Stage.UNMASKING and config.malicious_server else _HELD[stage]


_HELD: dict[Stage, type[Held]] = {
    Stage.ADVERTISE_KEYS: Joined,
    Stage.SHARE_KEYS: Keys,
    Stage.MASKED_INPUT_COLLECTION: Shared,
    Stage.CONSISTENCY_CHECK: Masked,
    Stage.UNMASKING: Masked,
}

SEEN: dict[Stage, type[Seen]] = {
    Stage.ADVERTISE_KEYS: Advertising,
    Stage.SHARE_KEYS: Sharing,
    Stage.MASKED_INPUT_COLLECTION: Collecting,
    Stage.CONSISTENCY_CHECK: Signing,
    Stage.UNMASKING: Opening,
    Stage.DONE: Done,
    Stage.ABORTED: Ended,
}
