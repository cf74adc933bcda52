"""From decoding steps to whole answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.local.plan import Distinct
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import Answers, SampleRequest, Scores, Step, StopReason, TopLogprobs, Usage
from tinsmith_server.sampler.text import Text


class AnswerSheet:
    """Collects the steps of a request."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._steps: list[Step] = []

    @property
    def token_count(self) -> int:
        """Tokens of all answers."""
        return sum(len(step.tokens) for step in self._steps)

    def add(self, step: Step) -> None:
        """Takes note of one step; steps of one answer come in order."""
        self._steps.append(step)

    def tokens(self) -> Ragged:
        """int32."""
        return self._ragged([step.tokens for step in self._steps])

    def logprobs(self) -> Ragged:
        """float32."""
        return self._ragged([step.logprobs for step in self._steps])

    def stop_reasons(self) -> NDArray[np.int8]:
        """int8 [answers]."""
        reasons = np.zeros(self._answers, np.int8)
        for step in self._steps:
            ended = step.stop_reasons != StopReason.NONE
            reasons[step.rows[ended]] = step.stop_reasons[ended]
        return reasons

    def top_logprobs(self) -> TopLogprobs | None:
        """None where no step has any."""
        ids = [step.top_ids for step in self._steps if step.top_ids is not None]
        logprobs = [step.top_logprobs for step in self._steps if step.top_logprobs is not None]
        if not ids:
            return None
        return TopLogprobs(token_ids=self._ragged(ids), logprobs=self._ragged(logprobs))

    def _ragged(self, columns: Sequence[NDArray[np.generic]]) -> Ragged:
        """Sorting by answer keeps each answer's tokens in the order of the steps, because the sort is stable."""
        rows = np.concatenate([step.rows for step in self._steps])
        offsets = np.zeros(self._answers + 1, np.int64)
        np.cumsum(np.bincount(rows, minlength=self._answers), out=offsets[1:])
        return Ragged(values=np.concatenate(columns)[np.argsort(rows, kind="stable")], offsets=offsets)


def assemble(
    request: SampleRequest, sheet: AnswerSheet, prompts: Distinct, scores: Scores | None, text: Text, usage: Usage
) -> Answers:
    """The answers to a request; `scores` are those of its different prompts, where it asked for any."""
    tokens = sheet.tokens()
    texts = None
    if request.return_text:
        texts = tuple(text.decode(row.tolist(), skip_special_tokens=True) for row in tokens)
    top = None if scores is None else scores.top_logprobs
    return Answers(
        tokens=tokens,
        logprobs=sheet.logprobs(),
        stop_reasons=sheet.stop_reasons(),
        texts=texts,
        prompt_logprobs=_of_request(scores.logprobs, prompts) if scores and request.prompt_logprobs else None,
        top_prompt_logprobs=None
        if top is None
        else TopLogprobs(token_ids=_of_request(top.token_ids, prompts), logprobs=_of_request(top.logprobs, prompts)),
        top_logprobs=sheet.top_logprobs(),
        usage=usage,
    )


def usage_of(request: SampleRequest, prompts: Distinct, completion_tokens: int, cached_tokens: int) -> Usage:
    """What a request cost; `cached_tokens` of its different prompts came from the cache."""
    prompt_tokens = len(request.prompts.values)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_prompt_tokens=prompt_tokens - sum(map(len, prompts.rows)) + cached_tokens,
    )


def _of_request(column: Ragged, prompts: Distinct) -> Ragged:
    """Rows of the different prompts as rows of the request."""
    return Ragged.of([column[item] for item in prompts.index], column.values.dtype)
