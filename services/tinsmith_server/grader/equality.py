"""Whether two values are the same for every value of their variables.

What sympy cancels by itself decides at once. What remains is evaluated at fixed points with 150 digits in reserve: a
difference that is not zero somewhere is a proof, one that is zero to 80 digits everywhere is as good as one. No
`simplify`: it can run for ever, and this can't.
"""

from collections.abc import Iterator, Sequence

import sympy
from sympy.core.evalf import PrecisionExhausted

_DIGITS = 15
_RESERVE = 150
_ZERO = sympy.Rational(1, 10**80)
_LOW_DEGREE, _FEW_OPERATIONS = 6, 40
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)
_SIGNS = ((1, 1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""Of each point, the signs of variables at even and at odd places."""


def equal(left: sympy.Expr, right: sympy.Expr, *, relative_tolerance: float = 0.0) -> bool:
    """Whether two scalars are equal; constants within `relative_tolerance` are."""
    if left == right:
        return True
    if left.is_infinite or right.is_infinite:
        return False
    difference = left - right
    if difference.is_zero:
        return True
    if relative_tolerance and not difference.free_symbols:
        return _close(left, right, difference, relative_tolerance)
    if difference.is_Rational:
        return False
    if _is_small(difference) and sympy.expand(difference).is_zero:
        return True  # what most polynomials come to; evaluating them takes ten times as long
    return _zero_everywhere(difference, left, right)


def proportional(left: sympy.Expr, right: sympy.Expr, *, positive: bool) -> bool:
    """Whether `left` is a constant times `right`, neither being zero; a positive constant if `positive`."""
    if left.is_zero or right.is_zero or left.free_symbols != right.free_symbols:
        return False
    for point in _points(sorted(left.free_symbols, key=str)):
        over, under = _value(left, point), _value(right, point)
        if over is None or under is None or under == 0 or over == 0:
            continue
        factor = sympy.nsimplify(over / under, rational=True, tolerance=1e-12)
        return not (positive and not factor.is_positive) and equal(left, factor * right)
    return False


def _is_small(expression: sympy.Expr) -> bool:
    """Whether multiplying out is cheap."""
    powers = (power.exp for power in expression.atoms(sympy.Pow))
    is_low = all(not exponent.is_Integer or abs(exponent) <= _LOW_DEGREE for exponent in powers)
    return is_low and expression.count_ops() <= _FEW_OPERATIONS


def _close(left: sympy.Expr, right: sympy.Expr, difference: sympy.Expr, relative_tolerance: float) -> bool:
    values = _values((left, right, difference), {})
    if values is None:
        return False
    sizes = [abs(value) for value in values]
    return bool(sizes[2] <= relative_tolerance * max(sizes[0], sizes[1]))


def _zero_everywhere(difference: sympy.Expr, left: sympy.Expr, right: sympy.Expr) -> bool:
    tried = 0
    for point in _points(sorted(difference.free_symbols, key=str)):
        values = _values((left, right, difference), point)
        if values is None:
            continue
        at_left, at_right, remains = values
        if min(point.values(), default=1) < 0 and not (at_left.is_real and at_right.is_real):
            continue  # a root or a logarithm of a negative number: another branch is not another answer
        tried += 1
        if abs(remains) > _ZERO * max(1, abs(at_left), abs(at_right)):
            return False
    return tried > 0


def _values(expressions: Sequence[sympy.Expr], point: dict[sympy.Symbol, sympy.Rational]) -> list[sympy.Expr] | None:
    """The values at a point, if all of them have one."""
    found = [_value(expression, point) for expression in expressions]
    return None if any(value is None for value in found) else found


def _points(variables: Sequence[sympy.Symbol]) -> Iterator[dict[sympy.Symbol, sympy.Rational]]:
    if not variables:
        yield {}
        return
    for number, signs in enumerate(_SIGNS):
        yield {
            variable: signs[place % 2] * sympy.Rational(_prime(3 * place + number), _prime(5 * place + 2 * number + 1))
            for place, variable in enumerate(variables)
        }


def _prime(number: int) -> int:
    return _PRIMES[number % len(_PRIMES)]


def _value(expression: sympy.Expr, point: dict[sympy.Symbol, sympy.Rational]) -> sympy.Expr | None:
    """The value at a point, zero where it is lost in 150 digits; None where it is not defined or not found."""
    try:
        value = expression.evalf(_DIGITS, subs=point, maxn=_RESERVE)
    except PrecisionExhausted:
        return None
    return value if value.is_number and value.is_finite else None
