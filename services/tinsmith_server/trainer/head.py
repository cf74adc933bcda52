"""From hidden states to the logprobs of targets, a piece at a time where the vocabulary is large."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_PIECE_LOGITS = 1 << 25
"""Most logits in memory at once: 128 MB of float32. Beyond it they are computed again in the backward pass."""


def target_logprobs(
    logits_of: Callable[[Tensor], Tensor],
    hidden_Md: Tensor,
    output_of_target_P: Tensor,
    targets: Tensor,
    vocabulary: int,
) -> Tensor:
    """Logprobs of `targets`, [P] or [P, K]; target i is predicted by `hidden_Md[output_of_target_P[i]]`.

    `output_of_target_P` need not be sorted.
    """
    piece = max(_PIECE_LOGITS // vocabulary, 1)
    if len(hidden_Md) <= piece:
        return _pick(logits_of, hidden_Md, output_of_target_P, targets)
    found, places = [], []
    for start in range(0, len(hidden_Md), piece):
        mine = ((output_of_target_P >= start) & (output_of_target_P < start + piece)).nonzero()[:, 0]
        places.append(mine)
        found.append(
            checkpoint(
                _pick,
                logits_of,
                hidden_Md[start : start + piece],
                output_of_target_P[mine] - start,
                targets[mine],
                use_reentrant=False,
            )
        )
    return torch.cat(found)[torch.argsort(torch.cat(places))]


def pick_logprobs(logits_MV: Tensor, rows_P: Tensor, targets: Tensor) -> Tensor:
    """Logprobs of `targets`, [P] or [P, K], target i by the logits of row `rows_P[i]`."""
    rows = rows_P if targets.ndim == 1 else rows_P[:, None].expand_as(targets)
    picked: Tensor = _PickedLogprobs.apply(logits_MV.float(), rows.flatten(), targets.flatten())
    return picked.view(targets.shape)


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


def _pick(logits_of: Callable[[Tensor], Tensor], hidden_Md: Tensor, rows_P: Tensor, targets: Tensor) -> Tensor:
    return pick_logprobs(logits_of(hidden_Md), rows_P, targets)
