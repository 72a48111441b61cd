"""The one tree of errors; each class says whose fault it is.

Every error that secfed raises on purpose is a `SecFedError` (a wrong Python type raises plain `TypeError`). Texts say
what was found and what was needed; they never hold a secret, so they may go to the other party or into a log.
"""

from typing import Any


class SecFedError(Exception):
    """Something that secfed refuses or cannot do."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take more than their text; without this they could not be unpickled (from a worker process).
        return _restore, (type(self), self.args, vars(self))


def _restore(cls: type[SecFedError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> SecFedError:
    error = cls.__new__(cls)
    error.args = arguments
    vars(error).update(attributes)
    return error


class ConfigError(SecFedError, ValueError):
    """These parameters cannot work together; the caller must change them.

    Attributes:
        check: Number of the check in the protocol's specification ("P1"), or "" where it has none.
    """

    def __init__(self, message: str, check: str = "") -> None:
        super().__init__(message)
        self.check = check


class StageError(SecFedError):
    """A method or message came out of turn; nothing has changed.

    Attributes:
        check: Number of the check in the protocol's specification, or "" where the caller's own code is at fault.
    """

    def __init__(self, message: str, check: str = "") -> None:
        super().__init__(message)
        self.check = check


class EncodingError(SecFedError, ValueError):
    """A value does not fit: not finite, wrong shape or type, out of range; nothing has been sent."""


class ProtocolError(SecFedError):
    """Another party broke the protocol, or too few of them remain.

    Attributes:
        check: Number of the check in the protocol's specification ("C7", "S4").
    """

    def __init__(self, message: str, check: str) -> None:
        super().__init__(message)
        self.check = check

    def __str__(self) -> str:
        return f"{self.check}: {self.args[0]}" if self.check else str(self.args[0])


class MalformedMessageError(ProtocolError):
    """These bytes are not a valid message; the sender or the network is at fault.

    Attributes:
        offset: Byte at which reading stopped.
    """

    def __init__(self, message: str, offset: int, check: str = "C1") -> None:
        super().__init__(message, check)
        self.offset = offset


class FaultyClientError(ProtocolError):
    """A client sent what no honest client sends.

    The error blames the identity that the transport reported. Without an authenticated transport this proves nothing
    about who really sent the message.

    Attributes:
        client_id: The client to blame.
    """

    def __init__(self, message: str, client_id: int, check: str) -> None:
        super().__init__(message, check)
        self.client_id = client_id


class FaultyServerError(ProtocolError):
    """The server, or a party posing as it, sent what no honest server sends. The client has erased its secrets."""


class FaultyKeyHolderError(ProtocolError):
    """A key holder sent what no honest key holder sends.

    Attributes:
        holder_id: The key holder to blame.
    """

    def __init__(self, message: str, holder_id: int, check: str) -> None:
        super().__init__(message, check)
        self.holder_id = holder_id


class DecryptionError(ProtocolError):
    """Ciphertexts do not decrypt to what they should. The text is always the same, so it reveals nothing else."""

    def __init__(self) -> None:
        super().__init__("the ciphertexts do not decrypt under this key to a sum of that many vectors", "K6")


class TooFewSurvivorsError(ProtocolError):
    """Fewer clients remain than the threshold. No one is at fault; try again with a new cohort.

    Attributes:
        survivors: How many remain.
        threshold: How many are needed.
    """

    def __init__(self, message: str, survivors: int, threshold: int) -> None:
        super().__init__(message, "")
        self.survivors = survivors
        self.threshold = threshold


class BudgetExceededError(SecFedError):
    """This release would spend more than the budget; nothing has been drawn, sent or recorded.

    Attributes:
        epsilon: What would have been spent.
        budget: The limit.
    """

    def __init__(self, message: str, epsilon: float, budget: float) -> None:
        super().__init__(message)
        self.epsilon = epsilon
        self.budget = budget


class UnsupportedEventError(SecFedError):
    """There is no proved bound for this event under this adjacency or in this engine, and secfed does not guess one."""


class MissingExtraError(SecFedError, ImportError):
    """An optional package is not installed.

    Attributes:
        extra: The extra to install, as in `pip install ".[cli]"` in a clone of secfed.
    """

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f'{package} is not installed; it comes with the extra "{extra}": in a clone of secfed, '
            f'run pip install ".[{extra}]"; with a wheel, pip install "FILE.whl[{extra}]"'
        )
        self.extra = extra
