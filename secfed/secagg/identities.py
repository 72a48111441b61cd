"""Identity keys and rosters as files, needed against a malicious server only.

Each client has its own private key, and everyone has the roster: the public keys of all clients by id. The roster must
not reach the clients through the server: ship it with the app, for instance, or let the operator install it.
"""

import json
import os
from pathlib import Path

from secfed.crypto.signing import SigningKey
from secfed.errors import ConfigError

# Flower, for example, runs an app's code in the folder where its SuperLink or SuperNode was started, not in the app's.
RELATIVE = "a relative path starts from the folder where this process was started"


def create_identity(path: str | os.PathLike[str]) -> str:
    """Make an identity key and write it to a file that only its owner may read.

    Args:
        path: A file that does not exist yet.

    Returns:
        The public key in hexadecimal digits, for the roster.

    Raises:
        FileExistsError: The file exists; a key is never overwritten.
    """
    key = SigningKey.generate()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key.private_bytes().hex() + "\n")
    return key.public_bytes.hex()


def read_roster(path: str | os.PathLike[str]) -> dict[int, bytes]:
    """Read a roster: a JSON object from client id to public key, such as `{"1": "a3...", "2": "5c..."}`.

    Args:
        path: The file.

    Returns:
        The public keys, 32 bytes by client id.

    Raises:
        ConfigError: The file cannot be read, or is not such an object.
    """
    try:
        found = json.loads(Path(path).read_text())
        return {int(client_id): bytes.fromhex(key) for client_id, key in found.items()}
    except OSError as error:
        raise ConfigError(f"roster {path} cannot be read: {type(error).__name__}; {RELATIVE}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a roster of identity keys: {type(error).__name__}: {error}") from None


def read_identity(path: str | os.PathLike[str]) -> SigningKey:
    """Read what `create_identity` wrote.

    Args:
        path: The file.

    Raises:
        ConfigError: The file cannot be read, or is not an identity key.
    """
    try:
        return SigningKey(bytes.fromhex(Path(path).read_text()))
    except OSError as error:
        raise ConfigError(f"identity key {path} cannot be read: {type(error).__name__}; {RELATIVE}") from None
    except ValueError as error:  # without its text, which could quote the file
        raise ConfigError(f"{path} is not an identity key: {type(error).__name__}") from None
