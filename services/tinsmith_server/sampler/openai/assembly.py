"""Pieces of the server's answers as the whole that a caller gets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinsmith_server.sampler.backend import Delta
from tinsmith_server.sampler.detokenizer import Detokenizer
from tinsmith_server.sampler.openai.answers import (
    Piece,
    PromptScores,
    choices_in_order,
    piece_of,
    prompt_scores_of,
    ragged_top,
)
from tinsmith_server.sampler.openai.asks import Ask
from tinsmith_server.sampler.openai.failures import bad_answer
from tinsmith_server.sampler.openai.messages import Completion, parse
from tinsmith_server.sampler.openai.served_model import ServedModel
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import Answers, LogprobsRequest, SampleRequest, Scores, StopReason, Usage
from tinsmith_server.sampler.text import Text


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What one HTTP request brought."""

    pieces: Sequence[Piece]
    """Whole answers."""
    prompt: PromptScores | None
    cached_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrived:
    """What came to one answer of a stream."""

    row: int
    piece: Piece
    text: Text


def read_answer(content: bytes, request: SampleRequest, ask: Ask, model: ServedModel) -> Answered:
    """Parses an answer of /completions. Errors as `piece_of`."""
    completion = parse(Completion, content)
    choices = choices_in_order(completion, ask.answers)
    prompt = request.prompts[ask.prompt].tolist()
    scores, echoed = None, 0
    if ask.first == 0 and (request.prompt_logprobs or request.top_prompt_logprobs):
        scores = prompt_scores_of(choices[0], prompt, top=request.top_prompt_logprobs)
        echoed = len(prompt) if choices[0].prompt_logprobs is None else 0
    pieces = [piece_of(choice, request.params, model, top=request.top_logprobs, skip=echoed) for choice in choices]
    if any(piece.reason == StopReason.NONE for piece in pieces):
        raise bad_answer("an answer has no end")
    return Answered(pieces=pieces, prompt=scores, cached_tokens=completion.cached_tokens if ask.first == 0 else 0)


def answers_of(request: SampleRequest, answered: Sequence[Answered], text: Text) -> Answers:
    """All answers of a request, from those of its asks in order."""
    pieces = [piece for item in answered for piece in item.pieces]
    prompts = [item.prompt for item in answered if item.prompt is not None]
    texts = tuple(text.decode(piece.tokens, skip_special_tokens=True) for piece in pieces)
    return Answers(
        tokens=Ragged.of([np.array(piece.tokens, np.int32) for piece in pieces], np.int32),
        logprobs=Ragged.of([np.array(piece.logprobs, np.float32) for piece in pieces], np.float32),
        stop_reasons=np.array([piece.reason for piece in pieces], np.int8),
        texts=texts if request.return_text else None,
        prompt_logprobs=Ragged.of([p.logprobs for p in prompts], np.float32) if request.prompt_logprobs else None,
        top_prompt_logprobs=ragged_top([scores.top for scores in prompts]),
        top_logprobs=ragged_top([piece.top for piece in pieces]),
        usage=usage_of(
            request, sum(len(piece.tokens) for piece in pieces), sum(item.cached_tokens for item in answered)
        ),
    )


def read_scores(content: bytes, prompt: Sequence[int], top: int) -> PromptScores:
    """Parses an answer to `score_body`. Errors as `prompt_scores_of`."""
    return prompt_scores_of(choices_in_order(parse(Completion, content), 1)[0], prompt, top=top)


def scores_of(request: LogprobsRequest, rows: Sequence[PromptScores]) -> Scores:
    """Scores of all sequences."""
    return Scores(
        logprobs=Ragged.of([row.logprobs for row in rows], np.float32),
        top_logprobs=ragged_top([row.top for row in rows]) if request.top_logprobs else None,
    )


def usage_of(request: SampleRequest, completion_tokens: int, cached_tokens: int) -> Usage:
    """Tokens counted."""
    return Usage(
        prompt_tokens=len(request.prompts.values),
        completion_tokens=completion_tokens,
        cached_prompt_tokens=cached_tokens,
    )


class DeltaWriter:
    """Turns what arrived into deltas, and remembers the text of each answer."""

    def __init__(self) -> None:
        self._answers: dict[int, Detokenizer] = {}

    def write(self, arrived: Sequence[Arrived]) -> list[Delta]:
        """One delta for each answer that something came to."""
        by_row: dict[int, list[Arrived]] = {}
        for item in arrived:
            by_row.setdefault(item.row, []).append(item)
        return [self._delta(row, items) for row, items in by_row.items()]

    def _delta(self, row: int, items: Sequence[Arrived]) -> Delta:
        tokens = [token for item in items for token in item.piece.tokens]
        logprobs = [logprob for item in items for logprob in item.piece.logprobs]
        reason = items[-1].piece.reason
        answer = self._answers.setdefault(row, Detokenizer(items[0].text))
        text = answer.push(tokens, last=reason != StopReason.NONE)
        return Delta(row=row, tokens=tokens, logprobs=logprobs, text=text, stop_reason=reason)
