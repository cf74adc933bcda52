"""Graders that only look at characters: exact, contains, choice, numeric."""

import re
import string

from tinsmith_server.grader.extraction import extract
from tinsmith_server.grader.grade import Grade, Reason, Stage, grade_of
from tinsmith_server.grader.lexer import MOST_CHARS
from tinsmith_server.grader.normalize import normalize
from tinsmith_server.grader.plain_numbers import PlainNumber, plain_number, within
from tinsmith_server.grader.spec import ChoiceSpec, ContainsSpec, ExactSpec, Extraction, NumericSpec

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b", re.IGNORECASE)


class ExactGrader:
    """String equality after trimming."""

    def __init__(self, spec: ExactSpec) -> None:
        self._spec = spec

    def grade(self, answer: str, references: tuple[str, ...]) -> Grade:
        """EQUAL or DIFFERENT, at the stage EXACT."""
        found = self._form(answer)
        equal = any(found == self._form(reference) for reference in references)
        return grade_of(Reason.EQUAL if equal else Reason.DIFFERENT, Stage.EXACT)

    def _form(self, text: str) -> str:
        text = text.casefold() if self._spec.ignore_case else text
        if self._spec.normalize:
            text = " ".join(_ARTICLES.sub(" ", text.translate(_PUNCTUATION)).split())
        return text.strip()


class ContainsGrader:
    """The reference occurs in the answer. An empty reference occurs nowhere."""

    def __init__(self, spec: ContainsSpec) -> None:
        self._spec = spec

    def grade(self, answer: str, references: tuple[str, ...]) -> Grade:
        """EQUAL when one of the references occurs."""
        form = str.casefold if self._spec.ignore_case else str
        text = form(answer)
        found = next((item for item in references if item.strip() and form(item.strip()) in text), None)
        if found is None:
            return grade_of(Reason.DIFFERENT, Stage.EXACT)
        return grade_of(Reason.EQUAL, Stage.EXACT, extracted=found.strip())


class ChoiceGrader:
    """A letter: boxed, after "answer is", or the last one that stands alone; the first of these that there is."""

    def __init__(self, spec: ChoiceSpec) -> None:
        letters = f"[{re.escape(spec.letters)}]"
        self._marked = re.compile(rf"\W*(?i:({letters}))(?:\W.*)?\Z", re.DOTALL)
        self._announced = re.compile(rf"(?i:answer|choice|option)(?i: is)?[ :*(]{{0,6}}(?i:({letters}))(?![A-Za-z0-9])")
        self._alone = re.compile(rf"(?<![A-Za-z0-9])({letters})(?![A-Za-z0-9'])")

    def grade(self, answer: str, references: tuple[str, ...]) -> Grade:
        """NO_ANSWER when no letter is found."""
        letter = self._letter(answer)
        if letter is None:
            return grade_of(Reason.NO_ANSWER, Stage.EXTRACTION)
        equal = letter in (self._of_reference(reference) for reference in references)
        return grade_of(Reason.EQUAL if equal else Reason.DIFFERENT, Stage.EXACT, extracted=letter)

    def _letter(self, text: str) -> str | None:
        boxed = self._of_reference(extract(text, Extraction.LAST_BOXED) or "")
        if boxed is not None:
            return boxed
        found = self._announced.findall(text) or self._alone.findall(text)
        return found[-1].upper() if found else None

    def _of_reference(self, text: str) -> str | None:
        match = self._marked.match(text)
        return match.group(1).upper() if match else None


class NumericGrader:
    """A number within a tolerance."""

    def __init__(self, spec: NumericSpec, *, max_answer_chars: int) -> None:
        self._spec = spec
        self._max_answer_chars = max_answer_chars

    def grade(self, answer: str, references: tuple[str, ...]) -> Grade:
        """NO_ANSWER without a number; NOT_PARSED when no reference is a number."""
        if len(answer) > self._max_answer_chars:
            return grade_of(Reason.TOO_COMPLEX, Stage.EXTRACTION, message="the answer is too long")
        extracted = extract(answer, self._spec.extraction)
        number = _number(extracted or "")
        if extracted is None or number is None:
            return grade_of(Reason.NO_ANSWER, Stage.EXTRACTION)
        targets = [target for target in map(_number, references) if target is not None]
        if not targets:
            message = "the reference is not a number"
            return grade_of(Reason.NOT_PARSED, Stage.NUMERIC, extracted=extracted, message=message)
        equal = any(self._near(number, target) for target in targets)
        return grade_of(Reason.EQUAL if equal else Reason.DIFFERENT, Stage.NUMERIC, extracted=extracted)

    def _near(self, number: PlainNumber, target: PlainNumber) -> bool:
        return within(
            number.value,
            target.value,
            relative_tolerance=self._spec.relative_tolerance,
            absolute_tolerance=self._spec.absolute_tolerance,
        )


def _number(text: str) -> PlainNumber | None:
    return plain_number(normalize(text, keep_percent=False).text) if len(text) <= MOST_CHARS else None
