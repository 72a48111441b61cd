"""Randomness by label: from the operating system, or derived from a seed for tests and published vectors.

A seed makes every secret predictable, so `SeededEntropy` exists only inside `with predictable_secrets():`; outside it
is refused.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from secfed.crypto.agreement import derive
from secfed.crypto.prg import keystream
from secfed.errors import ConfigError

_predictable: ContextVar[bool] = ContextVar("predictable", default=False)


class Entropy(Protocol):
    """A source of secret bytes."""

    def draw(self, label: str, size: int) -> bytes:
        """Return `size` bytes; `label` says what they are for."""


class SystemEntropy:
    """The operating system's generator; the label plays no part."""

    def draw(self, label: str, size: int) -> bytes:
        """Return `size` fresh bytes."""
        return os.urandom(size)


class DerivedEntropy:
    """Bytes that follow from a secret and a label: the same secret and label always give the same bytes.

    Args:
        secret: 32 secret bytes.

    Source:
        `protocols/secagg/README.md`, section 6.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def draw(self, label: str, size: int) -> bytes:
        """Return the `size` bytes that the secret gives for this label, always the same."""
        return keystream(derive(self._secret, b"", b"secfed/entropy/v1 " + label.encode(), 32), size)


class SeededEntropy(DerivedEntropy):
    """Bytes that follow from a seed and a label, for vectors and tests.

    Raises:
        ConfigError: Built or used outside `predictable_secrets()`.

    Source:
        `protocols/secagg/README.md`, section 6.
    """

    def __init__(self, seed: bytes) -> None:
        _check_allowed()
        if len(seed) != 32:
            raise ConfigError(f"the seed has {len(seed)} bytes, needs 32")
        super().__init__(seed)

    def draw(self, label: str, size: int) -> bytes:
        """Return the `size` bytes that the seed gives for this label, always the same."""
        _check_allowed()
        return super().draw(label, size)


def _check_allowed() -> None:
    if not _predictable.get():
        raise ConfigError("a seed makes secrets predictable: real sessions need the system's randomness, found a seed")


@contextmanager
def predictable_secrets() -> Iterator[None]:
    """Allow `SeededEntropy` inside this block: for tests and vectors, never with real data."""
    token = _predictable.set(True)
    try:
        yield
    finally:
        _predictable.reset(token)
