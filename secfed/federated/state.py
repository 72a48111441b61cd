"""The state of a training run, which can be saved to a file and resumed elsewhere.

Bytes: 16 that name the layout, the header's length (8 bytes, little-endian), the header (JSON), the model's values,
the algorithm's arrays by name, and the SHA-256 of everything before it.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.dp.accountant import Accountant
from secfed.encoding.flatten import Structure, flatten, structure, unflatten
from secfed.errors import EncodingError
from secfed.federated.results import Model

_LAYOUT = b"secfed/training2"
_DIGEST_BYTES = 32

Memory = dict[str, npt.NDArray[np.float64]]  # what an algorithm keeps from round to round


@dataclass(frozen=True, slots=True, eq=False)
class TrainingState:
    """A training run after a round; `Training.rounds` continues from it.

    The state holds the model and what the server's optimizer keeps of the means of all rounds. Under secure aggregation
    the server has both anyway; with privacy both follow from what was released. The state holds no cohorts, no seeds
    and no client's update.

    Attributes:
        algorithm: Name of the algorithm's class.
        round: Number of the last round, failed ones included; 0 before the first.
        model: The model after that round.
        memory: What the algorithm keeps, such as FedAdam's `m` and `v`: float64 arrays by name.
        clip_norm: The clip of the next round, as adaptive clipping left it; with a clip for each array, the clip of the
            whole. None without privacy.
        accountant: All that was released. None without privacy, and with a ledger, which records it.
        schedule: Arrays by name: the simulated clock and, for FedBuff and FedAsync, which clients are training and from
            which model.
    """

    algorithm: str
    round: int
    model: Model = field(repr=False)
    memory: Memory = field(repr=False)
    clip_norm: float | None = None
    accountant: Accountant | None = field(default=None, repr=False)
    schedule: Memory = field(default_factory=dict, repr=False)

    def to_bytes(self) -> bytes:
        """Return the bytes that `from_bytes` reads: no pickle, and the same on every machine.

        The digest at the end finds damage, not forgery: keep the file where only its owner writes.
        """
        like, values = structure(self.model), flatten(self.model)
        kept = sorted(self.memory.items()), sorted(self.schedule.items())
        header = {
            "algorithm": self.algorithm,
            "round": self.round,
            "clip_norm": self.clip_norm,
            "accountant": self.accountant.to_json() if self.accountant else None,
            "paths": like.paths,
            "shapes": like.shapes,
            "dtypes": [dtype.newbyteorder("<").str for dtype in like.dtypes],
            "memory": [(name, array.shape) for name, array in kept[0]],
            "schedule": [(name, array.shape) for name, array in kept[1]],
        }
        text = json.dumps(header).encode()
        parts = [_LAYOUT, len(text).to_bytes(8, "little"), text]
        parts += [_little_endian(values), *(_little_endian(array) for arrays in kept for _, array in arrays)]
        joined = b"".join(parts)
        return joined + hashlib.sha256(joined).digest()

    @classmethod
    def from_bytes(cls, saved: bytes, *, example: Model) -> "TrainingState":
        """Read what `to_bytes` wrote.

        Args:
            saved: The bytes.
            example: A model of the same structure, such as the one that the training began with: the bytes hold names,
                shapes and dtypes, but not whether a list was a list or a tuple.

        Raises:
            EncodingError: The bytes are damaged or not a saved state, or the model's structure differs.
        """
        joined, digest = saved[:-_DIGEST_BYTES], saved[-_DIGEST_BYTES:]
        if joined[: len(_LAYOUT)] != _LAYOUT:
            raise EncodingError("these bytes are not a saved training state of this version of secfed")
        if hashlib.sha256(joined).digest() != digest:
            raise EncodingError("the saved training state is damaged: its digest is wrong")
        try:
            return cls._read(memoryview(joined)[len(_LAYOUT) :], structure(example))
        except EncodingError:
            raise
        except (KeyError, TypeError, ValueError) as error:  # the digest is right but the content is not
            raise EncodingError(f"the saved training state is inconsistent: {error}") from None

    @classmethod
    def _read(cls, saved: memoryview, like: Structure) -> "TrainingState":
        start = 8 + int.from_bytes(saved[:8], "little")
        header = json.loads(bytes(saved[8:start]))
        shapes = tuple(tuple(shape) for shape in header["shapes"])
        dtypes = tuple(np.dtype(dtype).newbyteorder("=") for dtype in header["dtypes"])
        own = Structure(like.paths, like.shapes, tuple(dtype.newbyteorder("=") for dtype in like.dtypes), None)
        if difference := own.difference(Structure(tuple(header["paths"]), shapes, dtypes, None)):
            raise EncodingError(f"the saved model is not shaped like the example: {difference}")
        arrays, double = [], np.dtype(np.float64)
        names = [name for name, _ in header["memory"]]
        kept = header["memory"] + header["schedule"]
        expected = [(flatten(like.example).dtype, (like.size,)), *((double, shape) for _, shape in kept)]
        for dtype, shape in expected:
            little = dtype.newbyteorder("<")
            count = int(np.prod(shape, dtype=np.int64))
            arrays.append(np.frombuffer(saved, little, count, start).reshape(shape).astype(little.newbyteorder("=")))
            start += count * little.itemsize
        if start != len(saved):
            raise EncodingError(f"the saved training state has {len(saved) - start} bytes too many")
        accountant = header["accountant"]
        return cls(
            str(header["algorithm"]),
            int(header["round"]),
            unflatten(arrays[0], like),
            dict(zip(names, arrays[1:], strict=False)),
            None if header["clip_norm"] is None else float(header["clip_norm"]),
            Accountant.from_json(accountant) if accountant is not None else None,
            {name: array for (name, _), array in zip(header["schedule"], arrays[1 + len(names) :], strict=True)},
        )


def copied(model: Model) -> Model:
    """Return a copy of a model."""
    return unflatten(flatten(model), structure(model))


def _little_endian(array: npt.NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
