"""A message that reaches the server in chunks and counts only when it is complete."""

from collections.abc import Callable
from typing import Literal

from secfed.errors import StageError
from secfed.staging import FileBytes, Staging
from secfed.wire import view

_KIND_BYTES = 2  # version and kind


class Upload:
    """One message of one client in chunks; `Server.upload` makes it.

    The upload keeps the message as it is sent, at most `Server.message_bytes` long. `Server.receive` reads it once it
    is complete, so an incomplete upload changes nothing. A message of more than 2 MiB is kept in a temporary file
    (`TMPDIR` says where) and added to the sum a block at a time, so unfinished uploads take hardly any memory. Only one
    thread at a time may use an upload; several threads may each use their own.

    Args:
        room: Returns, from the first bytes, how long the message may be, or False to refuse it.
        receive: Takes the message when it is complete.

    Attributes:
        client_id: The sender.
    """

    def __init__(
        self,
        client_id: int,
        room: Callable[[bytes, int], int | Literal[False]],
        receive: Callable[[memoryview | FileBytes], bool],
    ) -> None:
        self.client_id = client_id
        self._room_for, self._receive = room, receive  # the server's: how long it may be; what to do with it
        self._start = b""  # version and kind
        self._room = 0  # how long it may be, as far as the server was asked
        self._staging = Staging()
        self._late = self._over = False

    def __repr__(self) -> str:
        return f"Upload(client_id={self.client_id}, size={self.size})"

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._staging.size

    def write(self, chunk: bytes) -> bool:
        """Take the next chunk.

        Args:
            chunk: Its bytes.

        Returns:
            Whether more is wanted; False if the message is late and will be ignored.

        Raises:
            FaultyClientError: S1 to S4, as for `Server.receive`, as soon as the first bytes or the length show it. The
                upload is over, and the client may still send a proper message.
            ConfigError: The chunk is not bytes.
            StageError: The upload is over.
            SecFedError: The temporary file cannot be written. The upload is over, and nothing has changed.
        """
        data = view(chunk)
        if self._over:
            raise StageError(f"this upload of client {self.client_id} is over")
        if self._late:
            return False
        size = self.size + len(data)
        self._start += bytes(data[: _KIND_BYTES - len(self._start)])
        try:
            # Asked again if the message is longer than was allowed: the stage may have changed.
            if len(self._start) == _KIND_BYTES and size > self._room:
                room = self._room_for(self._start, size)
                if room is False:
                    self._late = True
                    self._staging.close()
                    return False
                self._room = room
            self._staging.write(data)
        except BaseException:
            self.close()
            raise
        return True

    def finish(self) -> bool:
        """Pass the complete message to the server.

        Returns:
            True if it counts; False if it came late and was ignored.

        Raises:
            FaultyClientError: S1 to S11, as for `Server.receive`.
            StageError: The upload is over.
            SecFedError: The temporary file cannot be written. Nothing has changed.
            OSError: It cannot be read. Part of the message may be in the sum, so the session has ended.
        """
        if self._over:
            raise StageError(f"this upload of client {self.client_id} is over")
        self._over = True
        try:
            return not self._late and self._receive(self._staging.message())
        finally:
            self._staging.close()

    def close(self) -> None:
        """Give up the upload and free its memory and file; nothing has changed."""
        self._over = True
        self._staging.close()
