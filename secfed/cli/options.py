"""Checks of options; typer's own bounds let "nan" pass."""

import typer


def positive(number: float) -> float:
    """Return a positive finite number; another one is wrong usage."""
    if not 0 < number < float("inf"):
        raise typer.BadParameter(f"{number} must be positive and finite")
    return number


def fraction(number: float) -> float:
    """Return a number above 0 and below 1; another one is wrong usage."""
    if not 0 < number < 1:
        raise typer.BadParameter(f"{number} must be above 0 and below 1")
    return number
