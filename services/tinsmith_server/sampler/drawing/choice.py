"""From logits to tokens: the distribution that each row's request asks for, one draw from it, and its logprob.

A draw inverts the cumulative distribution at one uniform number, so that it costs one random number a token and depends
on (seed, answer, token index) and the logits only. The sum runs in two levels, blocks first and then within the chosen
block, in double precision: exact enough for any vocabulary and cheaper than one long running sum.

The logprob returned is that of the *sampled* distribution: after penalties, bias, temperature, top-k, top-p and min-p,
renormalised. At temperature 1 without filters that is the model's own logprob, which importance sampling needs. At
temperature 0 the sampled distribution is a point, so the model's own logprob is returned instead.

Rows of different requests are drawn together. Whatever a row does not ask for is not done to it, so its bits are its
own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.sampler.request import SamplingParams

_COLDEST = float(torch.finfo(torch.float32).tiny)
"""A temperature below float32's range would be 0 in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowParams:
    """How the rows of a batch are drawn; each part names the rows it is for, None being no row at all."""

    greedy_rows: Tensor | None
    """int64 [N]."""
    heated_rows: Tensor | None
    """Rows whose temperature is neither 0 nor 1."""
    temperature_N1: Tensor
    """float32, of the heated rows."""
    cut_rows: Tensor | None
    """Rows that keep the likeliest tokens only."""
    top_k_N1: Tensor
    """int64, of the cut rows; here and below what keeps every token stands for a filter that is off."""
    top_p_N1: Tensor
    """float64."""
    min_p_N1: Tensor
    """float32."""

    @classmethod
    def of(
        cls, params: Sequence[SamplingParams], params_of_row_B: NDArray[np.int64], device: torch.device
    ) -> "RowParams":
        """Row b draws by `params[params_of_row_B[b]]`."""

        def column(values: list[float], rows: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
            return torch.from_numpy(np.array(values)[params_of_row_B[rows]]).to(device, dtype)[:, None]

        def rows_where(wanted: list[bool]) -> NDArray[np.int64]:
            return np.flatnonzero(np.array(wanted, bool)[params_of_row_B])

        def on_device(rows: NDArray[np.int64]) -> Tensor | None:
            return torch.from_numpy(rows).to(device) if len(rows) else None

        greedy = rows_where([each.temperature == 0 for each in params])
        heated = rows_where([each.temperature not in (0, 1) for each in params])
        cut = rows_where([each.temperature != 0 and _cuts(each) for each in params])
        return cls(
            greedy_rows=on_device(greedy),
            heated_rows=on_device(heated),
            temperature_N1=column([max(each.temperature, _COLDEST) for each in params], heated, torch.float32),
            cut_rows=on_device(cut),
            top_k_N1=column([each.top_k or 1 << 40 for each in params], cut, torch.int64),
            top_p_N1=column([each.top_p if each.top_p < 1 else np.inf for each in params], cut, torch.float64),
            min_p_N1=column([each.min_p for each in params], cut, torch.float32),
        )

    @classmethod
    def same(cls, params: SamplingParams, rows: int, device: torch.device) -> "RowParams":
        """All rows by the same parameters."""
        return cls.of([params], np.zeros(rows, np.int64), device)


def _cuts(params: SamplingParams) -> bool:
    return params.top_p < 1 or params.top_k > 0 or params.min_p > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One token for each row."""

    tokens: Tensor
    """int64 [B]."""
    logprobs: Tensor
    """float32 [B]."""
    probs_BV: Tensor
    """What the tokens were drawn from, or at temperature 0 the model's own distribution."""


def choose(logits_BV: Tensor, params: RowParams, uniforms_B: Tensor, *, raw_BV: Tensor | None = None) -> Choice:
    """Draws one token a row. `logits_BV` float32 carries all shifts; `uniforms_B` is float64 in [0, 1).

    `raw_BV` are the model's logits where shifts changed them: rows at temperature 0 tell those logprobs.
    """
    probs_BV = distribution(logits_BV, params)
    tokens_B = draw(probs_BV, uniforms_B)
    rows = params.greedy_rows
    if rows is not None:
        tokens_B[rows] = logits_BV[rows].argmax(-1)
        if raw_BV is not None:
            probs_BV[rows] = raw_BV[rows].softmax(-1)
    chosen_B = probs_BV.gather(1, tokens_B[:, None])[:, 0].log()
    if rows is not None and raw_BV is not None:
        chosen_B[rows] = _told_in_full(chosen_B[rows], tokens_B[rows], raw_BV[rows])
    return Choice(tokens=tokens_B, logprobs=chosen_B, probs_BV=probs_BV)


def _told_in_full(logprobs_N: Tensor, tokens_N: Tensor, raw_NV: Tensor) -> Tensor:
    """Logprobs of tokens that a shift forced although float32 has no room for their probabilities."""
    exact_N = raw_NV.log_softmax(-1).gather(1, tokens_N[:, None])[:, 0]
    return torch.where(logprobs_N == float("-inf"), exact_N, logprobs_N)


def likeliest(probs_BV: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Token ids and logprobs, [B, top], likeliest first, -infinity for tokens that could not be drawn; what the
    vocabulary lacks is token 0 at -infinity."""
    lacking = max(0, top - probs_BV.shape[-1])
    best = probs_BV.topk(top - lacking, dim=-1)
    return F.pad(best.indices, (0, lacking)), F.pad(best.values.log(), (0, lacking), value=float("-inf"))


def distribution(logits_BV: Tensor, params: RowParams) -> Tensor:
    """Probabilities, float32 [B, V], that `params` sample from; rows sum to 1, filtered tokens are exactly 0.

    Rows at temperature 0 have the distribution of their logits as they are.
    """
    if params.heated_rows is not None:
        heated_NV = logits_BV[params.heated_rows]
        # Shifted to 0 first: a tiny temperature would otherwise send large logits to infinity.
        heated_NV = (heated_NV - heated_NV.amax(-1, keepdim=True)) / params.temperature_N1
        logits_BV = logits_BV.index_copy(0, params.heated_rows, heated_NV)
    probs_BV = logits_BV.softmax(-1)
    if params.cut_rows is not None:
        probs_BV.index_copy_(0, params.cut_rows, _truncated(probs_BV[params.cut_rows], params))
    return probs_BV


def _truncated(probs_NV: Tensor, params: RowParams) -> Tensor:
    """Keeps the tokens that pass top-k, then top-p on what is left, then min-p; renormalises.

    Equal probabilities are ordered by token id, so that the kept set never depends on the sort's whims.
    """
    kept_NV, ids_NV = probs_NV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(kept_NV.shape[1], device=kept_NV.device)
    kept_NV = kept_NV.masked_fill(rank_V >= params.top_k_N1, 0.0)
    mass_NV = kept_NV.cumsum(-1, dtype=torch.float64)
    kept_NV = kept_NV.masked_fill(mass_NV - kept_NV >= params.top_p_N1 * mass_NV[:, -1:], 0.0)
    kept_NV = kept_NV.masked_fill(kept_NV < params.min_p_N1 * kept_NV[:, :1], 0.0)
    # A running sum, because its order is the same for any number of rows.
    kept_NV = kept_NV / kept_NV.cumsum(-1, dtype=torch.float64)[:, -1:].float()
    return torch.zeros_like(probs_NV).scatter_(1, ids_NV, kept_NV)


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
