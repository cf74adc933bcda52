"""The sampler's two jobs as generators: each `next` is a bounded piece of work, so jobs take turns and can be ended.

A request is decoded in batches of its own. Its result is therefore a function of the weights and the request: matrix
products round differently in batches of different sizes, and a neighbour must not change an answer.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from tinsmith_server.sampler.answers import AnswerSheet, usage_of
from tinsmith_server.sampler.causal import AdaptedWeights, CausalModel
from tinsmith_server.sampler.decode import decode
from tinsmith_server.sampler.plan import BatchLimits, Distinct, decode_plans, distinct
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import Answers, SampleRequest, Scores, Step, TopLogprobs
from tinsmith_server.sampler.scores import score
from tinsmith_server.sampler.stops import StopMatcher


class Text(Protocol):
    """Token ids to text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of the ids, with or without special tokens."""
        ...


Emit = Callable[[Step], None]
"""Receives each step while the request is being decoded."""


def sample(
    model: CausalModel, weights: AdaptedWeights, request: SampleRequest, limits: BatchLimits, text: Text, emit: Emit
) -> Generator[None, None, Answers]:
    """Answers `request`, which has been checked (`validation.py`)."""
    prompts = distinct(request.prompts)
    scores = None
    if request.prompt_logprobs or request.top_prompt_logprobs:
        rows = Ragged.of(prompts.rows, "int32")
        scores = yield from score(model, weights, rows, None, request.top_prompt_logprobs, limits)
    sheet = AnswerSheet(len(request.prompts) * request.num_samples)
    for plan in decode_plans(prompts, request.num_samples, limits):
        stops = StopMatcher(request.params, model.eos_ids, model.vocabulary, text.decode)
        for step in decode(model, weights, request, plan, stops):
            if step is not None:
                sheet.add(step)
                emit(step)
            yield
    return _answers(request, prompts, sheet, scores, text)


def logprobs(
    model: CausalModel,
    weights: AdaptedWeights,
    sequences: Ragged,
    targets: Ragged | None,
    top: int,
    limits: BatchLimits,
) -> Generator[None, None, Scores]:
    """Scores sequences, which have been checked."""
    return score(model, weights, sequences, targets, top, limits)


def _answers(
    request: SampleRequest, prompts: Distinct, sheet: AnswerSheet, scores: Scores | None, text: Text
) -> Answers:
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
        usage=usage_of(request, sum(len(row) for row in prompts.rows), len(tokens.values)),
    )


def _of_request(column: Ragged, prompts: Distinct) -> Ragged:
    """Rows of the different prompts as rows of the request."""
    return Ragged.of([column[item] for item in prompts.index], column.values.dtype)
