"""Any causal language model of `transformers`, by its own forward pass, with the adapter's terms added behind its
matrices. The road for architectures that `decoder.py` does not compute."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tinsmith_server.trainer.llama.head import read_off
from tinsmith_server.trainer.llama.layout import MicroBatch
from tinsmith_server.trainer.local.adapter import Adapter, Halves
from tinsmith_server.trainer.local.causal import Outputs, Reading
from tinsmith_server.trainer.local.model_facts import ModelFacts


class _Leaves:
    """An adapter's halves as leaves of autograd's graph."""

    def __init__(self, adapter: Adapter, *, is_trained: bool) -> None:
        self.adapter, self.is_trained, self.scale = adapter, is_trained, adapter.scale
        self.halves = {
            path: Halves(*(half.detach().requires_grad_(is_trained) for half in halves))
            for path, halves in adapter.halves.items()
        }

    def gradients(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Those of A and of B, flat, by path; none before a backward pass."""
        found = {}
        for path, (a_RI, b_OR) in self.halves.items():
            if a_RI.grad is not None and b_OR.grad is not None:
                found[path] = (a_RI.grad.flatten(), b_OR.grad.flatten())
        return found


class HuggingFaceModel(ModelFacts):
    """A base model in memory; see `causal.CausalModel`."""

    reads_together = False

    def __init__(self, model: PreTrainedModel, *, name: str) -> None:
        super().__init__(model, name=name)
        self.active: _Leaves | None = None
        """The halves whose terms the next forward pass adds."""
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.register_forward_hook(self._adding(path))

    def bind(self, adapters: Sequence[Adapter], trained: Sequence[bool]) -> "BoundHuggingFace":
        return BoundHuggingFace(self, adapters, trained)

    def logits(self, tokens_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """[rows, T, vocabulary] of rows padded on the right."""
        logits: Tensor = self._model(input_ids=tokens_RT, attention_mask=mask_RT, use_cache=False).logits
        return logits

    def _adding(self, path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if self.active is None or path not in self.active.halves:
                return None
            a_RI, b_OR = self.active.halves[path]
            x = inputs[0]
            return output + F.linear(F.linear(x, a_RI.to(x.dtype)), b_OR.to(x.dtype)) * self.active.scale

        return add


class BoundHuggingFace:
    """See `causal.BoundAdapters`. Adapters are read one after the other."""

    def __init__(self, model: HuggingFaceModel, adapters: Sequence[Adapter], trained: Sequence[bool]) -> None:
        self._model = model
        self._leaves = [_Leaves(adapter, is_trained=flag) for adapter, flag in zip(adapters, trained, strict=True)]

    def outputs(self, readings: Sequence[Reading], *, distributions: bool = False) -> Sequence[Outputs]:
        return [
            self._outputs(leaves, reading, distributions=distributions)
            for leaves, reading in zip(self._leaves, readings, strict=True)
        ]

    def _outputs(self, leaves: _Leaves, reading: Reading, *, distributions: bool) -> Outputs:
        batch, device = reading.batch, self._model.device
        rows_M, steps_M = batch.row_of_node_N[batch.outputs_M], batch.positions_N[batch.outputs_M]
        logits, places = [], []
        for rows in _of_similar_length(batch, np.unique(rows_M)):
            mine = np.flatnonzero(np.isin(rows_M, rows))
            logits_RTV = self._logits(leaves, batch, rows)
            logits.append(logits_RTV[np.searchsorted(rows, rows_M[mine]), steps_M[mine]])
            places.append(mine)
        order = torch.from_numpy(np.argsort(np.concatenate(places))).to(device)
        outputs_P = torch.from_numpy(batch.output_of_target_P).to(device)
        logits_MV = torch.cat(logits)[order]
        return read_off(logits_MV, [outputs_P], [reading.targets], distributions=distributions)[0]

    def _logits(self, leaves: _Leaves, batch: MicroBatch, rows: NDArray[np.int64]) -> Tensor:
        """[rows, T, vocabulary]."""
        lengths_R = batch.lengths_R[rows]
        mask_RT = np.arange(lengths_R.max()) < lengths_R[:, None]
        tokens_RT = np.where(mask_RT, batch.tokens_N[batch.nodes_RT[rows, : mask_RT.shape[1]]], 0)
        device = self._model.device
        self._model.active = leaves
        try:
            return self._model.logits(
                torch.from_numpy(tokens_RT).to(device), torch.from_numpy(mask_RT.astype(np.int64)).to(device)
            )
        finally:
            self._model.active = None

    def collect(self, accepted: Sequence[bool]) -> None:
        for leaves, is_accepted in zip(self._leaves, accepted, strict=True):
            if leaves.is_trained and is_accepted:
                leaves.adapter.accumulate(leaves.gradients())


def _of_similar_length(batch: MicroBatch, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """The rows, those whose lengths are within a factor of 2 together."""
    size = np.ceil(np.log2(batch.lengths_R[rows]))
    for each in np.unique(size):
        yield rows[size == each]
