"""Any `transformers` causal language model, on its own forward pass.

The slow road, for architectures that `engine/` does not know: prompts are padded on the left, the prompt's keys
and values are copied to every answer, and an adapter is merged into copies of the weights it touches.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from tinsmith_server.sampler.adapter import Adapter, check_base_copies, checked, unfit
from tinsmith_server.sampler.engine.linear import Lora
from tinsmith_server.sampler.local.causal import Prompts
from tinsmith_server.sampler.local.model_facts import ModelFacts

_LOGITS_KEPT = 1 << 26
"""Most logits of a batch that is scored: this forward pass gives no hidden states from which to make them later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """A model, and parameters that stand in for its own, by name."""

    model: "HuggingFaceModel"
    parameters: Mapping[str, Tensor]

    @property
    def extra_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters.values())

    def scoring(self, sequences: Prompts) -> "HuggingFaceBatch":
        return HuggingFaceBatch(self.model, sequences, self.parameters, keep_positions=True)

    def decoding(self, prompts: Prompts) -> "HuggingFaceBatch":
        """A new batch of prompts to be answered."""
        return HuggingFaceBatch(self.model, prompts, self.parameters, keep_positions=False)


class HuggingFaceModel(ModelFacts):
    """A base model in memory."""

    def __init__(self, model: PreTrainedModel, *, name: str) -> None:
        super().__init__(model, name=name)
        self.model = model
        self.scored_together = max(1, _LOGITS_KEPT // self.vocabulary)
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def base(self) -> Overrides:
        return Overrides(model=self, parameters={})

    def adapted(self, adapter: Adapter) -> Overrides:
        check_base_copies(adapter, self.model)
        modules = dict(self.model.named_modules())
        return Overrides(
            model=self,
            parameters={
                f"{name}.weight": _merged(name, modules.get(name), lora) for name, lora in adapter.loras.items()
            },
        )


class HuggingFaceBatch:
    """Prompts that are read together, then judged (see `causal.ScoringBatch`) or decoded as rows."""

    def __init__(
        self, model: HuggingFaceModel, prompts: Prompts, overrides: Mapping[str, Tensor], *, keep_positions: bool
    ) -> None:
        self._model, self._overrides, self._keep_positions = model, overrides, keep_positions
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        self._longest = int(lengths.max())
        self._mask = (torch.arange(self._longest, device=model.device) >= self._longest - lengths[:, None]).long()
        self._tokens = torch.zeros(self._mask.shape, dtype=torch.int64, device=model.device)
        for row, prompt in zip(self._tokens, prompts, strict=True):
            row[self._longest - len(prompt) :] = torch.from_numpy(prompt)
        self._cache = DynamicCache(config=model.model.config)
        self._logits: Tensor

    def prefill(self) -> Iterator[None]:
        self._logits = self._forward(self._tokens, 0 if self._keep_positions else 1)
        yield

    def last_logits(self) -> Tensor:
        """float32 [prompts, vocabulary]: what follows each prompt."""
        return self._logits[:, -1].float()

    def logits_at(self, sequences_N: NDArray[np.int64], positions_N: NDArray[np.int64]) -> Tensor:
        sequences, positions = (torch.from_numpy(x).to(self._mask.device) for x in (sequences_N, positions_N))
        padding_P = self._longest - self._mask.sum(-1)
        return self._logits[sequences, padding_P[sequences] + positions].float()

    def expand(self, prompt_of_row_B: Tensor) -> None:
        """Starts decoding: int64 [rows], sorted; row b continues prompt `prompt_of_row_B[b]`."""
        del self._logits
        self.keep(prompt_of_row_B)

    def keep(self, rows_B: Tensor) -> None:
        """Goes on with these rows only."""
        self._cache.batch_select_indices(rows_B)
        self._mask = self._mask[rows_B]

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one token of each row; float32 [rows, vocabulary], what follows."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens_B), 1)], dim=1)
        return self._forward(tokens_B[:, None], 1)[:, -1].float()

    def _forward(self, tokens_BT: Tensor, logits_to_keep: int) -> Tensor:
        inputs = {
            "input_ids": tokens_BT,
            "attention_mask": self._mask,
            "past_key_values": self._cache,
            "use_cache": True,
            "logits_to_keep": logits_to_keep,
        }
        if self._model.takes_positions:
            positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -tokens_BT.shape[1] :]
        out: CausalLMOutputWithPast = functional_call(
            self._model.model, dict(self._overrides), (), inputs, tie_weights=False
        )
        assert out.logits is not None
        return out.logits


def _merged(name: str, module: nn.Module | None, lora: Lora) -> Tensor:
    if not isinstance(module, nn.Linear):
        raise unfit(name, "is no linear layer of it")
    weight = module.weight.detach()
    fitting = checked(name, lora, *weight.shape)
    placed = Lora(a_RI=fitting.a_RI.to(weight.device), b_OR=fitting.b_OR.to(weight.device))
    return placed.merged_into(weight)
