"""The decoding loop of a request that is decoded alone: one batch from its prompts to its last token."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.drawing.choice import Choice, RowParams, choose, likeliest
from tinsmith_server.sampler.drawing.logit_shift import LogitShift
from tinsmith_server.sampler.drawing.philox import uniforms
from tinsmith_server.sampler.drawing.stops import StopMatcher
from tinsmith_server.sampler.engine.diverged import diverged
from tinsmith_server.sampler.local.hugging_face import HuggingFaceModel, Overrides
from tinsmith_server.sampler.local.plan import DecodePlan
from tinsmith_server.sampler.request import SampleRequest, Step, StopReason

_COMPACT_AT = 1 / 16
"""Finished rows leave the batch when they are this part of it: moving the cache is not free."""
_NOISE_TOKENS = 8


def decode(weights: Overrides, request: SampleRequest, plan: DecodePlan, stops: StopMatcher) -> Iterator[Step | None]:
    """Decodes one batch; yields None between pieces of the prefill and a Step after each token.

    Raises FailedPrecondition with reason WEIGHTS_NOT_FINITE when the model answers NaN.
    """
    model = weights.model
    batch = weights.decoding(plan.prompts)
    yield from batch.prefill()
    prompt_of_row_B = torch.from_numpy(plan.prompt_of_row_B).to(model.device)
    logits_BV = batch.last_logits()[prompt_of_row_B]
    batch.expand(prompt_of_row_B)
    rows_B = np.arange(len(plan.answers_B))
    done_B = np.zeros(len(rows_B), bool)
    limits = _token_limits(model, request, plan)
    noise = Noise(request, plan)
    params, shift = _drawing(model, request, np.zeros((len(rows_B), 0), np.int32))
    past: list[NDArray[np.int64]] = []
    for step in count():
        raw_BV = None if shift.nothing else logits_BV
        shifted_BV = logits_BV if raw_BV is None else shift.applied_to(logits_BV)
        choice = choose(shifted_BV, params, noise.at(step, rows_B).to(model.device), raw_BV=raw_BV)
        tokens_B = choice.tokens.cpu().numpy()
        reasons_B = stops.reasons(rows_B, tokens_B)
        reasons_B[(reasons_B == StopReason.NONE) & (limits[rows_B] <= step + 1)] = StopReason.LENGTH
        yield _step(choice, request.top_logprobs, reasons_B, plan.answers_B[rows_B], ~done_B)
        done_B |= reasons_B != StopReason.NONE
        if done_B.all():
            return
        shift.count(choice.tokens)
        past.append(tokens_B)
        if done_B.mean() >= _COMPACT_AT:
            kept = np.flatnonzero(~done_B)
            batch.keep(torch.from_numpy(kept).to(model.device))
            past = [tokens[kept] for tokens in past]
            rows_B, done_B = rows_B[kept], done_B[kept]
            params, shift = _drawing(model, request, np.stack(past, axis=1).astype(np.int32))
        logits_BV = batch.step(torch.from_numpy(past[-1]).to(model.device))


def _drawing(
    model: HuggingFaceModel, request: SampleRequest, past_BT: NDArray[np.int32]
) -> tuple[RowParams, LogitShift]:
    """How rows with these tokens behind them are drawn."""
    same = np.zeros(len(past_BT), np.int64)
    return (
        RowParams.of([request.params], same, model.device),
        LogitShift([request.params], same, list(past_BT), model.vocabulary, model.device),
    )


class Noise:
    """The uniform numbers of a batch, drawn for a few tokens at a time."""

    def __init__(self, request: SampleRequest, plan: DecodePlan) -> None:
        self._greedy = request.params.temperature == 0
        self._members_B = plan.answers_B % request.num_samples
        self._seeds_B = request.seeds[plan.answers_B // request.num_samples]
        self._block = np.zeros((len(self._seeds_B), 0))

    def at(self, token: int, rows_B: NDArray[np.int64]) -> Tensor:
        """float64 [rows] in [0, 1) for this token of these rows."""
        if self._greedy:
            return torch.zeros(len(rows_B), dtype=torch.float64)
        place = token % _NOISE_TOKENS
        if place == 0:
            self._block = np.zeros((len(self._seeds_B), _NOISE_TOKENS))
            self._block[rows_B] = uniforms(self._seeds_B[rows_B], self._members_B[rows_B], token, _NOISE_TOKENS)
        return torch.from_numpy(self._block[rows_B, place])


def _token_limits(model: HuggingFaceModel, request: SampleRequest, plan: DecodePlan) -> NDArray[np.int64]:
    """Most tokens of each row: the request's limit or the room that its prompt leaves in the context."""
    room_P = model.context - np.array([len(prompt) for prompt in plan.prompts])
    limits_P: NDArray[np.int64] = np.minimum(room_P, request.params.max_tokens)
    return limits_P[plan.prompt_of_row_B]


def _step(
    choice: Choice, top: int, reasons_B: NDArray[np.int8], answers_B: NDArray[np.int64], fresh_B: NDArray[np.bool_]
) -> Step:
    logprobs_B = choice.logprobs.cpu().numpy()[fresh_B]
    if not np.isfinite(logprobs_B).all():
        raise diverged()
    ids, best = likeliest(choice.probs_BV, top) if top else (None, None)
    return Step(
        rows=answers_B[fresh_B],
        tokens=choice.tokens.cpu().numpy()[fresh_B].astype(np.int32),
        logprobs=logprobs_B,
        stop_reasons=reasons_B[fresh_B],
        top_ids=None if ids is None else ids.cpu().numpy()[fresh_B].astype(np.int32),
        top_logprobs=None if best is None else best.cpu().numpy()[fresh_B],
    )
