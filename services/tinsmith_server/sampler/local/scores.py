"""Logprobs of tokens that are already there: prompts, whole sequences, given targets."""

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tinsmith_server.sampler.engine.diverged import diverged
from tinsmith_server.sampler.local.causal import AdaptedWeights, CausalModel
from tinsmith_server.sampler.local.plan import BatchLimits, by_length
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import Scores, TopLogprobs

_LOGITS_AT_ONCE = 1 << 23
"""Most logits in memory at a time while scoring."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Queries:
    """What is asked of the distributions: at position `positions[n]` of row `rows[n]`, tokens `targets[n]`."""

    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    slots: NDArray[np.int64]
    """Where the answer goes in the flat result."""
    targets: NDArray[np.int64]
    """[N, K]."""


class _Sheet:
    """The flat result, filled batch by batch."""

    def __init__(self, sequences: Ragged, targets: Ragged | None, top: int) -> None:
        elements = len(sequences.values)
        self._inner = () if targets is None else targets.values.shape[1:]
        self._logprobs = np.full((elements, max(1, int(np.prod(self._inner)))), np.nan, np.float32)
        self._top_ids = np.zeros((elements, top), np.int32)
        self._top_logprobs = np.full((elements, top), -np.inf, np.float32)
        self._offsets = sequences.offsets

    def fill(self, slots: NDArray[np.int64], logprobs_NV: torch.Tensor, targets: NDArray[np.int64]) -> None:
        chosen = logprobs_NV.gather(1, torch.from_numpy(targets).to(logprobs_NV.device)).cpu().numpy()
        if np.isnan(chosen).any():
            raise diverged()
        self._logprobs[slots] = chosen
        top = min(self._top_ids.shape[1], logprobs_NV.shape[1])
        if top:
            best = logprobs_NV.topk(top, dim=-1)
            self._top_ids[slots, :top] = best.indices.cpu().numpy()
            self._top_logprobs[slots, :top] = best.values.cpu().numpy()

    def scores(self) -> Scores:
        top = None
        if self._top_ids.shape[1]:
            top = TopLogprobs(
                token_ids=Ragged(values=self._top_ids, offsets=self._offsets),
                logprobs=Ragged(values=self._top_logprobs, offsets=self._offsets),
            )
        shaped = self._logprobs.reshape(len(self._logprobs), *self._inner)
        return Scores(logprobs=Ragged(values=shaped, offsets=self._offsets), top_logprobs=top)


def score(
    model: CausalModel,
    weights: AdaptedWeights,
    sequences: Ragged,
    targets: Ragged | None,
    top: int,
    limits: BatchLimits,
) -> Generator[None, None, Scores]:
    """Scores `sequences`, no row empty, laid out as in a LogprobsRequest; yields between bounded pieces of work."""
    sheet = _Sheet(sequences, targets, top)
    lengths = np.diff(sequences.offsets).tolist()
    limits = replace(limits, prompt_tokens=min(limits.prompt_tokens, model.scored_together))
    for group in by_length(lengths, [1] * len(lengths), limits):
        batch = weights.scoring([sequences[row].astype(np.int32) for row in group])
        yield from batch.prefill()
        queries = _queries(sequences, targets, group)
        pieces = max(1, _LOGITS_AT_ONCE // model.vocabulary)
        for start in range(0, len(queries.rows), pieces):
            part = slice(start, start + pieces)
            logprobs_NV = batch.logits_at(queries.rows[part], queries.positions[part]).log_softmax(-1)
            sheet.fill(queries.slots[part], logprobs_NV, queries.targets[part])
            yield
    return sheet.scores()


def _queries(sequences: Ragged, targets: Ragged | None, group: list[int]) -> _Queries:
    """Without targets, token t is judged at position t - 1, so the first token is judged nowhere."""
    skip = 1 if targets is None else 0
    lengths = [len(sequences[row]) - skip for row in group]
    slots = np.concatenate([np.arange(sequences.offsets[row] + skip, sequences.offsets[row + 1]) for row in group])
    wanted = sequences.values[slots] if targets is None else targets.values[slots]
    return _Queries(
        rows=np.repeat(np.arange(len(group)), lengths),
        positions=np.concatenate([np.arange(length) for length in lengths]),
        slots=slots,
        targets=wanted.reshape(len(slots), int(np.prod(wanted.shape[1:]))).astype(np.int64),
    )
