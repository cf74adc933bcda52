"""What comes of an item."""

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """Whether there is a score."""

    GRADED = "graded"
    FAILED = "failed"


class Stage(Enum):
    """Which step of a cascade decided."""

    NONE = "none"
    EXTRACTION = "extraction"
    EXACT = "exact"
    NORMALIZED = "normalized"
    NUMERIC = "numeric"
    SYMBOLIC = "symbolic"


class Reason(Enum):
    """Why, as clients see it."""

    EQUAL = "EQUAL"
    DIFFERENT = "DIFFERENT"
    NO_ANSWER = "NO_ANSWER"
    """Nothing could be extracted."""
    NOT_PARSED = "NOT_PARSED"
    """Not equal as text, and one of the two is not mathematics that the grader reads."""
    TOO_COMPLEX = "TOO_COMPLEX"
    """Refused before any evaluation."""
    DEADLINE = "DEADLINE"
    MEMORY = "MEMORY"
    CRASHED = "CRASHED"


FAILURES = frozenset({Reason.TOO_COMPLEX, Reason.DEADLINE, Reason.MEMORY, Reason.CRASHED})
"""Reasons that say nothing about the answer: the item has failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """The grade of an item."""

    outcome: Outcome
    score: float
    correct: bool
    stage: Stage
    reason: Reason
    message: str = ""
    """In words, where the reason does not say it all."""
    extracted: str = ""
    components: tuple[tuple[str, float], ...] = ()
    """(part, its score) of a composite."""


def grade_of(reason: Reason, stage: Stage = Stage.NONE, *, extracted: str = "", message: str = "") -> Grade:
    """The grade that follows from a reason: 1 for EQUAL, 0 for all others."""
    equal = reason is Reason.EQUAL
    return Grade(
        outcome=Outcome.FAILED if reason in FAILURES else Outcome.GRADED,
        score=1.0 if equal else 0.0,
        correct=equal,
        stage=stage,
        reason=reason,
        message=message,
        extracted=extracted,
    )
