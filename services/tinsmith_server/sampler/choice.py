"""From logits to a token: the distribution that a request asks for, one draw from it, and its logprob.

A draw inverts the cumulative distribution at one uniform number, so that it costs one random number a token and depends
on (seed, answer, token index) and the logits only. The sum runs in two levels, blocks first and then within the chosen
block, in double precision: exact enough for any vocabulary and cheaper than one long running sum.

The logprob returned is that of the *sampled* distribution: after penalties, bias, temperature, top-k, top-p and min-p,
renormalised. At temperature 1 without filters that is the model's own logprob, which importance sampling needs. At
temperature 0 the sampled distribution is a point, so the model's own logprob is returned instead.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.sampler.request import SamplingParams

_COLDEST = float(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One token for each row."""

    tokens: Tensor
    """int64 [B]."""
    logprobs: Tensor
    """float32 [B]."""
    top_ids: Tensor | None
    """int64 [B, k]."""
    top_logprobs: Tensor | None
    """float32 [B, k], -infinity for tokens that could not be drawn."""


def choose(logits_BV: Tensor, params: SamplingParams, uniforms_B: Tensor, *, shift: Tensor | None, top: int) -> Choice:
    """Draws one token a row. `logits_BV` float32 may be overwritten; `uniforms_B` is float64 in [0, 1).

    `shift` (penalties and bias, broadcastable to [B, V]) is added to the logits first.
    """
    shifted_BV = logits_BV if shift is None else logits_BV + shift
    if params.temperature == 0:
        tokens_B = shifted_BV.argmax(-1)
        probs_BV = logits_BV.softmax(-1)
    else:
        probs_BV = distribution(shifted_BV, params)
        tokens_B = draw(probs_BV, uniforms_B)
    chosen_B = probs_BV.gather(1, tokens_B[:, None])[:, 0].log()
    ids_BK, likeliest_BK = _likeliest(probs_BV, top) if top else (None, None)
    return Choice(tokens=tokens_B, logprobs=chosen_B, top_ids=ids_BK, top_logprobs=likeliest_BK)


def _likeliest(probs_BV: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Token ids and logprobs, [B, top]; what the vocabulary lacks is token 0 at -infinity."""
    lacking = max(0, top - probs_BV.shape[-1])
    best = probs_BV.topk(top - lacking, dim=-1)
    return F.pad(best.indices, (0, lacking)), F.pad(best.values.log(), (0, lacking), value=float("-inf"))


def distribution(logits_BV: Tensor, params: SamplingParams) -> Tensor:
    """Probabilities, float32 [B, V], that `params` samples from; rows sum to 1, filtered tokens are exactly 0."""
    if params.temperature != 1:
        # Shifted to 0 first: a tiny temperature would otherwise send large logits to infinity. One below float32's
        # range would be 0 in it.
        logits_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)) / max(params.temperature, _COLDEST)
    probs_BV = logits_BV.softmax(-1)
    if params.top_p >= 1 and not params.top_k and params.min_p <= 0:
        return probs_BV
    return _truncated(probs_BV, params)


def _truncated(probs_BV: Tensor, params: SamplingParams) -> Tensor:
    """Keeps the tokens that pass top-k, then top-p on what is left, then min-p; renormalises.

    Equal probabilities are ordered by token id, so that the kept set never depends on the sort's whims.
    """
    kept_BK, ids_BK = probs_BV.sort(dim=-1, descending=True, stable=True)
    if params.top_k:
        kept_BK, ids_BK = kept_BK[:, : params.top_k], ids_BK[:, : params.top_k]
    if params.top_p < 1:
        mass_BK = kept_BK.cumsum(-1, dtype=torch.float64)
        before_BK = mass_BK - kept_BK
        kept_BK = kept_BK.masked_fill(before_BK >= params.top_p * mass_BK[:, -1:], 0.0)
    if params.min_p > 0:
        kept_BK = kept_BK.masked_fill(kept_BK < params.min_p * kept_BK[:, :1], 0.0)
    kept_BK = kept_BK / kept_BK.sum(-1, keepdim=True)
    return torch.zeros_like(probs_BV).scatter_(1, ids_BK, kept_BK)


def draw(probs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The token at which the running sum of each row's probabilities passes its uniform number, int64 [B].

    A token of probability 0 is never drawn: the running sum does not rise at it.
    """
    rows, vocabulary = probs_BV.shape
    width = _block_width(vocabulary)
    padded = F.pad(probs_BV, (0, -vocabulary % width)) if vocabulary % width else probs_BV
    blocks_BNW = padded.view(rows, -1, width)
    ends_BN = blocks_BNW.sum(-1, dtype=torch.float32).cumsum(-1, dtype=torch.float64)
    target_B1 = uniforms_B[:, None] * ends_BN[:, -1:]
    # The clamps matter only for NaN, whose logprob the caller refuses.
    block_B1 = torch.searchsorted(ends_BN, target_B1, right=True).clamp(max=ends_BN.shape[1] - 1)
    starts_BN = F.pad(ends_BN, (1, 0))
    inner_BW = blocks_BNW[torch.arange(rows, device=probs_BV.device), block_B1[:, 0]].cumsum(-1, dtype=torch.float64)
    # Rounding of the two sums may differ by an ulp: keep the target inside the chosen block.
    last_B1 = torch.nextafter(inner_BW[:, -1:], torch.zeros_like(target_B1))
    rest_B1 = (target_B1 - starts_BN.gather(1, block_B1)).clamp(min=0.0).minimum(last_B1)
    return (block_B1 * width + torch.searchsorted(inner_BW, rest_B1, right=True))[:, 0].clamp(max=vocabulary - 1)


def _block_width(vocabulary: int) -> int:
    """A power of two near the square root of the vocabulary, at least 16."""
    return 1 << max(4, (vocabulary.bit_length() + 1) // 2)
