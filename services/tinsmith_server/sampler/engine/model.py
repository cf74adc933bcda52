"""Llama, Qwen2 and Qwen3 checkpoints on our own forward pass (`decoder.py`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinsmith_server.models.llama_family import RotaryTable, qk_norm_of
from tinsmith_server.sampler.adapter import Adapter, check_base_copies, checked, unfit
from tinsmith_server.sampler.engine.adapter_rows import AdapterRows, AdapterStacks
from tinsmith_server.sampler.engine.decoder import Layer, Pass, Shape, Weights
from tinsmith_server.sampler.engine.linear import Linear, fuse
from tinsmith_server.sampler.engine.low_rank import Factors, LowRank, factors_of
from tinsmith_server.sampler.engine.prefill import Prefill, Unread
from tinsmith_server.sampler.engine.row_products import RowProducts
from tinsmith_server.sampler.local.causal import Prompts
from tinsmith_server.sampler.local.model_facts import ModelFacts

_FUSED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""The projections of a layer that share a matrix, in the order of `decoder.Site`."""
_HEAD = "lm_head"
_SCORED_TOGETHER = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaWeights:
    """A model with one adapter or none; see `causal.AdaptedWeights`."""

    model: "LlamaFamilyModel"
    adapter: LowRank | None

    @property
    def extra_bytes(self) -> int:
        return 0 if self.adapter is None else self.adapter.nbytes

    def scoring(self, sequences: Prompts) -> "LlamaScoring":
        return LlamaScoring(self, sequences)


class LlamaScoring:
    """See `causal.ScoringBatch`."""

    def __init__(self, weights: LlamaWeights, sequences: Prompts) -> None:
        unread = [Unread(tokens=sequence, adapter=weights.adapter) for sequence in sequences]
        self._prefill, self._piece = Prefill(weights.model, unread, keep_positions=True), weights.model.prefill_tokens

    def prefill(self) -> Iterator[None]:
        while self._prefill.tokens_left:
            self._prefill.read(self._piece)
            yield

    def logits_at(self, sequences_N: NDArray[np.int64], positions_N: NDArray[np.int64]) -> Tensor:
        return self._prefill.logits(self._prefill.places(sequences_N, positions_N))


class LlamaFamilyModel(ModelFacts):
    """A base model in memory; the `transformers` model gives up its projections to the fused matrices."""

    def __init__(
        self, model: PreTrainedModel, *, name: str, prefill_tokens: int, products: RowProducts | None = None
    ) -> None:
        super().__init__(model, name=name)
        self._model = model
        self._linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._rotary = RotaryTable(model)
        self.scored_together = _SCORED_TOGETHER
        self.prefill_tokens = prefill_tokens
        self._stacks = AdapterStacks()
        self.products = products or RowProducts()
        self.weights = self._fused_weights()
        self.repeats = self.weights.shape.query_heads // self.weights.shape.kv_heads
        """Query heads of a KV head."""
        self._share_memory()

    @property
    def token_bytes(self) -> int:
        """Memory of one token's keys and values."""
        shape = self.weights.shape
        return 2 * len(self.weights.layers) * shape.kv_heads * shape.head_size * self.weights.embedding.itemsize

    def empty_kv(self, sequences: int, positions: int) -> Tensor:
        """Room for keys and values, [2, layers, sequences, KV heads, positions, head size]."""
        shape = self.weights.shape
        return self.weights.embedding.new_empty(
            2, len(self.weights.layers), sequences, shape.kv_heads, positions, shape.head_size
        )

    def rows_of(self, adapters: Sequence[LowRank | None], adapter_of_row_B: NDArray[np.int64]) -> AdapterRows:
        """Rows of a batch: row b has `adapters[adapter_of_row_B[b]]`, None being the base model; some may repeat."""
        return AdapterRows(adapters, adapter_of_row_B, self._stacks, self.device)

    def over(self, positions_N: NDArray[np.int64], adapters: AdapterRows) -> Pass:
        """A pass over rows at these positions, padded as `products` needs it."""
        padded = np.zeros(self.products.padded(len(positions_N)), np.int64)
        padded[: len(positions_N)] = positions_N
        table = self._rotary.up_to(int(padded.max()) + 1)
        return Pass(
            weights=self.weights,
            products=self.products,
            adapters=adapters,
            rotary=table.at(torch.from_numpy(padded).to(self.device)),
        )

    def on_device(self, numbers: NDArray[np.int64]) -> Tensor:
        """Numbers as a tensor where the weights are."""
        return torch.from_numpy(numbers).to(self.device)

    def base(self) -> LlamaWeights:
        return LlamaWeights(model=self, adapter=None)

    def adapted(self, adapter: Adapter) -> LlamaWeights:
        check_base_copies(adapter, self._model)
        for name, lora in adapter.loras.items():
            if name not in self._linears:
                raise unfit(name, "is no matrix of it")
            checked(name, lora, *self._linears[name].weight.shape)
        paths = [
            [f"model.layers.{index}.{path}" for path in group]
            for index in range(len(self.weights.layers))
            for group in _FUSED
        ]
        low_rank = LowRank(sites=tuple(self._factors(adapter, group) for group in [*paths, [_HEAD]]))
        return LlamaWeights(model=self, adapter=low_rank)

    def _factors(self, adapter: Adapter, paths: Sequence[str]) -> Factors | None:
        loras = [adapter.loras.get(path) for path in paths]
        sizes = [self._linears[path].out_features for path in paths]
        return factors_of(loras, sizes, self.weights.embedding)

    def _fused_weights(self) -> Weights:
        config = self._model.config
        shape = Shape(
            query_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            norm_epsilon=config.rms_norm_eps,
        )
        return Weights(
            embedding=self._model.model.embed_tokens.weight.detach(),
            layers=tuple(self._layer(index, shape) for index in range(config.num_hidden_layers)),
            norm=self._model.model.norm.weight.detach(),
            head=self._fuse([_HEAD]),
            shape=shape,
        )

    def _layer(self, index: int, shape: Shape) -> Layer:
        module = self._model.model.layers[index]
        qkv, out, gate_up, down = (self._fuse([f"model.layers.{index}.{path}" for path in group]) for group in _FUSED)
        return Layer(
            attention_norm=module.input_layernorm.weight.detach(),
            qkv=qkv,
            qk_norm=qk_norm_of(module.self_attn, query_heads=shape.query_heads, kv_heads=shape.kv_heads),
            out=out,
            mlp_norm=module.post_attention_layernorm.weight.detach(),
            gate_up=gate_up,
            down=down,
        )

    def _fuse(self, paths: Sequence[str]) -> Linear:
        parts = [_linear(self._linears[path]) for path in paths]
        return parts[0] if len(parts) == 1 else fuse(parts)

    def _share_memory(self) -> None:
        """Points the module's projections into the fused matrices, so that they exist once."""
        for index, layer in enumerate(self.weights.layers):
            for group, fused in zip(_FUSED, (layer.qkv, layer.out, layer.gate_up, layer.down), strict=True):
                modules = [self._linears[f"model.layers.{index}.{path}"] for path in group]
                rows = torch.split(fused.weight_OI, [module.out_features for module in modules])
                for module, part in zip(modules, rows, strict=True):
                    module.weight.data = part


def _linear(module: nn.Linear) -> Linear:
    return Linear(weight_OI=module.weight.detach(), bias_O=None if module.bias is None else module.bias.detach())
