"""Numbers as text: upper bounds are rounded up, lower bounds are rounded down."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

# Enough digits for any float64 before the decimal point, and two after it.
_ALL = Context(prec=400, rounding=ROUND_CEILING)


def up(number: float, digits: int) -> str:
    """Return an upper value with `digits` significant digits, never below the number."""
    return f"{float(Context(digits, ROUND_CEILING).create_decimal(number)):.{digits}g}"


def down(number: float, digits: int) -> str:
    """Return a lower value with `digits` significant digits, never above the number."""
    return f"{float(Context(digits, ROUND_FLOOR).create_decimal(number)):.{digits}g}"


def up_to_hundredths(number: float) -> str:
    """Return an upper value with two decimals, never below the number."""
    return str(Decimal(number).quantize(Decimal("0.01"), context=_ALL))


def as_given_or_up(number: float, digits: int) -> str:
    """Return an upper value as the caller wrote it if that fits into `digits`, else rounded up."""
    short = f"{number:.{digits}g}"
    return short if float(short) == number else up(number, digits)


def as_given_or_down(number: float, digits: int) -> str:
    """Return a lower value as the caller wrote it if that fits into `digits`, else rounded down."""
    short = f"{number:.{digits}g}"
    return short if float(short) == number else down(number, digits)


def exact(number: float) -> str:
    """Return the shortest text that parses to the same number."""
    return repr(float(number)).removesuffix(".0")
