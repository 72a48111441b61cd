"""One clip for each array of an update: an alternative to one number for `clip=` and `clip_norm=`."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from secfed.dp.checks import check_number, check_positive
from secfed.encoding.flatten import Structure, Update, arrays, combine, structure
from secfed.errors import ConfigError, EncodingError

Clip = float | Mapping[Any, Any] | Sequence[Any]
# Beyond these, squares and quotients of values that matter leave the range of float64.
LEAST, LARGEST = 1e-100, 1e100


class ArrayClips(Mapping[str, float]):
    """The clips by the paths of the arrays. It is immutable, so aggregators that hold it can be hashed.

    Args:
        name: The parameter, for errors.
        clips: Numbers in the structure of an update: a list or dictionary, also a nested one.

    Raises:
        ConfigError: There is no clip, or one is not a number from 1e-100 to 1e100.
    """

    def __init__(self, name: str, clips: Mapping[Any, Any] | Sequence[Any]) -> None:
        def as_array(clip: Any) -> Any:
            if not LEAST <= check_number(name, clip) <= LARGEST:
                raise ConfigError(f"{name} {clip} must be from {LEAST} to {LARGEST}, for each array")
            return np.asarray(float(clip))

        tree = _each(as_array, clips)
        try:
            paths = structure(tree).paths
        except EncodingError as error:
            raise ConfigError(f"{name} {clips!r:.100} does not give arrays their clips: {error}") from None
        self._name = name
        self._clips = {path: float(clip) for path, clip in zip(paths, arrays(tree), strict=True)}

    def __getitem__(self, path: str) -> float:
        return self._clips[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._clips)

    def __len__(self) -> int:
        return len(self._clips)

    def __hash__(self) -> int:
        return hash(frozenset(self._clips.items()))

    def __repr__(self) -> str:
        return repr(self._clips)

    def of(self, like: Structure) -> tuple[float, ...]:
        """Return the clips of the arrays of an update, in the order in which `flatten` joins them.

        Args:
            like: The structure of the update.

        Raises:
            ConfigError: An array has no clip, or a clip no array.
        """
        missing = [path for path in like.paths if path not in self._clips]
        surplus = sorted(set(self._clips) - set(like.paths))
        if missing or surplus:
            many = f"{len(missing)} of {len(like.paths)} arrays have no {self._name}: {missing[:5]}"
            raise ConfigError(
                f"{many if missing else ''}{'; ' if missing and surplus else ''}"
                f"{f'{self._name} names {surplus[:5]}, which the update does not have' if surplus else ''}"
                "; needed one for each array, in the structure of the update"
            )
        return tuple(self._clips[path] for path in like.paths)


def as_clip(name: str, clip: Any) -> Any:
    """Return the clips of a mapping or a sequence as `ArrayClips`, and anything else as it is.

    Raises:
        ConfigError: The clips are not valid.
    """
    several = isinstance(clip, Mapping | Sequence) and not isinstance(clip, str | bytes | ArrayClips)
    return ArrayClips(name, clip) if several else clip


def propose_clips(*examples: Update, margin: float = 2.0) -> Any:
    """Propose a clip for each array: its largest absolute value in the examples, times a margin.

    Args:
        examples: One update, or several with the same names and shapes; of any float dtype.
        margin: How much larger the values of other updates may be; positive.

    Returns:
        Floats in the structure of the example, for `clip=` of `secfed.SecAgg` and `secfed.Paillier`.

    Raises:
        ConfigError: There is no example, the margin is not positive, or an array has no value other than 0: then choose
            its clip yourself.
        EncodingError: The examples are not updates, differ in names or shapes, or hold a value that is not finite.

    Security:
        Every party of a session sees the clips. So the examples must be public too, such as updates from training on
        public data: the largest values of a client's own update reveal something about its data, and no noise hides it.

    >>> import numpy as np
    >>> propose_clips({"weight": np.array([0.25, -1.5]), "bias": np.array([0.01])}, margin=2)
    {'weight': 3.0, 'bias': 0.02}
    """
    margin = check_positive("margin", margin)
    if not examples:
        raise ConfigError("found no example, needed one update or more")
    for example in examples:
        structure(examples[0]).check(example, dtypes=False)
    largest = combine(lambda *parts: np.asarray(max(np.max(np.abs(part), initial=0.0) for part in parts)), *examples)
    if zeros := [
        path for path, most in zip(structure(largest).paths, arrays(largest), strict=True) if not float(most) * margin
    ]:
        raise ConfigError(f"arrays {zeros[:5]} have no value other than 0: an example cannot tell their clips")
    return _each(lambda most: float(most) * margin, largest)


def whole_norm(norms: Iterable[float]) -> float:
    """Return the largest norm of an update whose arrays have these norms: the root of the sum of their squares."""
    return math.sqrt(math.fsum(norm * norm for norm in norms))


def _each(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to what a nested list or dictionary holds."""
    if isinstance(tree, Mapping):
        return {key: _each(function, part) for key, part in tree.items()}
    if isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        return [_each(function, part) for part in tree]
    return function(tree)
