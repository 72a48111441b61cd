"""The one tree of errors: whose fault it is, what was found, and never a secret."""

import copy
import inspect
import pickle

import pytest

from secfed import errors
from secfed.crypto.aead import OpenError
from secfed.errors import (
    BudgetExceededError,
    ConfigError,
    DecryptionError,
    EncodingError,
    FaultyClientError,
    FaultyKeyHolderError,
    FaultyServerError,
    MalformedMessageError,
    MissingExtraError,
    ProtocolError,
    SecFedError,
    StageError,
    TooFewSurvivorsError,
    UnsupportedEventError,
)

EXAMPLES: dict[SecFedError, tuple[str, dict[str, object]]] = {
    SecFedError("text"): ("text", {}),
    ConfigError("text"): ("text", {}),
    EncodingError("text"): ("text", {}),
    StageError("text"): ("text", {"check": ""}),
    StageError("text", "C2"): ("text", {"check": "C2"}),
    ProtocolError("text", "S3"): ("S3: text", {"check": "S3"}),
    MalformedMessageError("text", 7): ("C1: text", {"check": "C1", "offset": 7}),
    MalformedMessageError("text", 7, "S2"): ("S2: text", {"check": "S2", "offset": 7}),
    FaultyClientError("text", 5, "S9"): ("S9: text", {"check": "S9", "client_id": 5}),
    FaultyKeyHolderError("text", 2, "S10"): ("S10: text", {"check": "S10", "holder_id": 2}),
    DecryptionError(): (
        "K6: the ciphertexts do not decrypt under this key to a sum of that many vectors",
        {"check": "K6"},
    ),
    FaultyServerError("text", "C18"): ("C18: text", {"check": "C18"}),
    TooFewSurvivorsError("text", 3, 4): ("text", {"check": "", "survivors": 3, "threshold": 4}),
    BudgetExceededError("text", 3.5, 3.0): ("text", {"epsilon": 3.5, "budget": 3.0}),
    UnsupportedEventError("text"): ("text", {}),
    MissingExtraError("cli", "rich"): (
        'rich is not installed; it comes with the extra "cli": in a clone of secfed, run pip install ".[cli]"; '
        'with a wheel, pip install "FILE.whl[cli]"',
        {"extra": "cli"},
    ),
}
EVERY_EXAMPLE = pytest.mark.parametrize(
    ("error", "text", "attributes"),
    [(error, *rest) for error, rest in EXAMPLES.items()],
    ids=[f"{type(error).__name__}-{i}" for i, error in enumerate(EXAMPLES)],
)


def test_every_error_is_in_the_tree_and_has_an_example() -> None:
    classes = {
        value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert all(issubclass(value, SecFedError) for value in classes)
    assert classes == {type(error) for error in EXAMPLES}


def test_errors_of_protocols_are_told_from_errors_of_the_caller() -> None:
    protocol = {MalformedMessageError, FaultyClientError, FaultyServerError, TooFewSurvivorsError}
    assert all(issubclass(error, ProtocolError) for error in protocol)
    assert not any(issubclass(error, ProtocolError) for error in (ConfigError, EncodingError, StageError))
    assert issubclass(ConfigError, ValueError)
    assert issubclass(EncodingError, ValueError)
    assert issubclass(MissingExtraError, ImportError)
    assert issubclass(OpenError, SecFedError)
    assert not issubclass(ProtocolError, ValueError)


@EVERY_EXAMPLE
def test_error_says_its_check_and_its_text(error: SecFedError, text: str, attributes: dict[str, object]) -> None:
    assert str(error) == text
    assert {name: getattr(error, name) for name in attributes} == attributes


@EVERY_EXAMPLE
def test_error_survives_copying_and_pickling(error: SecFedError, text: str, attributes: dict[str, object]) -> None:
    """Worker processes hand errors over by pickling them."""
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == text
        assert {name: getattr(twin, name) for name in attributes} == attributes
