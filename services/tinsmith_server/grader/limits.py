"""How large the numbers get that an expression asks for, found before any of it is computed.

`bits` of a constant bounds the binary digits of numerator and denominator of what exact arithmetic would make of it.
Variables count as small numbers.
"""

import math

from tinsmith_server.grader.approximation import magnitude
from tinsmith_server.grader.expression import Apply, Expression, Number, Symbol, TooComplex, children

MOST_BITS = 20_000
LARGEST_FACTORIAL = 2000
LARGEST_CHOICE = 5000
_SMALL = 4.0
_GROWING = ("power", "exp", "factorial", "binomial")


def check_size(expression: Expression) -> None:
    """TooComplex when a number in `expression` would have more than 20,000 bits, or a factorial is too large."""
    if not isinstance(expression, Apply):
        for part in children(expression):
            check_size(part)
        return
    _bits(expression)


def _bits(expression: Expression) -> float:
    if isinstance(expression, Number):
        return float(max(expression.value.numerator.bit_length(), expression.value.denominator.bit_length()))
    if not isinstance(expression, Apply):
        return _SMALL
    bits = _bits_of(expression)
    if bits > MOST_BITS:
        raise TooComplex("a number that would be too large")
    return bits


def _bits_of(expression: Apply) -> float:
    arguments = expression.arguments
    sizes = [_bits(argument) for argument in arguments]
    known = [argument for argument in arguments if not _has_symbol(argument)]
    if expression.operation not in _GROWING or arguments[-1] not in known:
        return sum(sizes) + 1.0  # a power with a variable above stays one: nothing is multiplied out
    match expression.operation:
        case "power":
            return sizes[0] * max(magnitude(arguments[1]), 1.0)
        case "exp":
            return 2.0 * max(magnitude(arguments[0]), 1.0)
        case "factorial":
            return _bits_of_factorial(magnitude(arguments[0]), LARGEST_FACTORIAL)
        case _:
            return _bits_of_factorial(max(map(magnitude, known)), LARGEST_CHOICE)


def _has_symbol(expression: Expression) -> bool:
    return isinstance(expression, Symbol) or any(map(_has_symbol, children(expression)))


def _bits_of_factorial(argument: float, largest: int) -> float:
    if argument > largest:
        raise TooComplex(f"a factorial or a binomial of more than {largest}")
    return min(argument * math.log2(max(argument, 2.0)), MOST_BITS)
