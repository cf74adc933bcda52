"""What is listed: the environments of the families, and those of the contract that no family serves yet."""

from collections.abc import Iterable, Mapping

from tinsmith_server.environment.family import EnvironmentSummary, Family
from tinsmith_server.environment.text_arena_setup import unavailable
from tinsmith_server.serving.errors import FailedPrecondition

_LATER = "a later release serves it; the README's status table says what is served"
_UNSERVED: Mapping[str, str] = {
    "guess_number": "guess a number from hints",
    "twenty_questions": "find a word by questions",
    "tools": "work with tools, graded at the end",
}
"""Field of EnvironmentSpec -> what it is."""


def summaries(families: Iterable[Family]) -> list[EnvironmentSummary]:
    """Every environment, by name."""
    served = [summary for family in families for summary in family.summaries()]
    later = [
        EnvironmentSummary(name=name, family=name, description=text, unavailable_reason=_LATER)
        for name, text in _UNSERVED.items()
    ]
    return sorted([*served, *later], key=lambda summary: summary.name)


def not_served(field: str) -> FailedPrecondition:
    """The refusal of a field of EnvironmentSpec that no family serves."""
    return unavailable(field, _LATER)
