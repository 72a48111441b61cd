"""The messages of the stage SURPLUS_NOISE.

`protocols/aggregation/README.md` specifies them; `protocols/aggregation/messages.json` lists the fields.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from secfed.wire import HASH_BYTES, Message


@dataclass(frozen=True, slots=True)
class SurplusNoiseRequest(Message):
    """Asks a survivor for the seeds of the noise layers that are not needed; 38 bytes."""

    kind: ClassVar[int] = 35
    transform_hash: Annotated[bytes, HASH_BYTES]  # the parameters' hash, new for every sum
    kept: Annotated[bytes, 4]  # u32: layers that stay, from the first


@dataclass(frozen=True, slots=True)
class SurplusNoiseResponse(Message):
    """The seeds of the layers that do not stay, in order."""

    kind: ClassVar[int] = 36
    transform_hash: Annotated[bytes, HASH_BYTES]
    seeds: bytes  # 32 bytes each
