"""From decoding steps to whole answers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import SampleRequest, Step, StopReason, TopLogprobs, Usage


class AnswerSheet:
    """Collects the steps of a request."""

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._steps: list[Step] = []

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


def usage_of(request: SampleRequest, distinct_prompt_tokens: int, completion_tokens: int) -> Usage:
    """What a request cost."""
    prompt_tokens = len(request.prompts.values)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        cached_prompt_tokens=prompt_tokens - distinct_prompt_tokens,
    )
