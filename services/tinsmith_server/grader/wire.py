"""The grader's messages and its domain, one into the other. The only file that knows both."""

import math
from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader.catalogue import GraderDescription
from tinsmith_server.grader.grade import Grade, Outcome, Stage
from tinsmith_server.grader.spec import (
    ChoiceSpec,
    CompositePart,
    CompositeSpec,
    ContainsSpec,
    ExactSpec,
    Extraction,
    MathMode,
    MathSpec,
    NumericSpec,
    Spec,
)
from tinsmith_server.serving.errors import InvalidArgument, Unimplemented

_EXTRACTIONS = {
    pb.EXTRACTION_WHOLE: Extraction.WHOLE,
    pb.EXTRACTION_LAST_BOXED: Extraction.LAST_BOXED,
    pb.EXTRACTION_FIRST_BOXED: Extraction.FIRST_BOXED,
    pb.EXTRACTION_LAST_INTEGER: Extraction.LAST_INTEGER,
    pb.EXTRACTION_LAST_NUMBER: Extraction.LAST_NUMBER,
}
_MODES = {
    pb.MATH_MODE_UNSPECIFIED: MathMode.LENIENT,
    pb.MATH_MODE_LENIENT: MathMode.LENIENT,
    pb.MATH_MODE_COOKBOOK: MathMode.COOKBOOK,
    pb.MATH_MODE_MATH_VERIFY: MathMode.MATH_VERIFY,
}
_OUTCOMES = {Outcome.GRADED: pb.GRADE_OUTCOME_GRADED, Outcome.FAILED: pb.GRADE_OUTCOME_FAILED}
_STAGES = {
    Stage.NONE: pb.GRADE_STAGE_UNSPECIFIED,
    Stage.EXTRACTION: pb.GRADE_STAGE_EXTRACTION,
    Stage.EXACT: pb.GRADE_STAGE_EXACT,
    Stage.NORMALIZED: pb.GRADE_STAGE_NORMALIZED,
    Stage.NUMERIC: pb.GRADE_STAGE_NUMERIC,
    Stage.SYMBOLIC: pb.GRADE_STAGE_SYMBOLIC,
}
_DEFAULT_LETTERS = "ABCD"
_MOST_PARTS, _MOST_LEVELS = 64, 4


def grader_spec(message: pb.GraderSpec, path: str, *, level: int = 1) -> Spec:
    """A GraderSpec as the domain has it; `path` is its field. InvalidArgument with reason BAD_GRADER when it makes no
    sense, Unimplemented with reason GRADER_NOT_IMPLEMENTED when this server lacks it."""
    name = message.WhichOneof("grader")
    match name:
        case "math":
            return _math_spec(message.math, f"{path}.math")
        case "exact":
            return ExactSpec(ignore_case=message.exact.ignore_case, normalize=message.exact.normalize)
        case "contains":
            return ContainsSpec(ignore_case=message.contains.ignore_case)
        case "choice":
            return _choice_spec(message.choice, f"{path}.choice")
        case "numeric":
            return _numeric_spec(message.numeric, f"{path}.numeric")
        case "composite":
            return _composite_spec(message.composite, f"{path}.composite", level)
        case None:
            raise bad_grader(path, "names no grader")
        case _:
            raise _not_implemented(name)


def item_timeout_s(message: Duration) -> float:
    """Seconds."""
    return message.seconds + message.nanos / 1e9


def references(item: pb.GradeItem) -> tuple[str, ...]:
    """What an item's answer may equal."""
    return (item.reference, *item.alternatives) if item.alternatives else (item.reference,)


def grade_result(item_id: str, grade: Grade, milliseconds: float) -> pb.GradeResult:
    """A grade as a message."""
    return pb.GradeResult(
        id=item_id,
        outcome=_OUTCOMES[grade.outcome],
        score=grade.score,
        correct=grade.correct,
        stage=_STAGES[grade.stage],
        reason=grade.reason.value,
        message=grade.message,
        extracted=grade.extracted,
        milliseconds=milliseconds,
        components=dict(grade.components) if grade.components else None,
    )


def graders(found: Iterable[GraderDescription], next_page_token: str) -> pb.ListGradersResponse:
    """A page of the list of graders as a message."""
    infos = [
        pb.GraderInfo(
            name=item.name,
            description=item.description,
            options_schema_json=item.options_schema_json,
            available=not item.unavailable_reason,
            unavailable_reason=item.unavailable_reason,
        )
        for item in found
    ]
    return pb.ListGradersResponse(graders=infos, next_page_token=next_page_token)


def bad_grader(path: str, problem: str) -> InvalidArgument:
    """The error for a specification that makes no sense."""
    return InvalidArgument(
        f"{path}: {problem}", reason="BAD_GRADER", metadata={"field": path}, violations=[(path, problem)]
    )


def _math_spec(message: pb.MathGrader, path: str) -> MathSpec:
    mode = _MODES.get(message.mode)
    if mode is None:
        raise bad_grader(f"{path}.mode", f"{message.mode} is no mode")
    if mode is MathMode.COOKBOOK:
        raise _not_implemented("math", mode="MATH_MODE_COOKBOOK")
    tolerance = _finite(message.relative_tolerance, f"{path}.relative_tolerance")
    if tolerance and mode is MathMode.MATH_VERIFY:
        raise bad_grader(f"{path}.relative_tolerance", "is for MATH_MODE_LENIENT; math-verify has its own")
    return MathSpec(
        mode=mode,
        extraction=_extraction(message.extraction, Extraction.LAST_BOXED, f"{path}.extraction"),
        strict_braces=message.strict_braces,
        strict_units=message.strict_units,
        strict_percent=message.strict_percent,
        relative_tolerance=tolerance,
        allow_empty=message.allow_empty,
    )


def _choice_spec(message: pb.ChoiceGrader, path: str) -> ChoiceSpec:
    letters = (message.letters or _DEFAULT_LETTERS).upper()
    if not (letters.isascii() and letters.isalpha()) or len(set(letters)) != len(letters):
        raise bad_grader(f"{path}.letters", "takes letters from A to Z, each once")
    return ChoiceSpec(letters=letters)


def _numeric_spec(message: pb.NumericGrader, path: str) -> NumericSpec:
    return NumericSpec(
        extraction=_extraction(message.extraction, Extraction.LAST_NUMBER, f"{path}.extraction"),
        absolute_tolerance=_finite(message.absolute_tolerance, f"{path}.absolute_tolerance"),
        relative_tolerance=_finite(message.relative_tolerance, f"{path}.relative_tolerance"),
    )


def _composite_spec(message: pb.CompositeGrader, path: str, level: int) -> CompositeSpec:
    names = [part.name for part in message.parts]
    if level > _MOST_LEVELS:
        raise bad_grader(path, f"is a composite within more than {_MOST_LEVELS} others")
    if len(names) > _MOST_PARTS or len(set(names)) != len(names):
        raise bad_grader(f"{path}.parts", f"takes at most {_MOST_PARTS} parts, with names that differ")
    parts = (
        CompositePart(
            name=part.name,
            spec=grader_spec(part.grader, f"{path}.parts[{place}].grader", level=level + 1),
            weight=part.weight,
        )
        for place, part in enumerate(message.parts)
    )
    return CompositeSpec(parts=tuple(parts))


def _extraction(value: "pb.Extraction.ValueType", default: Extraction, path: str) -> Extraction:
    if value == pb.EXTRACTION_UNSPECIFIED:
        return default
    if value not in _EXTRACTIONS:
        raise bad_grader(path, f"{value} is no extraction")
    return _EXTRACTIONS[value]


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise bad_grader(path, "is not finite")
    return value


def _not_implemented(grader: str, **metadata: str) -> Unimplemented:
    named = " ".join((grader, *metadata.values()))
    return Unimplemented(
        f"the grader {named} is not implemented yet; ListGraders says which are",
        reason="GRADER_NOT_IMPLEMENTED",
        metadata={"grader": grader, **metadata},
    )
