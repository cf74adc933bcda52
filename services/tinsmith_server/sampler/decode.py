"""The decoding loop: one batch from its prompts to its last token."""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.causal import AdaptedWeights, CausalModel
from tinsmith_server.sampler.choice import Choice, choose
from tinsmith_server.sampler.logit_shift import LogitShift
from tinsmith_server.sampler.philox import uniforms
from tinsmith_server.sampler.plan import DecodePlan
from tinsmith_server.sampler.request import SampleRequest, Step, StopReason
from tinsmith_server.sampler.stops import StopMatcher
from tinsmith_server.serving.errors import FailedPrecondition

_COMPACT_AT = 1 / 16
"""Finished rows leave the batch when they are this part of it: moving the cache is not free."""
_NOISE_TOKENS = 8


def decode(
    model: CausalModel, weights: AdaptedWeights, request: SampleRequest, plan: DecodePlan, stops: StopMatcher
) -> Iterator[Step | None]:
    """Decodes one batch; yields None between pieces of the prefill and a Step after each token.

    Raises FailedPrecondition with reason WEIGHTS_NOT_FINITE when the model answers NaN.
    """
    batch = weights.batch(plan.prompts, keep_positions=False)
    yield from batch.prefill()
    prompt_of_row_B = torch.from_numpy(plan.prompt_of_row_B).to(model.device)
    logits_BV = batch.last_logits()[prompt_of_row_B]
    batch.expand(prompt_of_row_B)
    rows_B = np.arange(len(plan.answers_B))
    done_B = np.zeros(len(rows_B), bool)
    limits = _token_limits(model, request, plan)
    noise = Noise(request, plan)
    shift = LogitShift(request.params, model.vocabulary, len(rows_B), model.device)
    for step in count():
        uniforms_B = noise.at(step, rows_B).to(model.device)
        choice = choose(logits_BV, request.params, uniforms_B, shift=shift.tensor, top=request.top_logprobs)
        tokens_B = choice.tokens
        reasons_B = stops.reasons(rows_B, tokens_B.cpu().numpy())
        reasons_B[(reasons_B == StopReason.NONE) & (limits[rows_B] <= step + 1)] = StopReason.LENGTH
        yield _step(choice, reasons_B, plan.answers_B[rows_B], ~done_B)
        done_B |= reasons_B != StopReason.NONE
        if done_B.all():
            return
        shift.count(tokens_B)
        if done_B.mean() >= _COMPACT_AT:
            kept = np.flatnonzero(~done_B)
            kept_B = torch.from_numpy(kept).to(model.device)
            batch.keep(kept_B)
            shift.keep(kept_B)
            rows_B, done_B, tokens_B = rows_B[kept], done_B[kept], tokens_B[kept_B]
        logits_BV = batch.step(tokens_B)


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


def _token_limits(model: CausalModel, request: SampleRequest, plan: DecodePlan) -> NDArray[np.int64]:
    """Most tokens of each row: the request's limit or the room that its prompt leaves in the context."""
    room_P = model.context - np.array([len(prompt) for prompt in plan.prompts])
    limits_P: NDArray[np.int64] = np.minimum(room_P, request.params.max_tokens)
    return limits_P[plan.prompt_of_row_B]


def _step(
    choice: Choice, reasons_B: NDArray[np.int8], answers_B: NDArray[np.int64], fresh_B: NDArray[np.bool_]
) -> Step:
    logprobs_B = choice.logprobs.cpu().numpy()[fresh_B]
    if not np.isfinite(logprobs_B).all():
        raise FailedPrecondition(
            "the model's logits are not finite; the checkpoint's weights have diverged, sample an earlier one",
            reason="WEIGHTS_NOT_FINITE",
        )
    return Step(
        rows=answers_B[fresh_B],
        tokens=choice.tokens.cpu().numpy()[fresh_B].astype(np.int32),
        logprobs=logprobs_B,
        stop_reasons=reasons_B[fresh_B],
        top_ids=None if choice.top_ids is None else choice.top_ids.cpu().numpy()[fresh_B].astype(np.int32),
        top_logprobs=None if choice.top_logprobs is None else choice.top_logprobs.cpu().numpy()[fresh_B],
    )
