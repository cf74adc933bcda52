"""Any causal language model of `transformers`, by its own forward pass, with the adapter's terms added behind its
matrices. The road for architectures that `decoder.py` does not compute."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tinsmith_server.trainer.adapter import Adapter
from tinsmith_server.trainer.head import pick_logprobs
from tinsmith_server.trainer.layout import MicroBatch
from tinsmith_server.trainer.model_facts import ModelFacts


class HuggingFaceModel(ModelFacts):
    """A base model in memory; see `causal.CausalModel`."""

    def __init__(self, model: PreTrainedModel, *, name: str) -> None:
        super().__init__(model, name=name)
        self.active: Adapter | None = None
        """The adapter whose terms the next forward pass adds."""
        for path, module in model.named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.register_forward_hook(self._adding(path))

    def bind(self, adapter: Adapter) -> "BoundHuggingFace":
        return BoundHuggingFace(self, adapter)

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
    """See `causal.BoundAdapter`."""

    def __init__(self, model: HuggingFaceModel, adapter: Adapter) -> None:
        self._model, self._adapter = model, adapter

    def logprobs(self, batch: MicroBatch, targets: Tensor) -> Tensor:
        device = self._model.device
        tokens_RT = torch.from_numpy(batch.tokens_N[batch.nodes_RT]).to(device)
        lengths_R = torch.from_numpy(batch.lengths_R).to(device)
        mask_RT = torch.arange(tokens_RT.shape[1], device=device) < lengths_R[:, None]
        self._model.active = self._adapter
        try:
            logits_RTV = self._model.logits(tokens_RT.where(mask_RT, 0), mask_RT.long())
        finally:
            self._model.active = None
        rows_M = torch.from_numpy(batch.row_of_node_N[batch.outputs_M]).to(device)
        steps_M = torch.from_numpy(batch.positions_N[batch.outputs_M]).to(device)
        outputs = torch.from_numpy(batch.output_of_target_P).to(device)
        return pick_logprobs(logits_RTV[rows_M, steps_M], outputs, targets)

    def collect(self) -> None:
        """The halves are the graph's own leaves: their gradients are there already."""
