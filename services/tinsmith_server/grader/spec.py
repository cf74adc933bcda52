"""How an answer is graded, as a client asks for it."""

from dataclasses import dataclass
from enum import Enum


class Extraction(Enum):
    """Which part of an answer is the answer."""

    WHOLE = "whole"
    LAST_BOXED = "last boxed"
    FIRST_BOXED = "first boxed"
    LAST_INTEGER = "last integer"
    LAST_NUMBER = "last number"


class MathMode(Enum):
    """How mathematical equality is judged."""

    LENIENT = "lenient"
    COOKBOOK = "cookbook"
    MATH_VERIFY = "math_verify"


@dataclass(frozen=True, kw_only=True, slots=True)
class MathSpec:
    """Mathematical equality."""

    mode: MathMode = MathMode.LENIENT
    extraction: Extraction = Extraction.LAST_BOXED
    strict_braces: bool = False
    strict_units: bool = False
    strict_percent: bool = False
    relative_tolerance: float = 0.0
    allow_empty: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactSpec:
    """String equality."""

    ignore_case: bool = False
    normalize: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ContainsSpec:
    """The reference occurs in the answer."""

    ignore_case: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceSpec:
    """A choice letter."""

    letters: str = "ABCD"


@dataclass(frozen=True, kw_only=True, slots=True)
class NumericSpec:
    """A number within a tolerance."""

    extraction: Extraction = Extraction.LAST_NUMBER
    absolute_tolerance: float = 0.0
    relative_tolerance: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CompositePart:
    """One part of a weighted sum."""

    name: str
    spec: "Spec"
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CompositeSpec:
    """A weighted sum."""

    parts: tuple[CompositePart, ...]


Spec = MathSpec | ExactSpec | ContainsSpec | ChoiceSpec | NumericSpec | CompositeSpec
