"""Files of a node that hold a client's side of a session between two messages; each can be taken only once.

Flower handles each message in a separate process. Messages that arrive together run at the same time, each with a copy
of the context's state. A server that sends two requests at once would get two answers from one state, which can open a
client's update. Only one process can rename a file, so here the second process finds nothing and refuses.

The files are in memory if the system offers that (`XDG_RUNTIME_DIR`), otherwise in the folder for temporary files; the
entry `state-folder` of the node's configuration names another folder. Only their owner may read them.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, Final

from flwr.app import Context

from secfed.errors import ConfigError, FaultyServerError

STATE_FOLDER: Final = "state-folder"
_LENGTH_BYTES: Final = 8


class Sessions:
    """The sessions of one node in one run.

    Args:
        context: The node's.

    Raises:
        ConfigError: The folder cannot be made, or others may read it.
    """

    def __init__(self, context: Context) -> None:
        base = context.node_config.get(STATE_FOLDER) or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        if not isinstance(base, str):
            raise ConfigError(f"the node's configuration has {STATE_FOLDER} {base!r}, needed the path of a folder")
        owner = os.getuid() if hasattr(os, "getuid") else 0
        self._folder = Path(base) / f"secfed-{owner}" / f"{context.run_id}-{context.node_id}"
        for folder in (self._folder.parent, self._folder):
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                found = folder.lstat()
            except OSError as error:
                raise ConfigError(f"{folder} cannot be made for this node's sessions: {type(error).__name__}") from None
            foreign = hasattr(os, "getuid") and (found.st_uid != owner or found.st_mode & 0o077)
            if foreign or not stat.S_ISDIR(found.st_mode):
                raise ConfigError(f"{folder} is another user's, or others may read it: needed a folder of mode 700")

    def claim_round(self, number: int) -> None:
        """Let one process take part in a round, once.

        Raises:
            FaultyServerError: F3, this round or a later one was claimed before.
        """
        own = self._folder / f"round-{number}"
        try:  # only one process can make this file; a listing alone could miss files made meanwhile
            os.close(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise FaultyServerError(f"round {number} was claimed before: one session a round", "F3") from None
        others = [path for path in self._folder.glob("round-*") if path != own]
        if (last := max(map(_round_of, others), default=-1)) > number:
            own.unlink(missing_ok=True)
            raise FaultyServerError(f"round {number} comes after round {last}: one session a round", "F3")
        for path in others:
            path.unlink(missing_ok=True)

    def store(self, session: bytes, fields: dict[str, Any], client: bytes = b"") -> None:
        """Keep what a session needs for its next message; any other session is dropped.

        Args:
            session: The session's name.
            fields: Small values: numbers, strings, booleans and bytes.
            client: The saved client.

        Raises:
            ConfigError: The file cannot be written; then nothing is kept.
        """
        self.forget()
        head = json.dumps({name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()})
        try:
            part, descriptor = self._new_file("part-")
            with os.fdopen(descriptor, "wb") as file:
                file.write(len(head).to_bytes(_LENGTH_BYTES, "little") + head.encode())
                file.write(client)
            part.rename(self._path(session))
        except OSError as error:
            self.forget()
            raise ConfigError(f"this node's session cannot be kept: {type(error).__name__}") from None

    def take(self, session: bytes) -> tuple[dict[str, Any], bytes]:
        """Take a session out, which only one process can.

        Raises:
            FaultyServerError: F8, there is no such session, or another process has taken it.
        """
        taken, descriptor = self._new_file("taken-")
        os.close(descriptor)
        try:
            self._path(session).replace(taken)
        except FileNotFoundError:
            taken.unlink(missing_ok=True)
            raise FaultyServerError("no session of this name awaits a message at this client", "F8") from None
        try:
            with taken.open("rb") as file:
                taken.unlink(missing_ok=True)
                fields = json.loads(file.read(int.from_bytes(file.read(_LENGTH_BYTES), "little")))
                return fields, file.read()
        except FileNotFoundError:
            raise FaultyServerError("another message ended this session at the same time", "F8") from None

    def forget(self) -> None:
        """Drop all sessions, and what crashed processes left behind: every secret of theirs."""
        for prefix in ("session", "part", "taken"):
            for path in self._folder.glob(f"{prefix}-*"):
                path.unlink(missing_ok=True)

    def _new_file(self, prefix: str) -> tuple[Path, int]:
        descriptor, name = tempfile.mkstemp(prefix=prefix, dir=self._folder)  # of mode 600
        return Path(name), descriptor

    def _path(self, session: bytes) -> Path:
        return self._folder / f"session-{session[:32].hex()}"


def _round_of(path: Path) -> int:
    return int(path.name.removeprefix("round-"))
