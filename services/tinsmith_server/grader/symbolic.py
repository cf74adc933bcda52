"""Trees into sympy, by its constructors only: sympy's own reading of text evaluates Python and is never used."""

from collections.abc import Callable, Mapping
from functools import lru_cache

import sympy

from tinsmith_server.grader.expression import Apply, Constant, Expression, NotParsed, Number, Symbol
from tinsmith_server.grader.limits import check_size

_CONSTANTS: Mapping[str, sympy.Expr] = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "oo": sympy.oo}
_OPERATIONS: Mapping[str, Callable[..., sympy.Expr]] = {
    "add": sympy.Add,
    "multiply": sympy.Mul,
    "divide": lambda over, under: sympy.Mul(over, sympy.Pow(under, sympy.S.NegativeOne)),
    "power": sympy.Pow,
    "negate": lambda value: sympy.Mul(sympy.S.NegativeOne, value),
    "factorial": sympy.factorial,
    "binomial": sympy.binomial,
    "abs": sympy.Abs,
    "floor": sympy.floor,
    "ceiling": sympy.ceiling,
    "exp": sympy.exp,
    "log": sympy.log,
    "ln": sympy.log,
    "lg": lambda value: sympy.log(value, 10),
    "log_base": sympy.log,
    **{name: getattr(sympy, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{f"arc{name}": getattr(sympy, f"a{name}") for name in ("sin", "cos", "tan")},
}
_UNDEFINED = (sympy.nan, sympy.zoo)


@lru_cache(maxsize=4096)
def symbolic(expression: Expression) -> sympy.Expr:
    """The scalar `expression` in sympy. TooComplex before large numbers are computed; NotParsed for what has no value,
    such as 1/0 or a pair where a number belongs."""
    check_size(expression)
    return _build(expression)


def _build(expression: Expression) -> sympy.Expr:
    match expression:
        case Number(value=value):
            return sympy.Rational(value.numerator, value.denominator)
        case Symbol(name=name):
            return sympy.Symbol(name)
        case Constant(name=name):
            return _CONSTANTS[name]
        case Apply(operation=operation, arguments=arguments) if operation in _OPERATIONS:
            value = _OPERATIONS[operation](*map(_build, arguments))
            if value.has(*_UNDEFINED):
                raise NotParsed("a value that is not defined")
            return value
        case _:
            raise NotParsed("a list, a set or a relation where a value was expected")
