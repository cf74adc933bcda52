r"""Plain numbers, exactly: 12, -0.5, 1e3, 3/4, \frac{3}{4}, 7 1/2, 7\frac{1}{2}, with or without a percent sign."""

import re
from dataclasses import dataclass
from fractions import Fraction

MOST_DIGITS = 4300
"""Digits of a number; Python converts no more, as that takes quadratic time."""
_LARGEST_EXPONENT = 4000

_DECIMAL = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?(?:[eE]([+-]?[0-9]{1,5}))?(%?)\Z")
_FRACTION = re.compile(
    r"([+-]?)(?:([0-9]+)(?: |(?=\\)))?"
    r"(?:([0-9]+)/([0-9]+)|\\frac\{([+-]?[0-9]+)\}\{([+-]?[0-9]+)\})(%?)\Z"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainNumber:
    """A number that was written out."""

    value: Fraction
    is_exact: bool
    """False for decimals, which may be rounded."""


def plain_number(text: str) -> PlainNumber | None:
    """The number that all of `text`, in normal spelling, writes out; None when it is something else or too long."""
    if len(text) > MOST_DIGITS:
        return None
    decimal = _DECIMAL.match(text)
    if decimal:
        return _of_decimal(*decimal.groups())
    fraction = _FRACTION.match(text)
    return _of_fraction(*fraction.groups()) if fraction else None


def _of_decimal(sign: str, whole: str, digits: str | None, exponent: str | None, percent: str) -> PlainNumber | None:
    power = int(exponent or 0)
    if abs(power) > _LARGEST_EXPONENT:
        return None
    value = Fraction(int(whole + (digits or ""))) * Fraction(10) ** (power - len(digits or ""))
    is_exact = digits is None and exponent is None
    return PlainNumber(value=_signed(sign, value, percent), is_exact=is_exact)


def _of_fraction(
    sign: str, whole: str | None, over: str | None, under: str | None, tex_over: str, tex_under: str, percent: str
) -> PlainNumber | None:
    numerator, denominator = int(over or tex_over), int(under or tex_under)
    if denominator == 0:
        return None
    value = int(whole or 0) + Fraction(numerator, denominator)
    return PlainNumber(value=_signed(sign, value, percent), is_exact=True)


def _signed(sign: str, value: Fraction, percent: str) -> Fraction:
    return (-value if sign == "-" else value) / (100 if percent else 1)


def numbers_agree(left: PlainNumber, right: PlainNumber, *, relative_tolerance: float = 0.0) -> bool:
    """Whether two numbers are equal, or nearly so where one of them may be rounded."""
    if left.is_exact and right.is_exact:
        return left.value == right.value
    return within(left.value, right.value, relative_tolerance=relative_tolerance, absolute_tolerance=0.0)


def within(left: Fraction, right: Fraction, *, relative_tolerance: float, absolute_tolerance: float) -> bool:
    """|left - right| <= max(relative_tolerance * max(|left|, |right|), absolute_tolerance), as `math.isclose` has it,
    but computed exactly."""
    if left == right:
        return True
    allowed = max(Fraction(relative_tolerance) * max(abs(left), abs(right)), Fraction(absolute_tolerance))
    return abs(left - right) <= allowed
