"""Whether an answer and a reference say the same: values, pairs, sets, intervals, matrices, relations."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sympy.core.evalf import PrecisionExhausted

from tinsmith_server.grader.equality import equal, proportional
from tinsmith_server.grader.expression import (
    Apply,
    Constant,
    Expression,
    Group,
    Listing,
    Matrix,
    NotParsed,
    Number,
    Relation,
    Symbol,
    TooComplex,
    Union,
    children,
)
from tinsmith_server.grader.parser import parse
from tinsmith_server.grader.symbolic import symbolic

_MOST_ITEMS = 200
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}
_INFINITY = Constant("oo")
_MINUS_INFINITY = Apply("negate", (_INFINITY,))

cached_parse = lru_cache(maxsize=4096)(parse)


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Compares with a tolerance for values of which one is written as a decimal."""

    relative_tolerance: float = 0.0

    def texts_agree(self, answer: str, reference: str) -> bool:
        """Whether two texts in normal spelling are equal as mathematics. NotParsed and TooComplex when they can't be
        compared."""
        left, right = _bare(_expand_signs(cached_parse(answer)), _expand_signs(cached_parse(reference)))
        return self.agree(left, right)

    def agree(self, left: Expression, right: Expression) -> bool:
        """Whether two trees are equal."""
        match left, right:
            case Listing() | Group(opening="set"), Listing() | Group(opening="set"):
                return self._in_any_order(children(left), children(right))
            case Group(), Group():
                same = (left.opening, left.closing) == (right.opening, right.closing)
                return same and self._in_order(left.items, right.items)
            case Union(), Union():
                return self._in_any_order(left.parts, right.parts)
            case Matrix(), Matrix():
                same = len(left.rows) == len(right.rows)
                return same and all(map(self._in_order, left.rows, right.rows))
            case Relation(), Relation():
                return self._relations_agree(left, right)
            case (Relation(), Group() | Union()) | (Group() | Union(), Relation()):
                return self.agree(_as_interval(left), _as_interval(right))
            case (Number() | Symbol() | Constant() | Apply(), Number() | Symbol() | Constant() | Apply()):
                return self._values_agree(left, right)
            case _:
                return False

    def _values_agree(self, left: Expression, right: Expression) -> bool:
        tolerance = self.relative_tolerance if _has_decimal(left) or _has_decimal(right) else 0.0
        try:
            return equal(symbolic(left), symbolic(right), relative_tolerance=tolerance)
        except PrecisionExhausted:
            raise TooComplex("a number with more digits than are computed") from None

    def _in_order(self, left: Sequence[Expression], right: Sequence[Expression]) -> bool:
        return len(left) == len(right) and all(map(self.agree, left, right))

    def _in_any_order(self, left: Sequence[Expression], right: Sequence[Expression]) -> bool:
        if len(left) != len(right):
            return False
        if len(left) > _MOST_ITEMS:
            raise TooComplex(f"more than {_MOST_ITEMS} items")
        rest = list(right)
        for item in left:
            partner = next((place for place, other in enumerate(rest) if self.agree(item, other)), None)
            if partner is None:
                return False
            del rest[partner]
        return True

    def _relations_agree(self, left: Relation, right: Relation) -> bool:
        left, right = _ascending(left), _ascending(right)
        if left.signs == right.signs and self._in_order(left.sides, right.sides):
            return True
        if left.signs != right.signs:
            return self._ranges_agree(left, right)
        if len(left.signs) != 1 or left.signs == ("in",):
            return False
        is_equation = left.signs[0] in ("=", "!=")
        return proportional(_difference(left), _difference(right), positive=not is_equation)

    def _ranges_agree(self, left: Relation, right: Relation) -> bool:
        """`x in [1, 2]` against `1 <= x <= 2`."""
        ranges = _as_interval(left), _as_interval(right)
        is_same_variable = _variable(left) is not None and _variable(left) == _variable(right)
        return is_same_variable and not any(isinstance(side, Relation) for side in ranges) and self.agree(*ranges)


def _variable(relation: Relation) -> Symbol | None:
    return next((side for side in relation.sides if isinstance(side, Symbol)), None)


def _difference(relation: Relation) -> Any:
    first, last = relation.sides
    return symbolic(Apply("add", (first, Apply("negate", (last,)))))


def _bare(left: Expression, right: Expression) -> tuple[Expression, Expression]:
    """`x = 5` against `5`, and `x in S` against `S`, compare without what stands before the sign."""
    return _without_name(left, right), _without_name(right, left)


def _without_name(expression: Expression, other: Expression) -> Expression:
    if not isinstance(expression, Relation) or isinstance(other, Relation):
        return expression
    if set(expression.signs) <= {"=", "in"} and _is_name(expression.sides[0]):
        return expression.sides[-1]
    return expression


def _is_name(expression: Expression) -> bool:
    """A variable, or what reads like a function of variables: f(x) is f times x here."""
    match expression:
        case Symbol():
            return True
        case Apply(operation="multiply", arguments=(Symbol(), Symbol() | Group())):
            return True
        case _:
            return False


def _ascending(relation: Relation) -> Relation:
    """A chain that begins with > or >= the other way round."""
    if relation.signs[0] not in (">", ">="):
        return relation
    return Relation(tuple(_FLIPPED.get(sign, sign) for sign in reversed(relation.signs)), relation.sides[::-1])


def _as_interval(expression: Expression) -> Expression:
    """x < 2 is (-oo, 2), and 1 <= x < 2 is [1, 2); anything else stays."""
    if not isinstance(expression, Relation):
        return expression
    relation = _ascending(expression)
    match relation.signs, relation.sides:
        case (("in",), (Symbol(), interval)):
            return interval
        case (("<" | "<=" as sign,), (Symbol(), upper)):
            return Group("(", _right(sign), (_MINUS_INFINITY, upper))
        case (("<" | "<=" as sign,), (lower, Symbol())):
            return Group(_left(sign), ")", (lower, _INFINITY))
        case (("<" | "<=" as first, "<" | "<=" as last), (lower, Symbol(), upper)):
            return Group(_left(first), _right(last), (lower, upper))
        case _:
            return expression


def _left(sign: str) -> str:
    return "[" if sign == "<=" else "("


def _right(sign: str) -> str:
    return "]" if sign == "<=" else ")"


def _has_decimal(expression: Expression) -> bool:
    if isinstance(expression, Number):
        return not expression.is_exact
    return any(map(_has_decimal, children(expression)))


def _expand_signs(expression: Expression) -> Expression:
    r"""`a \pm b` is the list of a + b and a - b; with several such signs, all upper ones and all lower ones."""
    if not _has_double_sign(expression):
        return expression
    return Listing((_choose(expression, upper=True), _choose(expression, upper=False)))


def _has_double_sign(expression: Expression) -> bool:
    if isinstance(expression, Apply) and expression.operation in ("plus_minus", "minus_plus"):
        return True
    return any(map(_has_double_sign, children(expression)))


def _choose(expression: Expression, *, upper: bool) -> Expression:
    if isinstance(expression, Relation):
        return Relation(expression.signs, tuple(_choose(side, upper=upper) for side in expression.sides))
    if not isinstance(expression, Apply):
        if _has_double_sign(expression):
            raise NotParsed("a double sign in a list")
        return expression
    arguments = tuple(_choose(argument, upper=upper) for argument in expression.arguments)
    if expression.operation not in ("plus_minus", "minus_plus"):
        return Apply(expression.operation, arguments)
    if (expression.operation == "plus_minus") == upper:
        return Apply("add", arguments)
    return Apply("add", (arguments[0], Apply("negate", (arguments[1],))))
