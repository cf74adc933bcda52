"""A request that the engine decodes: its groups that have not started yet, and what has come so far."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.drawing.answers import AnswerSheet
from tinsmith_server.sampler.drawing.stops import StopMatcher
from tinsmith_server.sampler.engine.interruption import Interrupted
from tinsmith_server.sampler.engine.low_rank import LowRank
from tinsmith_server.sampler.local.plan import Distinct
from tinsmith_server.sampler.local.waiting_line import Ticket
from tinsmith_server.sampler.request import SampleRequest, Step

Emit = Callable[[Step], None]
"""Receives new tokens while the request is being decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Answers to one prompt that start together."""

    tokens: NDArray[np.int32]
    """What is read before the next token is drawn: the prompt and, after an interruption, the answer so far."""
    answers: NDArray[np.int64]
    interrupted: Interrupted | None = None
    """Of the only answer."""
    is_rest: bool = False
    """Whether other answers to the prompt have started before."""

    def split(self, rows: int) -> "tuple[Group, Group | None]":
        """The first `rows` answers, and the others if there are any."""
        if rows >= len(self.answers):
            return self, None
        return (
            Group(tokens=self.tokens, answers=self.answers[:rows], is_rest=self.is_rest),
            Group(tokens=self.tokens, answers=self.answers[rows:], is_rest=True),
        )


class DecodeJob(Ticket):
    """See the module's text. Its future gives the `AnswerSheet`."""

    def __init__(
        self,
        request: SampleRequest,
        prompts: Distinct,
        *,
        adapter: LowRank | None,
        version: str,
        stops: StopMatcher,
        context: int,
        emit: Emit | None = None,
    ) -> None:
        super().__init__()
        self.request, self.adapter, self.version, self.stops, self.emit = request, adapter, version, stops, emit
        self.pages_of = f"{version} {self.tenant.name}"
        """Whose pages in the prefix cache are found: what a hit tells of is the business of one tenant."""
        self._context = context
        self.groups = deque(_groups(request, prompts))
        self.sheet = AnswerSheet(len(request.prompts) * request.num_samples)
        self.unfinished = len(request.prompts) * request.num_samples
        self.number = -1
        """Given by the engine."""
        self.rows = 0
        """Answers that are being read or decoded."""
        self.cached_tokens = 0
        """Of its different prompts, those that the cache had."""
        self.told_at = -np.inf
        """When a stream was last told of new tokens, in seconds of the monotonic clock."""

    def limit(self, prompt: int) -> int:
        """Most tokens of an answer to a prompt of so many tokens."""
        return min(self.request.params.max_tokens, self._context - prompt)

    def note_cached(self, group: Group, tokens: int) -> None:
        """Takes note that the cache had so many tokens of a group's prompt."""
        if group.interrupted is None and not group.is_rest:
            self.cached_tokens += tokens

    def add(self, step: Step, finished: int) -> None:
        """Takes note of new tokens, with which `finished` answers ended."""
        self.sheet.add(step)
        self.unfinished -= finished
        if self.emit is not None:
            self.emit(step)


def _groups(request: SampleRequest, prompts: Distinct) -> list[Group]:
    members = np.arange(request.num_samples)
    order = np.argsort(prompts.index, kind="stable")
    places = np.split(order, np.cumsum(np.bincount(prompts.index))[:-1])
    return [
        Group(tokens=prompt, answers=(where[:, None] * request.num_samples + members).reshape(-1))
        for prompt, where in zip(prompts.rows, places, strict=True)
    ]
