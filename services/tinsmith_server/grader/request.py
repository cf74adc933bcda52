"""Requests read into items: specifications become graders, which are kept, and limits are looked after."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from google.protobuf.duration_pb2 import Duration

from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith_server.grader import wire
from tinsmith_server.grader.build import grader_of
from tinsmith_server.grader.grader import Grader
from tinsmith_server.grader.grading import Item
from tinsmith_server.grader.settings import GraderSettings
from tinsmith_server.serving.errors import InvalidArgument

_KEPT_GRADERS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Items with their ids and the time that each may take."""

    items: Sequence[Item]
    ids: Sequence[str]
    timeout_s: float


class RequestReader:
    """Reads Grade requests."""

    def __init__(self, settings: GraderSettings) -> None:
        self._settings = settings
        self._grader_of = lru_cache(maxsize=_KEPT_GRADERS)(
            lambda spec: grader_of(spec, max_answer_chars=settings.max_answer_chars)
        )

    def batch(self, request: pb.GradeRequest) -> Batch:
        """The items of a request."""
        main = self.grader(request.grader, "grader") if request.HasField("grader") else None
        others = self.graders(request.other_graders)
        timeout_s = self.timeout_s(request.item_timeout) if request.HasField("item_timeout") else None
        return self.items(request.items, (main, *others), timeout_s)

    def grader(self, message: pb.GraderSpec, path: str) -> Grader:
        """The grader of a specification; one of an equal specification was perhaps kept."""
        return self._grader_of(wire.grader_spec(message, path))

    def graders(self, messages: Sequence[pb.GraderSpec]) -> list[Grader]:
        """The graders that items may name."""
        return [self.grader(message, f"other_graders[{place}]") for place, message in enumerate(messages)]

    def timeout_s(self, message: Duration) -> float:
        """A limit of items. InvalidArgument with reason BAD_ITEM_TIMEOUT when it is none or too long."""
        seconds, most = wire.item_timeout_s(message), self._settings.max_item_timeout_s
        if not 0 < seconds <= most:
            problem = f"{seconds:g} s is not above 0 and at most {most:g} s"
            raise InvalidArgument(
                f"item_timeout: {problem}",
                reason="BAD_ITEM_TIMEOUT",
                metadata={"item_timeout": f"{seconds:g}", "limit": f"{most:g}"},
                violations=[("item_timeout", problem)],
            )
        return seconds

    def items(
        self, messages: Sequence[pb.GradeItem], graders: Sequence[Grader | None], timeout_s: float | None
    ) -> Batch:
        """Items, each with the grader that it names; the first of `graders` is for those that name none."""
        if len(messages) > self._settings.max_batch:
            problem = f"{len(messages)} items are more than {self._settings.max_batch}"
            raise InvalidArgument(f"items: {problem}", reason="TOO_MANY_ITEMS", violations=[("items", problem)])
        items = [
            Item(grader=_named(graders, message, place), answer=message.answer, references=wire.references(message))
            for place, message in enumerate(messages)
        ]
        return Batch(
            items=items,
            ids=[message.id for message in messages],
            timeout_s=timeout_s or self._settings.item_timeout_s,
        )


def _named(graders: Sequence[Grader | None], message: pb.GradeItem, place: int) -> Grader:
    number = message.other_grader
    grader = graders[number] if 0 <= number < len(graders) else None
    if grader is None:
        problem = "is not in other_graders" if number else "is absent, and so is the request's grader"
        raise wire.bad_grader(f"items[{place}].other_grader", problem)
    return grader
