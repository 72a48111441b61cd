"""A long answer on its way to the server, kept so that the same bytes can be sent again.

A client makes each chunk of an answer only once: a second masked vector could differ from the first by one copy of the
masks. So each chunk is written to a file before it leaves, and if the connection breaks, the file is sent again.
"""

import tempfile
import threading
from typing import Final

from secfed.errors import SecFedError
from secfed.secagg import Answer

LONG: Final = 1 << 21  # bytes; a longer answer is never fully in memory
_MOST: Final = 1 << 20


class Spool:
    """The bytes of one answer, made when they are first read, and kept in a temporary file that has no name.

    Several threads may use it; one at a time reads. Only its owner can read the file, and it disappears with the
    process.

    Args:
        answer: What `secagg.Client.receive_chunks` returned; no other code may read it.

    Attributes:
        size: Bytes of the whole answer.

    Security:
        The file holds only what is sent to the server, no secret.
    """

    def __init__(self, answer: Answer) -> None:
        self.size = answer.size
        self._answer, self._made = answer, 0
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # open until `close`

    def read(self, start: int) -> bytes:
        """Return some bytes from a place on, at least one.

        Args:
            start: The place, below `size`.

        Raises:
            SecFedError: The file cannot be written: the answer is abandoned.
        """
        with self._lock:  # also against a cancelled reader whose thread is still running
            try:
                while self._made <= start:
                    chunk = next(self._answer)
                    self._file.seek(self._made)
                    self._file.write(chunk)
                    self._made += len(chunk)
                self._file.seek(start)
                return self._file.read(min(self._made - start, _MOST))
            except OSError as error:
                self._answer.close()
                raise SecFedError(
                    f"the masked update cannot be written to {tempfile.gettempdir()}: {error.strerror}; set TMPDIR to "
                    f"a folder with room for {self.size} bytes"
                ) from None

    def close(self) -> None:
        """Delete the file."""
        with self._lock:
            self._file.close()
