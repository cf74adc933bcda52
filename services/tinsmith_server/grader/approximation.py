"""About how large a constant is, in floating point: cheap whatever it is, where exact arithmetic might not be."""

import cmath
import math
from collections.abc import Callable, Mapping

from tinsmith_server.grader.expression import Apply, Constant, Expression, Number

CEILING = 2.0**64
"""Stands for everything larger, and for what has no value."""
_NOISE = 1e-12
_LARGEST_GAMMA = 20

_CONSTANTS: Mapping[str, complex] = {"pi": math.pi, "e": math.e, "i": 1j, "oo": math.inf}
_FUNCTIONS: Mapping[str, Callable[..., complex]] = {
    "multiply": lambda *factors: math.prod(factors, start=1 + 0j),
    "divide": lambda over, under: over / under,
    "power": lambda base, exponent: base**exponent,
    "negate": lambda value: -value,
    "abs": abs,
    "floor": lambda value: value,
    "ceiling": lambda value: value,
    "log": cmath.log,
    "ln": cmath.log,
    "lg": cmath.log10,
    "log_base": cmath.log,
    "factorial": lambda value: math.gamma(abs(value) + 1) if abs(value) < _LARGEST_GAMMA else math.inf,
    "cot": lambda value: 1 / cmath.tan(value),
    "sec": lambda value: 1 / cmath.cos(value),
    "csc": lambda value: 1 / cmath.sin(value),
    **{name: getattr(cmath, name) for name in ("exp", "sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(cmath, f"a{name}") for name in ("sin", "cos", "tan")},
}


def magnitude(expression: Expression) -> float:
    """About the absolute value, at most 2^64."""
    size = abs(_value(expression))
    return CEILING if math.isnan(size) else min(size, CEILING)


def _value(expression: Expression) -> complex:
    match expression:
        case Number(value=value):
            return float(value) if abs(value) < CEILING else CEILING
        case Constant(name=name):
            return _CONSTANTS[name]
        case Apply(operation="add", arguments=arguments):
            return _sum([_value(argument) for argument in arguments])
        case Apply(operation=operation, arguments=arguments) if operation in _FUNCTIONS:
            try:
                return _FUNCTIONS[operation](*map(_value, arguments))
            except (ArithmeticError, ValueError):
                return math.inf
        case _:
            return math.inf


def _sum(terms: list[complex]) -> complex:
    """Where the terms cancel, what rounding may hide: 10^30 + 10^9 - 10^30 is not small."""
    total = sum(terms)
    return max(total, _NOISE * sum(map(abs, terms)), key=abs)
