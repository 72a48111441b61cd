"""The order of a session."""

from enum import Enum


class Stage(Enum):
    """The stage of a party: for the server, the one whose responses it collects."""

    ENCRYPTED_INPUT_COLLECTION = 1
    DECRYPTION = 2
    DONE = 3
    ABORTED = 4

    def __str__(self) -> str:
        return self.name
