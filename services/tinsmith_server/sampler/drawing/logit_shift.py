"""What requests add to the logits before anything else: bias, allowed tokens, penalties of repetition."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.request import SamplingParams

_LARGEST = 1e30
"""A shift that decides alone what is drawn; larger ones would sum to infinity in float32, and then to NaN."""


class LogitShift:
    """The shifts of a batch's rows. Rows whose requests ask for none are left untouched."""

    def __init__(
        self,
        params: Sequence[SamplingParams],
        params_of_row_B: NDArray[np.int64],
        past_B: Sequence[NDArray[np.int32]],
        vocabulary: int,
        device: torch.device,
    ) -> None:
        """Row b is shifted by `params[params_of_row_B[b]]`; `past_B` are the tokens generated so far."""
        biased, penalised = (
            np.flatnonzero(np.array([asks(each) for each in params], bool)[params_of_row_B])
            for asks in (_is_biased, is_penalised)
        )
        self._biased_N = torch.from_numpy(biased).to(device)
        self._penalised_N = torch.from_numpy(penalised).to(device)
        if len(biased):
            biases = torch.stack([_bias(each, vocabulary) for each in params])
            self._bias_NV = biases[params_of_row_B[biased]].to(device)
        if len(penalised):
            penalties = [(_bounded(each.frequency_penalty), _bounded(each.presence_penalty)) for each in params]
            self._penalties_N2 = torch.tensor(penalties)[params_of_row_B[penalised]].to(device)
            counts = [np.bincount(past_B[row], minlength=vocabulary) for row in penalised.tolist()]
            self._counts_NV = torch.from_numpy(np.stack(counts)).to(device, torch.float32)

    @property
    def nothing(self) -> bool:
        """Whether no row is shifted."""
        return not len(self._biased_N) and not len(self._penalised_N)

    def applied_to(self, logits_BV: Tensor) -> Tensor:
        """The logits, shifted; a new tensor."""
        shifted_BV = logits_BV.clone()
        if len(self._biased_N):
            shifted_BV.index_add_(0, self._biased_N, self._bias_NV)
        if len(self._penalised_N):
            penalty_NV = self._counts_NV * self._penalties_N2[:, :1]
            penalty_NV += (self._counts_NV > 0) * self._penalties_N2[:, 1:]
            shifted_BV.index_add_(0, self._penalised_N, penalty_NV, alpha=-1)
        return shifted_BV

    def count(self, tokens_B: Tensor) -> None:
        """Takes note of one generated token of each row."""
        if len(self._penalised_N):
            tokens_N1 = tokens_B[self._penalised_N][:, None]
            self._counts_NV.scatter_add_(1, tokens_N1, torch.ones_like(tokens_N1, dtype=torch.float32))


def _is_biased(params: SamplingParams) -> bool:
    return bool(params.logit_bias or params.allowed_token_ids)


def is_penalised(params: SamplingParams) -> bool:
    """Whether generated tokens shift the logits of later ones."""
    return bool(params.frequency_penalty or params.presence_penalty)


def _bias(params: SamplingParams, vocabulary: int) -> Tensor:
    bias_V = torch.zeros(vocabulary)
    if params.allowed_token_ids:
        bias_V.fill_(float("-inf"))
        bias_V[list(params.allowed_token_ids)] = 0.0
    for token, bias in params.logit_bias.items():
        bias_V[token] += _bounded(bias)
    return bias_V


def _bounded(shift: float) -> float:
    return min(max(shift, -_LARGEST), _LARGEST)
