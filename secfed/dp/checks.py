"""Checks of the numbers in events: each returns the number as a plain float or int, or raises an error."""

import math
from numbers import Integral, Real
from typing import Any

from secfed.errors import ConfigError

_LEAST_RATE = 1e-15


def check_number(name: str, number: Any) -> float:
    """Return a real number, including NumPy's, as a float.

    Raises:
        ConfigError: It is not a number.
    """
    if isinstance(number, bool) or not isinstance(number, Real):
        raise ConfigError(f"{name} {number!r:.100} must be a number")
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf  # type: ignore[operator]


def check_positive(name: str, number: Any) -> float:
    """Return a number as a float.

    Raises:
        ConfigError: It is not a number, or not positive and finite.
    """
    value = check_number(name, number)
    if not 0 < value < math.inf:
        raise ConfigError(f"{name} {number} must be a positive finite number")
    return value


def check_between(name: str, number: Any, least: float, most: float) -> float:
    """Return a number as a float.

    Raises:
        ConfigError: It is not a number, or out of range.
    """
    value = check_number(name, number)
    if not least <= value <= most:
        raise ConfigError(f"{name} {value} must be from {least:g} to {most:g}")
    return value


def check_rate(number: Any) -> float:
    """Return a sampling rate as a float.

    Raises:
        ConfigError: It is not a number, or out of range.
    """
    value = check_number("sampling_rate", number)
    if not 0 < value <= 1:
        raise ConfigError(f"sampling_rate {value} must be above 0 and at most 1")
    if value < _LEAST_RATE:
        raise ConfigError(f"sampling_rate {value} must be at least {_LEAST_RATE:g}")
    return value


def check_count(name: str, number: Any) -> int:
    """Return a whole number of at least 1, including NumPy's, as an int.

    Raises:
        ConfigError: It is not a count of at least 1.
    """
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ConfigError(f"{name} {number!r:.100} must be a whole number of at least 1")
    return int(number)


def keep(event: object, **values: Any) -> None:
    """Set fields of a frozen event to their checked values."""
    for name, value in values.items():
        object.__setattr__(event, name, value)


def check_delta(delta: Any) -> float:
    """Return a delta as a float; reject one that is not a probability, or that guarantees nothing.

    Raises:
        ConfigError: It is out of range.
    """
    value = check_number("delta", delta)
    if not 0 < value < 1:
        raise ConfigError(f"delta {value} must be above 0 and below 1")
    return value


def check_budget(epsilon: Any, delta: Any) -> tuple[float, float]:
    """Return a budget as floats; reject one that nothing can meet.

    Raises:
        ConfigError: Epsilon or delta is out of range.
    """
    value = check_number("epsilon", epsilon)
    if not 0 < value < math.inf:
        raise ConfigError(f"epsilon {value} must be positive and finite")
    return value, check_delta(delta)
