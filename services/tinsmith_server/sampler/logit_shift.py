"""What a request adds to the logits before anything else: bias, allowed tokens, penalties of repetition."""

import torch
from torch import Tensor

from tinsmith_server.sampler.request import SamplingParams

_LARGEST = 1e30
"""A shift that decides alone what is drawn; larger ones would sum to infinity in float32, and then to NaN."""


class LogitShift:
    """The sum of all shifts of one batch."""

    def __init__(self, params: SamplingParams, vocabulary: int, rows: int, device: torch.device) -> None:
        self._params = params
        self._bias_V = _bias(params, vocabulary, device)
        penalised = params.frequency_penalty or params.presence_penalty
        self._counts_BV = torch.zeros(rows, vocabulary, device=device) if penalised else None

    @property
    def tensor(self) -> Tensor | None:
        """float32, broadcastable to [rows, vocabulary]; None when nothing is shifted."""
        if self._counts_BV is None:
            return self._bias_V
        penalty_BV = self._counts_BV * _bounded(self._params.frequency_penalty)
        penalty_BV += (self._counts_BV > 0) * _bounded(self._params.presence_penalty)
        return -penalty_BV if self._bias_V is None else self._bias_V - penalty_BV

    def count(self, tokens_B: Tensor) -> None:
        """Takes note of one generated token of each row."""
        if self._counts_BV is not None:
            self._counts_BV.scatter_add_(1, tokens_B[:, None], torch.ones_like(tokens_B[:, None], dtype=torch.float32))

    def keep(self, rows_B: Tensor) -> None:
        """Goes on with these rows only."""
        if self._counts_BV is not None:
            self._counts_BV = self._counts_BV[rows_B]


def _bias(params: SamplingParams, vocabulary: int, device: torch.device) -> Tensor | None:
    if not params.logit_bias and not params.allowed_token_ids:
        return None
    bias_V = torch.zeros(vocabulary)
    if params.allowed_token_ids:
        bias_V.fill_(float("-inf"))
        bias_V[list(params.allowed_token_ids)] = 0.0
    for token, bias in params.logit_bias.items():
        bias_V[token] += _bounded(bias)
    return bias_V.to(device)


def _bounded(shift: float) -> float:
    return min(max(shift, -_LARGEST), _LARGEST)
