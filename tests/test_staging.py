"""A message in chunks comes out as it went in, from memory or from a file, also slice by slice."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed import staging
from secfed.errors import SecFedError
from secfed.staging import FileBytes, Staging, parts


@contextmanager
def short_memory(size: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "LONG", size)
        patch.setattr(staging, "_READ", 5)
        yield


class FullDisk:
    """What a file does on a disk without room, or on one that fails."""

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        self.write(b"")

    def close(self) -> None:
        pass


@given(st.lists(st.binary(max_size=20)), st.integers(1, 40), st.data())
def test_message_is_what_was_written(chunks: list[bytes], long: int, data: st.DataObject) -> None:
    expected = b"".join(chunks)
    with short_memory(long):
        kept = Staging()
        for chunk in chunks:
            kept.write(chunk)
        message = kept.message()
        assert isinstance(message, FileBytes) == (len(expected) > long)
        assert len(message) == kept.size == len(expected)
        assert bytes(message) == b"".join(parts(message)) == expected
        start, stop = (data.draw(st.integers(-50, 250)) for _ in range(2))
        part = message[start:stop]
        assert bytes(part) == expected[start:stop]
        assert bytes(part[1:7]) == expected[start:stop][1:7]
        assert [message[i] for i in range(len(expected))] == list(expected)
        kept.close()


def test_a_file_is_read_in_pieces() -> None:
    with short_memory(4):
        kept = Staging()
        kept.write(bytes(range(12)))
        assert [len(part) for part in parts(kept.message())] == [5, 5, 2]


def test_what_is_not_in_the_file_is_refused() -> None:
    with short_memory(4):
        kept = Staging()
        kept.write(bytes(range(12)))
        message = kept.message()
        for wrong in (12, -13):
            with pytest.raises(IndexError):
                message[wrong]
        with pytest.raises(ValueError, match="without a gap"):
            message[::2]
        kept._file.truncate(3)
        with pytest.raises(OSError, match="has 1 bytes at 2, needs 10"):
            bytes(message[2:])


def test_a_full_disk_is_named() -> None:
    kept = Staging()
    kept._file.close()
    kept._file = FullDisk()  # type: ignore[assignment]
    with pytest.raises(SecFedError, match=r"after 0 bytes: No space left on device; .*TMPDIR"):
        kept.write(b"x")
    kept.size = staging.LONG + 1
    with pytest.raises(SecFedError, match="No space left"):
        kept.message()
