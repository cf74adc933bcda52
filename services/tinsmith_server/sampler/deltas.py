"""Decoding steps as pieces of answers for a stream: a few tokens a piece, text in whole characters."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from tinsmith_server.sampler.backend import Delta
from tinsmith_server.sampler.detokenizer import Detokenizer
from tinsmith_server.sampler.request import Step, StopReason
from tinsmith_server.sampler.text import Text

T = TypeVar("T")


class DeltaBuilder:
    """Turns steps into deltas, and remembers the text of each answer."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._answers: dict[int, Detokenizer] = {}

    def build(self, steps: Sequence[Step]) -> list[Delta]:
        """One delta for each answer that these steps touch."""
        pieces: dict[int, tuple[list[int], list[float], int]] = {}
        for step in steps:
            columns = (step.rows.tolist(), step.tokens.tolist(), step.logprobs.tolist(), step.stop_reasons.tolist())
            for row, token, logprob, reason in zip(*columns, strict=True):
                tokens, logprobs, _ = pieces.get(row, ([], [], StopReason.NONE))
                tokens.append(token)
                logprobs.append(logprob)
                pieces[row] = (tokens, logprobs, reason)
        return [self._delta(row, *piece) for row, piece in pieces.items()]

    def _delta(self, row: int, tokens: list[int], logprobs: list[float], reason: int) -> Delta:
        answer = self._answers.setdefault(row, Detokenizer(self._text))
        text = answer.push(tokens, last=reason != StopReason.NONE)
        return Delta(row=row, tokens=tokens, logprobs=logprobs, text=text, stop_reason=reason)


async def batched(queue: "asyncio.Queue[T | None]", interval_s: float) -> AsyncIterator[list[T]]:
    """What the queue holds, at once the first time and then at most every `interval_s`; ends at None.

    A message costs about 0.1 ms whatever it holds, so tokens travel together.
    """
    clock = asyncio.get_running_loop().time
    ready = clock()
    while True:
        items = [await queue.get()]
        await asyncio.sleep(max(0.0, ready - clock()))
        while not queue.empty():
            items.append(queue.get_nowait())
        found = [item for item in items if item is not None]
        if found:
            yield found
        if len(found) < len(items):
            return
        ready = clock() + interval_s
