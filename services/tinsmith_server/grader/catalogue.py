"""The list of graders."""

from collections.abc import Sequence
from dataclasses import dataclass

from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader.options_schema import options_schema
from tinsmith_server.serving.paging import page

_NOT_YET = "not implemented yet"
_DESCRIPTIONS = {
    "math": ("Mathematical equality: exact, normalised, numeric, then symbolic; or as math-verify.", ""),
    "exact": ("String equality after trimming.", ""),
    "contains": ("The reference occurs in the answer.", ""),
    "regex": ("A regular expression matches.", _NOT_YET),
    "choice": ('A choice letter: boxed, after "answer is", or the last one that stands alone.', ""),
    "numeric": ("A number within a tolerance.", ""),
    "overlap": ("Words shared with the reference.", _NOT_YET),
    "code": ("A program that passes tests.", _NOT_YET),
    "instructions": ("Instructions that can be checked.", _NOT_YET),
    "json_schema": ("A JSON document that fits a schema.", _NOT_YET),
    "judge": ("A language model as judge.", _NOT_YET),
    "rubric": ("A rubric judged by a language model.", _NOT_YET),
    "pairwise": ("Which of two answers a language model prefers.", _NOT_YET),
    "composite": ("A weighted sum of others.", ""),
    "external": ("A grader service of the user.", _NOT_YET),
}
"""Name in GraderSpec -> what it does, and why it can't be used if it can't."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraderDescription:
    """A grader, as it is listed."""

    name: str
    description: str
    options_schema_json: str
    unavailable_reason: str


def list_graders(size: int, token: str) -> tuple[Sequence[GraderDescription], str]:
    """A page of graders by name, and the token of the next page, empty on the last. InvalidArgument with reason
    BAD_PAGE_TOKEN for a token that is not of this server."""
    names, next_page_token = page(sorted(_DESCRIPTIONS), lambda name: (name,), size, token)
    return [_describe(name) for name in names], next_page_token


def _describe(name: str) -> GraderDescription:
    description, unavailable_reason = _DESCRIPTIONS[name]
    options = pb.GraderSpec.DESCRIPTOR.fields_by_name[name].message_type
    return GraderDescription(
        name=name,
        description=description,
        options_schema_json=options_schema(options),
        unavailable_reason=unavailable_reason,
    )
