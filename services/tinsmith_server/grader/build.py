"""Graders of specifications."""

from tinsmith_server.grader.composite import CompositeGrader, Part
from tinsmith_server.grader.grader import Grader
from tinsmith_server.grader.math_grader import MathGrader
from tinsmith_server.grader.spec import ChoiceSpec, CompositeSpec, ContainsSpec, ExactSpec, MathSpec, NumericSpec, Spec
from tinsmith_server.grader.text_graders import ChoiceGrader, ContainsGrader, ExactGrader, NumericGrader


def grader_of(spec: Spec, *, max_answer_chars: int) -> Grader:
    """The grader that does what `spec` says."""
    match spec:
        case MathSpec():
            return MathGrader(spec, max_answer_chars=max_answer_chars)
        case ExactSpec():
            return ExactGrader(spec)
        case ContainsSpec():
            return ContainsGrader(spec)
        case ChoiceSpec():
            return ChoiceGrader(spec)
        case NumericSpec():
            return NumericGrader(spec, max_answer_chars=max_answer_chars)
        case CompositeSpec(parts=parts):
            build = [
                Part(name=part.name, weight=part.weight, grader=grader_of(part.spec, max_answer_chars=max_answer_chars))
                for part in parts
            ]
            return CompositeGrader(build)
