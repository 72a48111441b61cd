"""Numbers as text: what bounds from above is rounded up, what bounds from below is rounded down."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

# Enough for every digit before the decimal point of a float64 and two after it.
_ALL = Context(prec=400, rounding=ROUND_CEILING)


def up(number: float, digits: int) -> str:
    """Return an upper value with so many significant digits, never below the number."""
    return f"{float(Context(digits, ROUND_CEILING).create_decimal(number)):.{digits}g}"


def down(number: float, digits: int) -> str:
    """Return a lower value with so many significant digits, never above the number."""
    return f"{float(Context(digits, ROUND_FLOOR).create_decimal(number)):.{digits}g}"


def up_to_hundredths(number: float) -> str:
    """Return an upper value with two decimals, never below the number."""
    return str(Decimal(number).quantize(Decimal("0.01"), context=_ALL))


def as_given_or_up(number: float, digits: int) -> str:
    """Return an upper value that a caller may have chosen: as it was written if that is so short, else rounded up."""
    short = f"{number:.{digits}g}"
    return short if float(short) == number else up(number, digits)


def as_given_or_down(number: float, digits: int) -> str:
    """Return a lower value that a caller may have chosen: as it was written if that is so short, else rounded down."""
    short = f"{number:.{digits}g}"
    return short if float(short) == number else down(number, digits)


def exact(number: float) -> str:
    """Return the shortest text that is read as the same number."""
    return repr(float(number)).removesuffix(".0")
