"""What a grader is: it decides at once, or says what a worker process must find out first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from tinsmith_server.grader.grade import Grade, Reason


class Judge(Enum):
    """Who compares, in a worker process."""

    SYMBOLIC = "symbolic"
    MATH_VERIFY = "math_verify"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A comparison for a worker process."""

    judge: Judge
    answer: str
    references: tuple[str, ...]
    relative_tolerance: float = 0.0
    keep_units: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What came of a job."""

    reason: Reason
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedVerdict:
    """A verdict and what it cost."""

    verdict: Verdict
    milliseconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A grade that waits for verdicts."""

    jobs: tuple[Job, ...]
    finish: Callable[[Sequence[Verdict]], Grade]
    """The verdicts in the order of the jobs -> the grade."""


class Grader(Protocol):
    """Grades one answer against its references, of which any may be met. Takes microseconds and raises nothing."""

    def grade(self, answer: str, references: tuple[str, ...]) -> Grade | Pending:
        """The grade, or what it takes to find it."""
        ...
