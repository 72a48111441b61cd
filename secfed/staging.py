"""A message that arrives in chunks: a short one is kept in memory, a long one in a temporary file.

The file has no name, only its owner can read it, and it is gone when it is closed or the process ends.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, Self, overload

from secfed.errors import SecFedError

LONG: Final = 1 << 21  # bytes; a longer message is kept in a file
_READ: Final = 1 << 20  # bytes that are read from the file at a time


class FileBytes:
    """Bytes in a file. A slice of them is a part of the file, which `bytes(slice)` reads.

    Args:
        file: The file; no other code may change its position.
        start: Where the bytes begin.
        stop: Where they end.
    """

    def __init__(self, file: IO[bytes], start: int, stop: int) -> None:
        self._file, self._start, self._stop = file, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> int | Self:
        places = range(self._start, self._stop)[index]
        if isinstance(places, int):
            return bytes(type(self)(self._file, places, places + 1))[0]
        if places.step != 1:
            raise ValueError("bytes in a file are read without a gap")
        return type(self)(self._file, places.start, max(places.start, places.stop))

    def __bytes__(self) -> bytes:
        """Read them.

        Raises:
            OSError: The file cannot be read, or is too short.
        """
        self._file.seek(self._start)
        data = self._file.read(len(self))
        if len(data) != len(self):
            raise OSError(f"a temporary file has {len(data)} bytes at {self._start}, needs {len(self)}")
        return data


# A whole message, in memory or in a file.
Whole = bytes | memoryview | FileBytes


def parts(data: Whole) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a message in order, at most 1 MiB of a file at a time."""
    if not isinstance(data, FileBytes):
        yield data
        return
    for start in range(0, len(data), _READ):
        yield bytes(data[start : start + _READ])


class Staging:
    """Takes the chunks of one message; one thread at a time uses it.

    Attributes:
        size: Bytes taken so far.
    """

    def __init__(self) -> None:
        self.size = 0
        self._file = tempfile.SpooledTemporaryFile(LONG)  # noqa: SIM115  # open until `close`

    def write(self, chunk: bytes | memoryview) -> None:
        """Take the next chunk.

        Raises:
            SecFedError: The temporary file cannot be written.
        """
        with self._written():
            self._file.write(chunk)
        self.size += len(chunk)

    def message(self) -> memoryview | FileBytes:
        """Return what has been written; it is valid until `close`.

        Raises:
            SecFedError: The temporary file cannot be written.
        """
        if self.size > LONG:
            with self._written():
                self._file.flush()
            return FileBytes(self._file, 0, self.size)
        self._file.seek(0)
        return memoryview(self._file.read())

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SecFedError(
                f"a message cannot be kept in {tempfile.gettempdir()} after {self.size} bytes: {error.strerror}; free "
                "space there, or set TMPDIR to a folder with room for it"
            ) from None

    def close(self) -> None:
        """Release the memory or the file."""
        self._file.close()

    def __del__(self) -> None:
        self._file.close()  # for an upload that broke off and was never closed
