"""Answers of the service as ours. With `parameters.py` the only file of the backend that knows both."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import tinker
from numpy.typing import NDArray
from tinker.types.topk_logprobs import MASK_LOGPROB, TopkLogprobs

from tinsmith_server.sampler.backend import Delta
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import (
    Answers,
    LogprobsRequest,
    SampleRequest,
    SamplingParams,
    Scores,
    StopReason,
    TopLogprobs,
    Usage,
)
from tinsmith_server.sampler.tinker.tokenizer import Tokenizer
from tinsmith_server.serving.errors import Internal

S = TypeVar("S")
T = TypeVar("T")
Top = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Token ids and logprobs, both [positions, k]."""


def answers_of(
    request: SampleRequest, responses: Sequence[tinker.SampleResponse], tokenizer: Tokenizer | None
) -> Answers:
    """All answers of a request; one response a prompt. Internal with reason BACKEND_BAD_ANSWER when something that was
    asked for is missing."""
    sequences = [sequence for response in responses for sequence in response.sequences]
    tokens = [_present(sequence.tokens_np, "tokens") for sequence in sequences]
    prompts = [len(prompt) for prompt in request.prompts]
    top, top_prompt = None, None
    if (k := request.top_logprobs) > 0:
        top = [_top(sequence.topk_logprobs_np, len(row), k) for sequence, row in _pairs(sequences, tokens)]
    if (k := request.top_prompt_logprobs) > 0:
        top_prompt = [_top(answer.topk_prompt_logprobs_np, length, k) for answer, length in _pairs(responses, prompts)]
    return Answers(
        tokens=Ragged.of(tokens, np.int32),
        logprobs=Ragged.of([logprobs_of(sequence) for sequence in sequences], np.float32),
        stop_reasons=np.array([stop_reason(sequence, request.params, tokenizer) for sequence in sequences], np.int8),
        texts=tuple(_text(row, tokenizer) for row in tokens) if request.return_text else None,
        prompt_logprobs=_prompt_logprobs(responses, prompts) if request.prompt_logprobs else None,
        top_prompt_logprobs=_tops(top_prompt),
        top_logprobs=_tops(top),
        usage=usage_of(request, responses),
    )


def deltas_of(
    request: SampleRequest, prompt: int, response: tinker.SampleResponse, tokenizer: Tokenizer
) -> list[Delta]:
    """The answers to one prompt as pieces of a stream, each whole."""
    return [
        Delta(
            row=prompt * request.num_samples + number,
            tokens=sequence.tokens,
            logprobs=logprobs_of(sequence).tolist(),
            text=tokenizer.decode(sequence.tokens),
            stop_reason=stop_reason(sequence, request.params, tokenizer),
        )
        for number, sequence in enumerate(response.sequences)
    ]


def scores_of(request: LogprobsRequest, responses: Sequence[tinker.SampleResponse]) -> Scores:
    """Scores of given sequences, one response a sequence. Errors as `answers_of`."""
    lengths = [len(sequence) for sequence in request.sequences]
    top = None
    if request.top_logprobs:
        # With targets, position t is judged after tokens 0..t, which is where the service judges token t + 1.
        skip = 0 if request.targets is None else 1
        found = [
            _top(response.topk_prompt_logprobs_np, length + skip, request.top_logprobs)
            for response, length in _pairs(responses, lengths)
        ]
        top = [(ids[skip:], logprobs[skip:]) for ids, logprobs in found]
    if request.targets is None:
        return Scores(logprobs=_prompt_logprobs(responses, lengths), top_logprobs=_tops(top))
    inner = request.targets.values.shape[1:]
    rows = []
    for response, length in _pairs(responses, lengths):
        scored = _present(response.target_prompt_logprobs, "target logprobs").to_numpy()
        if scored.shape != (length, *inner):
            raise _bad_answer("target logprobs of another shape")
        rows.append(scored)
    return Scores(logprobs=Ragged.of(rows, np.float32), top_logprobs=_tops(top))


def usage_of(request: SampleRequest, responses: Sequence[tinker.SampleResponse]) -> Usage:
    """Tokens counted."""
    return Usage(
        prompt_tokens=len(request.prompts.values),
        completion_tokens=sum(len(sequence.tokens) for response in responses for sequence in response.sequences),
        cached_prompt_tokens=sum(response.prompt_cache_hit_tokens for response in responses),
    )


def logprobs_of(sequence: tinker.SampledSequence) -> NDArray[np.float32]:
    """Logprobs of the sampled tokens, float32 [tokens]."""
    logprobs = _present(sequence.logprobs_np, "logprobs") if sequence.tokens else np.zeros(0, np.float32)
    if len(logprobs) != len(sequence.tokens):
        raise _bad_answer("another number of logprobs than of tokens")
    return logprobs


def stop_reason(sequence: tinker.SampledSequence, params: SamplingParams, tokenizer: Tokenizer | None) -> StopReason:
    """Why an answer ended. The service calls the end-of-sequence token a stop like any other."""
    if sequence.stop_reason == "length":
        return StopReason.LENGTH
    if not params.stop_strings and not params.stop_token_ids:
        return StopReason.EOS
    if params.ignore_eos or tokenizer is None or tokenizer.eos_id in params.stop_token_ids:
        return StopReason.STOP
    return StopReason.EOS if sequence.tokens[-1:] == [tokenizer.eos_id] else StopReason.STOP


def _prompt_logprobs(responses: Sequence[tinker.SampleResponse], lengths: Sequence[int]) -> Ragged:
    rows = [_present(response.prompt_logprobs_np, "prompt logprobs") for response in responses]
    if [len(row) for row in rows] != list(lengths):
        raise _bad_answer("another number of prompt logprobs than of tokens")
    return Ragged.of(rows, np.float32)


def _top(found: TopkLogprobs | None, length: int, k: int) -> Top:
    """The k likeliest tokens; what is missing is token 0 at -infinity."""
    ids, logprobs = np.zeros((length, k), np.int32), np.full((length, k), -np.inf, np.float32)
    if found is None and length:
        raise _bad_answer("no likeliest tokens")
    if found is not None:
        if len(found.token_ids) != length:
            raise _bad_answer("likeliest tokens at another number of positions")
        given = min(k, found.token_ids.shape[1])
        ids[:, :given], logprobs[:, :given] = found.token_ids[:, :given], found.logprobs[:, :given]
        logprobs[logprobs == MASK_LOGPROB] = -np.inf
    return ids, logprobs


def _tops(rows: Sequence[Top] | None) -> TopLogprobs | None:
    if rows is None:
        return None
    return TopLogprobs(
        token_ids=Ragged.of([ids for ids, _ in rows], np.int32),
        logprobs=Ragged.of([logprobs for _, logprobs in rows], np.float32),
    )


def _text(tokens: NDArray[np.int32], tokenizer: Tokenizer | None) -> str:
    assert tokenizer is not None, "text is asked for"
    return tokenizer.decode(tokens.tolist())


def _pairs(first: Sequence[S], second: Sequence[T]) -> list[tuple[S, T]]:
    return list(zip(first, second, strict=True))


def _present(value: T | None, what: str) -> T:
    if value is None:
        raise _bad_answer(f"no {what}")
    return value


def _bad_answer(what: str) -> Internal:
    return Internal(f"the Tinker service answered {what}", reason="BACKEND_BAD_ANSWER")
