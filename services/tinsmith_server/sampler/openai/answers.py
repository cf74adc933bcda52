"""The server's answers as ours. With `asks.py` the only file that knows both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nlargest

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.openai.failures import bad_answer, unsupported
from tinsmith_server.sampler.openai.messages import Completion, CompletionChoice, TokenLogprobs
from tinsmith_server.sampler.openai.served_model import ServedModel
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import SamplingParams, StopReason, TopLogprobs
from tinsmith_server.serving.errors import FailedPrecondition

_ID = "token_id:"
_IMPOSSIBLE = -9999.0
"""vLLM's way to write minus infinity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Top:
    """The k likeliest tokens at each position, likeliest first; what is missing is token 0 at -infinity."""

    ids: NDArray[np.int32]
    """[positions, k]."""
    logprobs: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One answer, or what has come to it since the last event of a stream."""

    tokens: list[int]
    logprobs: list[float]
    reason: StopReason
    top: Top | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptScores:
    """What a server says of a prompt's own tokens."""

    logprobs: NDArray[np.float32]
    """[tokens], the first NaN."""
    top: Top | None


def piece_of(choice: CompletionChoice, params: SamplingParams, model: ServedModel, *, top: int, skip: int = 0) -> Piece:
    """Reads an answer; the first `skip` logprobs are those of an echoed prompt.

    Internal with reason BACKEND_BAD_ANSWER when it makes no sense, FailedPrecondition with reason BACKEND_UNSUPPORTED
    when the server does not tell token ids.
    """
    if choice.token_ids is None and choice.logprobs is None:
        raise _text_only()
    scores = choice.logprobs or TokenLogprobs()
    told = scores.tokens[skip:]
    tokens = choice.token_ids if choice.token_ids is not None else [_token_id(token) for token in told]
    logprobs = [_logprob(value) for value in scores.token_logprobs[skip:]]
    if len(logprobs) != len(tokens):
        raise bad_answer(f"{len(tokens)} tokens with {len(logprobs)} logprobs")
    if not all(0 <= token < model.vocabulary for token in tokens):
        raise bad_answer("a token is outside of the vocabulary")
    likeliest = None
    if top:
        likeliest = _top([_ids(place) for place in (scores.top_logprobs or [])[skip:]], len(tokens), top)
    return Piece(tokens=tokens, logprobs=logprobs, reason=_reason(choice, tokens, params, model), top=likeliest)


def prompt_scores_of(choice: CompletionChoice, prompt: Sequence[int], *, top: int) -> PromptScores:
    """Reads what the server says of a prompt, by vLLM's field or echoed. Errors as `piece_of`."""
    if choice.prompt_logprobs is not None:
        places = [
            None if place is None else {token: _logprob(said.logprob) for token, said in place.items()}
            for place in choice.prompt_logprobs
        ]
        own = [_own(place, token) for place, token in zip(places[1:], prompt[1:], strict=False)]
    else:
        scores = choice.logprobs or TokenLogprobs()
        if len(scores.token_logprobs) < len(prompt) or scores.token_logprobs[0] is not None:
            raise unsupported("prompt logprobs", "use another backend")
        own = [_logprob(value) for value in scores.token_logprobs[1 : len(prompt)]]
        places = [_ids(place) for place in (scores.top_logprobs or [])[: len(prompt)]] if top else []
    if len(own) != len(prompt) - 1:
        raise bad_answer(f"{len(prompt)} prompt tokens with {len(own) + 1} logprobs")
    likeliest = _top(places, len(prompt), top) if top else None
    return PromptScores(logprobs=np.array([math.nan, *own], np.float32), top=likeliest)


def choices_in_order(completion: Completion, answers: int) -> list[CompletionChoice]:
    """The answers 0, 1, …; BACKEND_BAD_ANSWER when one is missing or more than once there."""
    choices = sorted(completion.choices, key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(answers)):
        raise bad_answer(f"{len(choices)} answers where {answers} were asked for")
    return choices


def ragged_top(rows: Sequence[Top | None]) -> TopLogprobs | None:
    """The rows as one column; None where there are none."""
    found = [row for row in rows if row is not None]
    if not found:
        return None
    return TopLogprobs(
        token_ids=Ragged.of([row.ids for row in found], np.int32),
        logprobs=Ragged.of([row.logprobs for row in found], np.float32),
    )


def _reason(choice: CompletionChoice, tokens: Sequence[int], params: SamplingParams, model: ServedModel) -> StopReason:
    """Why an answer ended. Servers call the end of a sequence a stop like any other, and differ in what else they
    say."""
    found = choice.stop_reason if choice.stop_reason is not None else choice.matched_stop
    last = tokens[-1] if tokens else None
    match choice.finish_reason:
        case None:
            return StopReason.NONE
        case "length":
            return StopReason.LENGTH
        case "stop":
            if isinstance(found, str) or found in params.stop_token_ids or last in params.stop_token_ids:
                return StopReason.STOP
            if found is None and params.stop_strings and last is not None and last not in model.eos_ids:
                return StopReason.STOP
            return StopReason.EOS
        case other:
            raise bad_answer(f"an answer ended for the reason {other[:40]!r}")


def _logprob(value: float | None) -> float:
    if value is None or math.isnan(value):
        raise bad_answer("a token has no logprob")
    return value if value > _IMPOSSIBLE else -math.inf


def _token_id(token: str) -> int:
    number = token.removeprefix(_ID)
    if number == token or not number.isdecimal():
        raise _text_only()
    return int(number)


def _text_only() -> FailedPrecondition:
    return unsupported("token ids", "it tells text only; serve the model with vLLM, SGLang or the local backend")


def _ids(place: Mapping[str, float] | None) -> dict[int, float] | None:
    if place is None:
        return None
    return {_token_id(token): _logprob(value) for token, value in place.items()}


def _own(place: Mapping[int, float] | None, token: int) -> float:
    if place is None or token not in place:
        raise bad_answer("a prompt token has no logprob")
    return place[token]


def _top(places: Sequence[Mapping[int, float] | None], positions: int, k: int) -> Top:
    """Servers add the drawn token to the k likeliest: it is left out where it is none of them."""
    if len(places) != positions:
        raise bad_answer(f"likeliest tokens at {len(places)} of {positions} positions")
    ids, logprobs = np.zeros((positions, k), np.int32), np.full((positions, k), -np.inf, np.float32)
    for position, place in enumerate(places):
        best = nlargest(k, (place or {}).items(), key=lambda item: (item[1], -item[0]))
        if best:
            ids[position, : len(best)], logprobs[position, : len(best)] = zip(*best, strict=True)
    return Top(ids=ids, logprobs=logprobs)
