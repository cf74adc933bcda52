"""From hidden states to the logprobs of targets, a piece at a time where the vocabulary is large."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tinsmith_server.trainer.llama.linear import Linear
from tinsmith_server.trainer.local.causal import Outputs, Reading

_PIECE_LOGITS = 1 << 25
"""Most logits in memory at once: 128 MB of float32. Beyond it they are computed again in the backward pass."""


class Head:
    """The unembedding, and what is read off its logits."""

    def __init__(self, linear: Linear, *, vocabulary: int) -> None:
        self._linear, self._vocabulary = linear, vocabulary

    def outputs(
        self, hidden_Md: Tensor, counts: Sequence[int], readings: Sequence[Reading], *, distributions: bool
    ) -> Sequence[Outputs]:
        """One a reading; its outputs are a section of the rows of `hidden_Md`, `counts` long."""
        rows = [torch.from_numpy(reading.batch.output_of_target_P).to(hidden_Md.device) for reading in readings]
        targets = [reading.targets for reading in readings]
        if distributions or len(hidden_Md) * self._vocabulary <= _PIECE_LOGITS:
            starts = accumulate(counts[:-1], initial=0)
            rows = [mine + start for mine, start in zip(rows, starts, strict=True)]
            return read_off(self._linear(hidden_Md, counts), rows, targets, distributions=distributions)
        sections = enumerate(zip(torch.split_with_sizes(hidden_Md, list(counts)), rows, targets, strict=True))
        return [Outputs(logprobs=self._in_pieces(self._linear.only(number), *section)) for number, section in sections]

    def _in_pieces(self, linear: Linear, hidden_Md: Tensor, rows_P: Tensor, targets: Tensor) -> Tensor:
        """Logprobs of one section's targets, so many outputs at a time that their logits find room."""

        def logprobs(part_Md: Tensor, rows_P: Tensor, targets: Tensor) -> Tensor:
            logits_MV = linear(part_Md, [len(part_Md)])
            return read_off(logits_MV, [rows_P], [targets], distributions=False)[0].logprobs

        piece = max(_PIECE_LOGITS // self._vocabulary, 1)
        if len(hidden_Md) <= piece:
            return logprobs(hidden_Md, rows_P, targets)
        found, places = [], []
        for start in range(0, len(hidden_Md), piece):
            mine = ((rows_P >= start) & (rows_P < start + piece)).nonzero()[:, 0]
            part_Md = hidden_Md[start : start + piece]
            places.append(mine)
            found.append(checkpoint(logprobs, part_Md, rows_P[mine] - start, targets[mine], use_reentrant=False))
        return torch.cat(found)[torch.argsort(torch.cat(places))]


def read_off(
    logits_MV: Tensor, rows: Sequence[Tensor], targets: Sequence[Tensor], *, distributions: bool
) -> list[Outputs]:
    """What the logits say of the targets of several readings: `targets` are [P] or [P, K], target i of a reading is
    predicted by the logits of row `rows[i]`, [P]."""
    flat_rows = [
        mine if wanted.ndim == 1 else mine[:, None].expand_as(wanted).flatten()
        for mine, wanted in zip(rows, targets, strict=True)
    ]
    flat_targets = [wanted.flatten() for wanted in targets]
    logits_MV = logits_MV.float()
    picked: Tensor = _PickedLogprobs.apply(logits_MV, _joined(flat_rows), _joined(flat_targets))
    parts = torch.split_with_sizes(picked, [len(wanted) for wanted in flat_targets])
    # A matrix of its own beside the picked ones, whose bits are then the same with and without it.
    logprobs_MV = torch.log_softmax(logits_MV, dim=-1) if distributions else None
    return [
        Outputs(logprobs=part.view(wanted.shape), distributions=None if logprobs_MV is None else logprobs_MV[mine])
        for part, wanted, mine in zip(parts, targets, rows, strict=True)
    ]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class _PickedLogprobs(torch.autograd.Function):
    """log_softmax at some places. Its gradient is written down in one pass over the matrix, without the mostly empty
    one of the same size that torch would make first."""

    @staticmethod
    def forward(context: Any, logits_MV: Tensor, rows_P: Tensor, targets_P: Tensor) -> Tensor:
        logprobs_MV = torch.log_softmax(logits_MV, dim=-1)
        context.save_for_backward(logprobs_MV, rows_P, targets_P)
        return logprobs_MV[rows_P, targets_P]

    @staticmethod
    def backward(context: Any, gradient_P: Tensor) -> tuple[Tensor, None, None]:
        """d logprob[row, target] / d logits[row] = onehot(target) - softmax(logits[row])."""
        logprobs_MV, rows_P, targets_P = context.saved_tensors
        total_M = logprobs_MV.new_zeros(len(logprobs_MV)).index_add_(0, rows_P, gradient_P)
        gradient_MV = logprobs_MV.exp().mul_(-total_M[:, None])
        gradient_MV.view(-1).index_add_(0, rows_P * logprobs_MV.shape[1] + targets_P, gradient_P)
        return gradient_MV, None, None
