"""A weighted sum of graders."""

from collections.abc import Sequence
from dataclasses import dataclass

from tinsmith_server.grader.grade import Grade, Outcome, Reason, Stage
from tinsmith_server.grader.grader import Grader, Pending, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A grader with its name and its factor."""

    name: str
    grader: Grader
    weight: float


class CompositeGrader:
    """Score: sum of weight * score. Correct when every part is. Failed, with the part's reason, when a part has."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    def grade(self, answer: str, references: tuple[str, ...]) -> Grade | Pending:
        """The sum, or what its parts need first."""
        found = [part.grader.grade(answer, references) for part in self._parts]
        jobs = tuple(job for grade in found if isinstance(grade, Pending) for job in grade.jobs)
        if not jobs:
            return self._sum([grade for grade in found if isinstance(grade, Grade)])
        return Pending(jobs=jobs, finish=lambda verdicts: self._sum(_finished(found, verdicts)))

    def _sum(self, grades: Sequence[Grade]) -> Grade:
        failed = next((grade for grade in grades if grade.outcome is Outcome.FAILED), None)
        correct = failed is None and all(grade.correct for grade in grades)
        total = sum(part.weight * grade.score for part, grade in zip(self._parts, grades, strict=True))
        reason = Reason.EQUAL if correct else Reason.DIFFERENT
        return Grade(
            outcome=Outcome.GRADED if failed is None else Outcome.FAILED,
            score=total if failed is None else 0.0,
            correct=correct,
            stage=Stage.NONE,
            reason=reason if failed is None else failed.reason,
            message="" if failed is None else failed.message,
            components=tuple((part.name, grade.score) for part, grade in zip(self._parts, grades, strict=True)),
        )


def _finished(found: Sequence[Grade | Pending], verdicts: Sequence[Verdict]) -> list[Grade]:
    grades, place = [], 0
    for grade in found:
        if isinstance(grade, Pending):
            grades.append(grade.finish(verdicts[place : place + len(grade.jobs)]))
            place += len(grade.jobs)
        else:
            grades.append(grade)
    return grades
