"""One call at a time on each party, from any thread: a server's callers wait, a client's are refused."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from secfed.errors import StageError

P = ParamSpec("P")
R = TypeVar("R")


class _Waits(Protocol):
    _lock: "threading.RLock"


class _Refuses(Protocol):
    _busy: threading.Lock


Waits = TypeVar("Waits", bound=_Waits)
Refuses = TypeVar("Refuses", bound=_Refuses)


def one_at_a_time(method: Callable[Concatenate[Waits, P], R]) -> Callable[Concatenate[Waits, P], R]:
    """Make a call wait until no other one runs."""

    @wraps(method)
    def locked(self: Waits, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return locked


def refused_while_busy(method: Callable[Concatenate[Refuses, P], R]) -> Callable[Concatenate[Refuses, P], R]:
    """Refuse a call while another one runs: if it waited, the client would answer a second time.

    Raises:
        StageError: C2, another call runs.
    """

    @wraps(method)
    def locked(self: Refuses, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not self._busy.acquire(blocking=False):
            raise StageError("another thread is using this object", "C2")
        try:
            return method(self, *args, **kwargs)
        finally:
            self._busy.release()

    return locked
