"""A model update of any shape to one flat array and back; and the hash of a model.

An update is an array, or a list, tuple, named tuple or dictionary of updates. Dictionaries are taken in the order of
their keys sorted as strings. Source: `protocols/encoding/README.md`, section 5.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secfed.errors import EncodingError

Update = Any  # an array, or lists, tuples and dictionaries of arrays, nested


@dataclass(frozen=True)
class Structure:
    """The names, shapes and dtypes of an update, so that a flat array can become one again."""

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype[Any], ...]
    example: Update

    @property
    def size(self) -> int:
        """Values in all arrays together."""
        return sum(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    def difference(self, other: "Structure", *, dtypes: bool = True) -> str:
        """Return where another update differs, or ""; `dtypes` says whether dtypes are compared."""
        if self.paths != other.paths:
            odd = sorted(set(self.paths) ^ set(other.paths))
            return f"arrays {odd[:3]} are in one but not in the other" if odd else "the arrays come in another order"
        for path, shape, other_shape in zip(self.paths, self.shapes, other.shapes, strict=True):
            if shape != other_shape:
                return f"{path or 'the array'} has shape {other_shape}, needed {shape}"
        for path, dtype, other_dtype in zip(self.paths, self.dtypes, other.dtypes, strict=True):
            if dtypes and dtype != other_dtype:
                return f"{path or 'the array'} has dtype {other_dtype}, needed {dtype}"
        return ""

    def check(self, update: Update, *, dtypes: bool = True) -> None:
        """Check that an update has this structure; `dtypes` says whether dtypes are compared.

        Raises:
            EncodingError: Names, shapes or dtypes differ, or a value is not finite.
        """
        if difference := self.difference(structure(update), dtypes=dtypes):
            raise EncodingError(difference)
        if odd := not_finite(update):
            raise EncodingError(odd)

    def values(self, update: Update) -> npt.NDArray[np.floating[Any]]:
        """Flatten an update that must have these names and shapes, of any float dtype, to shape `(size,)`.

        Raises:
            EncodingError: Names or shapes differ, or a value is not finite.
        """
        self.check(update, dtypes=False)
        return flatten(update)


def structure(update: Update) -> Structure:
    """Describe an update.

    Raises:
        EncodingError: It holds no arrays, or something that is not an array of floating-point numbers.
    """
    leaves = list(_leaves(update, ""))
    if not leaves:
        raise EncodingError("the update holds no array")
    for path, array in leaves:
        if array.dtype.kind != "f":
            raise EncodingError(
                f"{path or 'the array'} has dtype {array.dtype}, needed floating-point numbers: convert it, as with "
                "astype(np.float32)"
            )
    found = Structure(
        tuple(path for path, _ in leaves),
        tuple(array.shape for _, array in leaves),
        tuple(array.dtype for _, array in leaves),
        update,
    )
    if found.size == 0:
        raise EncodingError("the update holds no value: all its arrays are empty")
    return found


def arrays(update: Update) -> list[npt.NDArray[Any]]:
    """Return the arrays of an update, in the order in which `flatten` joins them."""
    return [array for _, array in _leaves(update, "")]


def not_finite(update: Update) -> str:
    """Return the first array that holds a value that is not finite, and where; or ""."""
    for path, array in _leaves(update, ""):
        finite = np.isfinite(array)
        if not finite.all():
            index = [int(place) for place in np.unravel_index(int(np.argmin(finite)), array.shape)]
            return f"{path or 'the array'} holds a value that is not finite" + (f", at index {index}" if index else "")
    return ""


def flatten(update: Update) -> npt.NDArray[np.floating[Any]]:
    """Join all arrays, each in C order, to one of shape `(size,)`; of float64 unless all have one narrower dtype."""
    parts = [array.reshape(-1) for array in arrays(update)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def unflatten(values: npt.NDArray[np.floating[Any]], like: Structure, *, copy: bool = True) -> Update:
    """Cut a flat array of shape `(size,)` into an update with the given structure; the inverse of `flatten`.

    Args:
        values: The array.
        like: The structure.
        copy: Whether the arrays are copies; if not, those of the same dtype share the memory of `values`.
    """
    ends = np.cumsum([int(np.prod(shape, dtype=np.int64)) for shape in like.shapes])
    parts = np.split(values, ends[:-1])
    shaped = zip(parts, like.shapes, like.dtypes, strict=True)
    return _rebuild(like.example, iter([part.reshape(shape).astype(dtype, copy=copy) for part, shape, dtype in shaped]))


def combine(function: Callable[..., npt.NDArray[Any]], first: Update, *others: Update) -> Update:
    """Apply a function to the matching arrays of several updates; cheap enough for every training step.

    Args:
        function: Takes one array of each update, and returns one.
        first: The result has its structure.
        others: Updates with the same names and shapes.

    Raises:
        EncodingError: Names or shapes differ, or something is not an array.
    """
    leaves = [list(_leaves(update, "")) for update in (first, *others)]
    places = [[(path, array.shape) for path, array in found] for found in leaves]
    if any(place != places[0] for place in places):
        like = structure(first)
        for other in others:
            if difference := like.difference(structure(other), dtypes=False):
                raise EncodingError(difference)
    combined = [np.asarray(function(*(array for _, array in place))) for place in zip(*leaves, strict=True)]
    return _rebuild(first, iter(combined))


def model_hash(model: Update) -> bytes:
    """Return 32 bytes that stand for a model: its names, shapes, dtypes and every value."""
    digest = hashlib.sha256(b"secfed/encoding/v1 model")
    for path, array in _leaves(model, ""):
        header = f"{path}\0{array.dtype.newbyteorder('<').str}\0{array.shape}\0".encode()
        digest.update(len(header).to_bytes(4, "little") + header)
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return digest.digest()


def _leaves(update: Update, path: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    if isinstance(update, Mapping):
        if len({str(key) for key in update}) < len(update):
            raise EncodingError(f"two names in {path or 'the update'} are the same as strings")
        for key in sorted(update, key=str):
            name = str(key).replace("~", "~0").replace("/", "~1")  # as in RFC 6901: a/b is a name inside another
            yield from _leaves(update[key], f"{path}/{name}" if path else name)
    elif isinstance(update, Sequence) and not isinstance(update, str | bytes):
        for i, part in enumerate(update):
            yield from _leaves(part, f"{path}/{i}" if path else str(i))
    elif isinstance(update, float | int) and not isinstance(update, np.generic):  # numpy makes scalars of 0-d arrays
        raise EncodingError(f"{path or 'the update'} is a plain number, needed an array: wrap it in np.asarray")
    elif isinstance(update, np.ma.MaskedArray):  # asarray would drop the mask and aggregate what it hides
        raise EncodingError(f"{path or 'the array'} is a masked array, needed a plain one: use its method filled")
    else:
        yield path, np.asarray(update)


def _rebuild(example: Update, arrays: Iterator[npt.NDArray[Any]]) -> Update:
    if isinstance(example, Mapping):
        named = {key: _rebuild(example[key], arrays) for key in sorted(example, key=str)}
        return {key: named[key] for key in example}
    if isinstance(example, Sequence) and not isinstance(example, str | bytes):
        parts = [_rebuild(part, arrays) for part in example]
        if not isinstance(example, tuple):
            return parts
        return type(example)._make(parts) if hasattr(example, "_make") else tuple(parts)
    return next(arrays)
