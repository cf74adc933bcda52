"""Mathematical equality: exact, normalised and numeric here, symbolic in a worker."""

from collections.abc import Sequence
from functools import lru_cache, partial

from tinsmith_server.grader.extraction import braces_balance, extractor_of
from tinsmith_server.grader.grade import Grade, Reason, Stage, grade_of
from tinsmith_server.grader.grader import Job, Judge, Pending, Verdict
from tinsmith_server.grader.lexer import MOST_CHARS
from tinsmith_server.grader.normalize import Normalized, normalize
from tinsmith_server.grader.plain_numbers import numbers_agree, plain_number
from tinsmith_server.grader.spec import MathMode, MathSpec

_REMEMBERED = 4096
_LONGEST_REMEMBERED = 256

_normalize = lru_cache(maxsize=_REMEMBERED)(normalize)
_plain_number = lru_cache(maxsize=_REMEMBERED)(plain_number)


class MathGrader:
    """One specification; remembers short answers and references, which repeat within a group and between steps."""

    def __init__(self, spec: MathSpec, *, max_answer_chars: int) -> None:
        self._spec = spec
        self._max_answer_chars = max_answer_chars
        self._extract = extractor_of(spec.extraction)
        self._compare = self._lenient if spec.mode is MathMode.LENIENT else self._math_verify
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._grade)

    def grade(self, answer: str, references: tuple[str, ...]) -> Grade | Pending:
        """The first stage that decides gives the grade."""
        grade = self._remembered if len(answer) <= _LONGEST_REMEMBERED else self._grade
        return grade(answer, references)

    def _grade(self, answer: str, references: tuple[str, ...]) -> Grade | Pending:
        if len(answer) > self._max_answer_chars:
            return grade_of(Reason.TOO_COMPLEX, Stage.EXTRACTION, message="the answer is too long")
        if self._spec.strict_braces and not braces_balance(answer):
            return grade_of(Reason.NO_ANSWER, Stage.EXTRACTION, message="braces do not match")
        extracted = self._extract(answer)
        if extracted is None:
            return grade_of(Reason.NO_ANSWER, Stage.EXTRACTION)
        return self._compare(extracted.strip(), references)

    def _lenient(self, extracted: str, references: tuple[str, ...]) -> Grade | Pending:
        decided = self._as_strings(extracted, references)
        if decided is not None:
            return decided
        grades = [self._as_text(extracted, reference) for reference in references]
        equal = next((grade for grade in grades if grade is not None and grade.correct), None)
        if equal is not None:
            return equal
        open_references = [reference for reference, grade in zip(references, grades, strict=True) if grade is None]
        if not open_references:
            return next(grade for grade in grades if grade is not None)
        texts = (self._normalized(text).text for text in open_references)
        return self._ask(Judge.SYMBOLIC, extracted, self._normalized(extracted).text, tuple(texts))

    def _math_verify(self, extracted: str, references: tuple[str, ...]) -> Grade | Pending:
        decided = self._as_strings(extracted, references)
        if decided is not None:
            return decided
        if self._spec.strict_percent:
            references = tuple(text for text in references if ("%" in text) == ("%" in extracted))
        if not references:
            return grade_of(Reason.DIFFERENT, Stage.NORMALIZED, extracted=extracted, message="percent signs differ")
        return self._ask(Judge.MATH_VERIFY, extracted, extracted, references)

    def _as_strings(self, extracted: str, references: tuple[str, ...]) -> Grade | None:
        """Decides what needs no reading: equal strings, nothing at all, too much."""
        if not extracted and not (self._spec.allow_empty and "" in map(str.strip, references)):
            return grade_of(Reason.NO_ANSWER, Stage.EXTRACTION)
        if any(extracted == reference.strip() for reference in references):
            return grade_of(Reason.EQUAL, Stage.EXACT, extracted=extracted)
        if max(map(len, (extracted, *references))) > MOST_CHARS:
            message = f"more than {MOST_CHARS} characters"
            return grade_of(Reason.TOO_COMPLEX, Stage.EXACT, extracted=extracted, message=message)
        return None

    def _as_text(self, extracted: str, reference: str) -> Grade | None:
        """Compares plain numbers and normal spellings; None when that does not decide."""
        if "%" not in extracted and "%" not in reference:
            as_numbers = self._as_numbers(extracted, reference, extracted)
            if as_numbers is not None:
                return as_numbers  # what most answers are; their normal spelling takes longer to find
        left, right = self._normalized(extracted), self._normalized(reference)
        if self._spec.strict_units and left.unit != right.unit:
            return grade_of(Reason.DIFFERENT, Stage.NORMALIZED, extracted=extracted, message="units differ")
        if not left.text or not right.text:
            return grade_of(Reason.DIFFERENT, Stage.NORMALIZED, extracted=extracted)
        if left.text == right.text:
            return grade_of(Reason.EQUAL, Stage.NORMALIZED, extracted=extracted)
        return self._as_numbers(left.text, right.text, extracted)

    def _as_numbers(self, left_text: str, right_text: str, extracted: str) -> Grade | None:
        left, right = _plain_number(left_text), _plain_number(right_text)
        if left is None or right is None:
            return None
        agree = numbers_agree(left, right, relative_tolerance=self._spec.relative_tolerance)
        return grade_of(Reason.EQUAL if agree else Reason.DIFFERENT, Stage.NUMERIC, extracted=extracted)

    def _normalized(self, text: str) -> Normalized:
        return _normalize(text, keep_percent=self._spec.strict_percent)

    def _ask(self, judge: Judge, extracted: str, answer: str, references: tuple[str, ...]) -> Pending:
        job = Job(
            judge=judge,
            answer=answer,
            references=references,
            relative_tolerance=self._spec.relative_tolerance,
            keep_units=self._spec.strict_units,
        )
        return Pending(jobs=(job,), finish=partial(_finish, extracted))


def _finish(extracted: str, verdicts: Sequence[Verdict]) -> Grade:
    (verdict,) = verdicts
    return grade_of(verdict.reason, Stage.SYMBOLIC, extracted=extracted, message=verdict.message)
