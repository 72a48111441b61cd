"""A message on its way to the server in chunks, whole before it counts."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from secfed.errors import StageError
from secfed.wire import view

_KIND_BYTES = 2  # version and kind


class Upload:
    """One message of one client in chunks; `Server.upload` makes it.

    The message is kept as it is sent, at most `Server.message_bytes` long, and looked at by `Server.receive` once it is
    whole. So a masked vector takes no more memory than the sum, and an upload that breaks off changes nothing.
    One thread at a time may use an upload; several uploads may be in several threads.

    Attributes:
        client_id: The sender.
        size: Bytes taken so far.
    """

    def __init__(
        self,
        client_id: int,
        room: Callable[[bytes, int], int | Literal[False]],
        receive: Callable[[memoryview], bool],
    ) -> None:
        self.client_id, self.size = client_id, 0
        self._room_for, self._receive = room, receive  # the server's: how long it may be; what to do with it
        self._start = b""
        self._buffer: npt.NDArray[np.uint8] | None = None
        self._late = self._over = False

    def __repr__(self) -> str:
        return f"Upload(client_id={self.client_id}, size={self.size})"

    def write(self, chunk: bytes) -> bool:
        """Take the next chunk.

        Returns:
            Whether more is wanted; False if the message is late and will be ignored.

        Raises:
            FaultyClientError: S1 to S4, as for `Server.receive`, as soon as the first bytes or the length show it. The
                upload is over, and the client may still send a proper message.
            ConfigError: The chunk is no bytes.
            StageError: The upload is over.
        """
        data = view(chunk)
        if self._over:
            raise StageError(f"this upload of client {self.client_id} is over")
        if self._late:
            return False
        size = self.size + len(data)
        if self._buffer is None:
            self._start += bytes(data[: _KIND_BYTES - len(self._start)])
            if len(self._start) < _KIND_BYTES:
                self.size = size
                return True
            # Not touched before it is written to: a message shorter than allowed takes no more memory than it has.
            self._buffer = np.empty(self._room(size), np.uint8)
            if self.size and not self._late:  # the chunk before was a single byte
                self._buffer[0] = self._start[0]
        elif size > len(self._buffer):  # refused, or late, or the stage is another by now and allows more
            longer = np.empty(self._room(size), np.uint8)
            longer[: self.size] = self._buffer[: self.size] if not self._late else 0
            self._buffer = longer
        if self._late:
            self._buffer = None
            return False
        self._buffer[self.size : size] = data
        self.size = size
        return True

    def finish(self) -> bool:
        """Let the server look at the message, which is whole now.

        Returns:
            True if it counts; False if it came late and was ignored.

        Raises:
            FaultyClientError: S1 to S11, as for `Server.receive`.
            StageError: The upload is over.
        """
        if self._over:
            raise StageError(f"this upload of client {self.client_id} is over")
        self._over, buffer, self._buffer = True, self._buffer, None
        if self._late:
            return False
        data = memoryview(self._start) if buffer is None else buffer.data[: self.size]
        return self._receive(data)

    def close(self) -> None:
        """Give the upload up, and its memory back; nothing has changed."""
        self._over, self._buffer = True, None

    def _room(self, size: int) -> int:
        """Ask the server for how long the message may be; if it refuses, the upload is over."""
        try:
            room = self._room_for(self._start, size)
        except BaseException:
            self.close()
            raise
        self._late = room is False
        return int(room)
