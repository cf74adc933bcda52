r"""Formulas, in LaTeX or typed, into trees. Nothing is computed here, and no other parser sees a model's text.

statement := list of `chain` by comma or semicolon
chain     := union, relation signs between       union := sum, \cup between
sum       := terms with + - \pm \mp              term  := factors with * / or nothing between
factor    := postfix [^ exponent]                postfix := atom, then any of ! %
"""

import re
from fractions import Fraction

from tinsmith_server.grader.atoms import Atoms
from tinsmith_server.grader.expression import (
    Apply,
    Expression,
    Listing,
    NotParsed,
    Number,
    Relation,
    Union,
)
from tinsmith_server.grader.lexer import FUNCTIONS, Kind, tokens_of

_RELATIONS = {
    **{"=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="},
    **{"le": "<=", "ge": ">=", "ne": "!=", "lt": "<", "gt": ">", "in": "in"},
}
_SUM_SIGNS = {"+": "add", "-": "subtract", "pm": "plus_minus", "mp": "minus_plus"}
_PROSE = re.compile(r"[A-Za-z ]{3,}\Z")


def parse(text: str) -> Expression:
    """The tree of `text`. NotParsed when it is no formula; TooComplex beyond the limits of length, digits, nesting
    and operations."""
    if _PROSE.match(text) and not any(name in text for name in (*FUNCTIONS, "pi", "inf")):
        raise NotParsed("prose")
    parser = _Parser(tokens_of(text))
    expression = parser.statement()
    parser.expect("")
    return expression


class _Parser(Atoms):
    """Recursive descent over tokens."""

    def statement(self) -> Expression:
        items = self.items()
        return items[0] if len(items) == 1 else Listing(items)

    def items(self) -> tuple[Expression, ...]:
        items = [self._chain()]
        while self.takes(",") or self.takes(";"):
            items.append(self._chain())
        return tuple(items)

    def _chain(self) -> Expression:
        signs: list[str] = []
        sides = [self._union()]
        while self.sees(*_RELATIONS):
            signs.append(_RELATIONS[self.take()])
            sides.append(self._union())
        return Relation(tuple(signs), tuple(sides)) if signs else sides[0]

    def _union(self) -> Expression:
        parts = [self.sum()]
        while self.takes("cup"):
            parts.append(self.sum())
        return Union(tuple(parts)) if len(parts) > 1 else parts[0]

    def sum(self) -> Expression:
        total = self._signed()
        while self.sees(*_SUM_SIGNS):
            operation = _SUM_SIGNS[self.take()]
            term = self._term()
            if operation == "subtract":
                operation, term = "add", self.apply("negate", term)
            total = self.joined(operation, total, term)
        return total

    def _signed(self) -> Expression:
        if not self.sees(*_SUM_SIGNS):
            return self._term()
        operation = _SUM_SIGNS[self.take()]
        term = self._term()
        match operation:
            case "add":
                return term
            case "subtract":
                return self.apply("negate", term)
            case _:
                return self.apply(operation, Number(Fraction(0)), term)

    def _term(self) -> Expression:
        product = self.factor()
        while True:
            if self.takes("*"):
                product = self.joined("multiply", product, self.signed_factor())
            elif self.takes("/"):
                product = self.apply("divide", product, self.signed_factor())
            elif self.starts_atom():
                product = self._juxtaposed(product)
            else:
                return product

    def _juxtaposed(self, product: Expression) -> Expression:
        """Nothing between two factors multiplies them; a whole number before a plain fraction is a mixed number."""
        number = self.next.kind is Kind.NUMBER
        is_fraction = self.sees("frac")
        factor = self._fraction_after_number() if number else self.factor()
        if (number or is_fraction) and _is_whole(product) and _is_plain_fraction(factor):
            return self.apply("add", product, factor)
        if number:
            raise NotParsed("two numbers stand side by side")
        return self.joined("multiply", product, factor)

    def _fraction_after_number(self) -> Expression:
        over = self.factor()
        if not self.takes("/"):
            raise NotParsed("two numbers stand side by side")
        return self.apply("divide", over, self.factor())

    def factor(self) -> Expression:
        base = self._postfix()
        return self.apply("power", base, self.exponent()) if self.takes("^") else base

    def exponent(self) -> Expression:
        """What follows `^`; towers bind from the right."""
        with self.nested():
            negative = self.takes("-")
            base = self.factor()
            return self.apply("negate", base) if negative else base

    def _postfix(self) -> Expression:
        value = self.atom()
        while self.sees("!", "%"):
            if self.take() == "!":
                value = self.apply("factorial", value)
            else:
                value = self.apply("divide", value, Number(Fraction(100)))
        return value


def _is_whole(expression: Expression) -> bool:
    return isinstance(expression, Number) and expression.is_exact


def _is_plain_fraction(expression: Expression) -> bool:
    return (
        isinstance(expression, Apply) and expression.operation == "divide" and all(map(_is_whole, expression.arguments))
    )
