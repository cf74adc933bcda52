"""How large the numbers get that an expression asks for, found before any of it is computed.

`bits` of a constant bounds the binary digits of numerator and denominator of what exact arithmetic would make of it.
Variables count as small numbers.
"""

import math

from tinsmith_server.grader.expression import Apply, Expression, Number, TooComplex, children

MOST_BITS = 20_000
LARGEST_FACTORIAL = 2000
LARGEST_CHOICE = 5000
_SMALL = 4.0


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
    match expression.operation:
        case "power":
            return _bits(arguments[0]) * max(_largest(arguments[1]), 1.0)
        case "exp":
            return 2.0 * max(_largest(arguments[0]), 1.0)
        case "factorial":
            return _bits_of_factorial(_largest(arguments[0]), LARGEST_FACTORIAL)
        case "binomial":
            return min(_bits_of_factorial(_largest(arguments[0]), LARGEST_CHOICE), _SMALL * LARGEST_CHOICE)
        case _:
            return sum(map(_bits, arguments)) + 1.0


def _bits_of_factorial(argument: float, largest: int) -> float:
    if argument > largest:
        raise TooComplex(f"a factorial or a binomial of more than {largest}")
    return min(argument * math.log2(max(argument, 2.0)), MOST_BITS)


def _largest(expression: Expression) -> float:
    """A bound of the absolute value."""
    if isinstance(expression, Number):
        return float(min(abs(expression.value), 1 << 64))
    if isinstance(expression, Apply) and expression.operation == "negate":
        return _largest(expression.arguments[0])
    if isinstance(expression, Apply) and expression.operation == "divide":
        over, under = expression.arguments
        if isinstance(over, Number) and isinstance(under, Number) and under.value:
            return float(min(abs(over.value / under.value), 1 << 64))
    return 2.0 ** min(_bits(expression), 64.0)
