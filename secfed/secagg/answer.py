"""A client's answer, made while it is read, so that a long masked vector is never in memory as a whole."""

import threading
from collections.abc import Callable, Iterator
from typing import Self

from secfed.concurrency import refused_while_busy
from secfed.errors import StageError
from secfed.secagg.stages import Stage
from secfed.secagg.states import Held


class Answer:
    """The chunks of one answer, an iterator of bytes; `Client.receive_chunks` makes it.

    Args:
        chunks: The bytes, made as they are read.
        busy: The client's lock: reading a chunk is a call on the client.
        after: The client's stage and state once the last bytes exist.
        finish: Sets them.

    Attributes:
        size: Bytes of the whole answer, known before the first chunk is made.

    Security:
        Until the last chunk has been made, the client's stage is ABORTED. If the answer is given up earlier, the stage
        stays ABORTED: an answer that someone has seen in part is never made again.
    """

    def __init__(
        self,
        size: int,
        chunks: Iterator[bytes],
        busy: threading.Lock,
        after: tuple[Stage, Held | None],
        finish: Callable[[], None],
    ) -> None:
        self.size = size
        self._left = size
        self._chunks: Iterator[bytes] | None = chunks
        self._busy = busy  # the client's: reading a chunk is a call on the client
        self._after, self._finish = after, finish

    def __repr__(self) -> str:
        return f"Answer(size={self.size})"

    def __iter__(self) -> Self:
        return self

    @refused_while_busy
    def __next__(self) -> bytes:
        """Make the next chunk.

        Raises:
            StageError: C2, the answer was given up, or another call on the client is running.
        """
        return self._next()

    @refused_while_busy
    def close(self) -> None:
        """Give up the rest of the answer, which ends the client's session. After the last chunk this does nothing.

        Raises:
            StageError: C2, another call on the client is running.
        """
        self._drop()

    @property
    def _unfinished(self) -> bool:
        return self._chunks is not None

    def _whole(self) -> bytes:
        """Return all that is left in one piece, within a call on the client."""
        return b"".join(self._next() for _ in iter(lambda: self._left, 0))

    def _next(self) -> bytes:
        if not self._left:
            raise StopIteration
        if self._chunks is None:
            raise StageError("this answer was given up: the client has left the session", "C2")
        try:
            chunk = next(self._chunks)
        except BaseException:  # part of the answer may be sent: never make it again
            self._drop()
            raise
        self._left -= len(chunk)
        if not self._left:  # before the chunk is handed out: the server may send the next request at once
            self._drop()
            self._finish()
        return chunk

    def _drop(self) -> None:
        """Drop the vector and its masks."""
        self._chunks = None
