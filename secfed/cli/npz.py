"""Updates in .npz files."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secfed.errors import ConfigError


def arrays_of(file: Path) -> dict[str, Any]:
    """Read the arrays of an .npz file.

    Raises:
        ConfigError: It cannot be read, or is not an .npz file of arrays.
    """
    import numpy as np

    with _named_errors(file):
        found = np.load(file, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ConfigError(f"{file} holds one array, needed an .npz file, as np.savez writes it")
        with found:
            return {name: found[name] for name in found.files}


def shapes_of(file: Path) -> dict[str, Any]:
    """Read names, shapes and dtypes of an .npz file; the arrays are zeros that take no memory.

    Raises:
        ConfigError: It cannot be read, or is not an .npz file of arrays.
    """
    import numpy as np

    found = {}
    with _named_errors(file), zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                version = np.lib.format.read_magic(entry)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(entry)
            found[name.removesuffix(".npy")] = np.broadcast_to(np.zeros((), dtype), shape)
    return found


def write_arrays(file: Path, arrays: dict[str, Any]) -> None:
    """Write arrays to an .npz file, which is safely on disk when this returns.

    Raises:
        OSError: It cannot be written.
    """
    import numpy as np

    with file.open("wb") as whole:
        with zipfile.ZipFile(whole, "w") as archive:  # not np.savez, which cannot save an array named "file"
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
        whole.flush()
        os.fsync(whole.fileno())


@contextmanager
def _named_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from None
    except ConfigError:
        raise
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{file} is not an .npz file of arrays: {error}") from None
