"""Mathematics as a tree, before anything of it is computed."""

from dataclasses import dataclass
from fractions import Fraction


class NotParsed(Exception):
    """The text is not mathematics that the grader reads; the message says where it stops to be."""


class TooComplex(Exception):
    """The text asks for more work than an answer is worth; the message says of what."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number that was written out."""

    value: Fraction
    is_exact: bool = True
    """False for decimals, which may be rounded."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """pi, e, i or oo (infinity)."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation: add, multiply, divide, power, negate, plus_minus, minus_plus, or a function's name."""

    operation: str
    arguments: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Group:
    """Items in brackets, whose kinds count: a pair (1, 2), an interval [0, 1), a set with braces."""

    opening: str
    closing: str
    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Listing:
    """Items without brackets, in any order: the solutions of an equation."""

    items: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Union:
    r"""Sets joined by \cup."""

    parts: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Relation:
    """Sides with a sign between each two: =, !=, <, <=, >, >= or in."""

    signs: tuple[str, ...]
    sides: "tuple[Expression, ...]"


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of entries."""

    rows: "tuple[tuple[Expression, ...], ...]"


Expression = Number | Symbol | Constant | Apply | Group | Listing | Union | Relation | Matrix


def children(expression: Expression) -> tuple[Expression, ...]:
    """What an expression is made of."""
    match expression:
        case Apply(arguments=parts) | Listing(items=parts) | Union(parts=parts) | Group(items=parts):
            return parts
        case Relation(sides=sides):
            return sides
        case Matrix(rows=rows):
            return tuple(entry for row in rows for entry in row)
        case _:
            return ()
