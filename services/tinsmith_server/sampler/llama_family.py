"""Llama, Qwen2 and Qwen3 checkpoints on our own forward pass (`decoder.py`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from tinsmith_server.models.llama_family import RotaryTable, qk_norm_of
from tinsmith_server.sampler import decoder
from tinsmith_server.sampler.adapter import Adapter, check_base_copies, checked, unfit
from tinsmith_server.sampler.causal import Prompts
from tinsmith_server.sampler.decoder import Layer, Shape, Weights
from tinsmith_server.sampler.kv_cache import Grid, LayerCache, Rows
from tinsmith_server.sampler.linear import Linear, Lora, fuse
from tinsmith_server.sampler.model_facts import ModelFacts

_SCORED_TOGETHER = 1 << 16
_ATTENTION = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaWeights:
    """The weights of a model and what they cost."""

    model: "LlamaFamilyModel"
    weights: Weights
    extra_bytes: int

    def batch(self, prompts: Prompts, *, keep_positions: bool) -> "LlamaBatch":
        return LlamaBatch(self.model, prompts, self.weights, keep_positions=keep_positions)


class LlamaFamilyModel(ModelFacts):
    """A base model in memory; the `transformers` model gives up its projections to the fused matrices."""

    def __init__(self, model: PreTrainedModel, *, name: str, merge_limit_bytes: int, prefill_tokens: int) -> None:
        super().__init__(model, name=name)
        config = model.config
        self._model = model
        self._linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._merge_limit_bytes = merge_limit_bytes
        self.scored_together = _SCORED_TOGETHER
        self.prefill_tokens = prefill_tokens
        self.shape = Shape(
            query_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            norm_epsilon=config.rms_norm_eps,
        )
        self.rotary = RotaryTable(model)
        self._base = self._build({}, None)
        self._share_memory()

    def base(self) -> LlamaWeights:
        return LlamaWeights(model=self, weights=self._base, extra_bytes=0)

    def adapted(self, adapter: Adapter) -> LlamaWeights:
        check_base_copies(adapter, self._model)
        loras = {}
        for name, lora in adapter.loras.items():
            if name not in self._linears:
                raise unfit(name, "is no matrix of it")
            fitting = checked(name, lora, *self._linears[name].weight.shape)
            loras[name] = Lora(a_RI=self._placed(fitting.a_RI), b_OR=self._placed(fitting.b_OR))
        weights = self._build(loras, self._base)
        return LlamaWeights(model=self, weights=weights, extra_bytes=_extra_bytes(weights, self._base))

    def _placed(self, half: Tensor) -> Tensor:
        return half.to(self.device, self._base.embedding.dtype)

    def _build(self, loras: Mapping[str, Lora], base: Weights | None) -> Weights:
        """The weights with `loras`, sharing with `base` all that no adapter touches."""
        merge = self._merges(loras)
        layers = [
            self._layer(index, loras, None if base is None else base.layers[index], merge=merge)
            for index in range(self._model.config.num_hidden_layers)
        ]
        return Weights(
            embedding=self._model.model.embed_tokens.weight.detach(),
            layers=tuple(layers),
            norm=self._model.model.norm.weight.detach(),
            head=_linear(self._model.lm_head, loras.get("lm_head"), merge=merge),
        )

    def _merges(self, loras: Mapping[str, Lora]) -> bool:
        """Merged weights decode as fast as the base; unmerged ones cost no copy (`make bench` compares)."""
        return sum(self._linears[name].weight.nbytes for name in loras) <= self._merge_limit_bytes

    def _layer(self, index: int, loras: Mapping[str, Lora], base: Layer | None, *, merge: bool) -> Layer:
        module, prefix = self._model.model.layers[index], f"model.layers.{index}"

        def linear(path: str) -> Linear:
            return _linear(self._linears[f"{prefix}.{path}"], loras.get(f"{prefix}.{path}"), merge=merge)

        heads = {"query_heads": self.shape.query_heads, "kv_heads": self.shape.kv_heads}
        attention = [f"self_attn.{name}" for name in _ATTENTION]
        shared = base is not None and not any(f"{prefix}.{path}" in loras for path in attention)
        return Layer(
            attention_norm=module.input_layernorm.weight.detach(),
            qkv=base.qkv if base is not None and shared else fuse([linear(path) for path in attention]),
            qk_norm=qk_norm_of(module.self_attn, **heads) if base is None else base.qk_norm,
            attention_out=linear("self_attn.o_proj"),
            mlp_norm=module.post_attention_layernorm.weight.detach(),
            gate=linear("mlp.gate_proj"),
            up=linear("mlp.up_proj"),
            down=linear("mlp.down_proj"),
        )

    def _share_memory(self) -> None:
        """Points the module's projections into the fused matrices, so that they exist once."""
        for module, layer in zip(self._model.model.layers, self._base.layers, strict=True):
            projections = [module.self_attn.get_submodule(name) for name in _ATTENTION]
            weights = [projection.get_parameter("weight") for projection in projections]
            rows = torch.split(layer.qkv.weight_OI, [len(weight) for weight in weights])
            for weight, part in zip(weights, rows, strict=True):
                weight.data = part


class LlamaBatch:
    """See `causal.Batch`."""

    def __init__(self, model: LlamaFamilyModel, prompts: Prompts, weights: Weights, *, keep_positions: bool) -> None:
        self._model, self._weights, self._keep_positions = model, weights, keep_positions
        self._prompts = [torch.from_numpy(prompt).to(model.device, torch.int64) for prompt in prompts]
        self._lengths_P = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        self._caches: list[LayerCache] = []
        self._answered = 0

    def prefill(self) -> Iterator[None]:
        hidden, starts, caches = [], [], []
        laid = 0
        for start, stop in _pieces([len(prompt) for prompt in self._prompts], self._model.prefill_tokens):
            tokens_PT = pad_sequence(self._prompts[start:stop], batch_first=True)
            rotary = self._model.rotary.up_to(tokens_PT.shape[1])
            last_P = None if self._keep_positions else self._lengths_P[start:stop] - 1
            hidden_Nd, layers = decoder.prefill(self._weights, self._model.shape, rotary, tokens_PT, last_P)
            hidden.append(hidden_Nd)
            if self._keep_positions:
                starts.append(torch.arange(stop - start, device=tokens_PT.device) * tokens_PT.shape[1] + laid)
                laid += len(hidden_Nd)
            else:
                caches.append(layers)
            yield
        self._hidden_Nd = torch.cat(hidden)
        if self._keep_positions:
            self._starts_P = torch.cat(starts)
        self._caches = [LayerCache.join(list(parts)) for parts in zip(*caches, strict=True)]

    def last_logits(self) -> Tensor:
        return self._weights.head(self._hidden_Nd).float()

    def logits_at(self, prompts_N: Tensor, positions_N: Tensor) -> Tensor:
        return self._weights.head(self._hidden_Nd[self._starts_P[prompts_N] + positions_N]).float()

    def expand(self, prompt_of_row_B: Tensor) -> None:
        self._prompt_of_row_B = prompt_of_row_B
        self._arrange()

    def keep(self, rows_B: Tensor) -> None:
        prompts_P, self._prompt_of_row_B = torch.unique_consecutive(self._prompt_of_row_B[rows_B], return_inverse=True)
        fewer = len(prompts_P) < len(self._lengths_P)
        for cache in self._caches:
            cache.keep(rows_B, prompts_P if fewer else None)
        self._lengths_P = self._lengths_P[prompts_P]
        self._arrange()

    def step(self, tokens_B: Tensor) -> Tensor:
        rows = Rows(
            positions_B=self._lengths_B + self._answered,
            answered=self._answered,
            prompt_mask_P1T=self._prompt_mask,
            grid=self._grid,
        )
        rotary = self._model.rotary.up_to(self._longest + self._answered + 1)
        hidden_Bd = decoder.decode(self._weights, self._model.shape, rotary, tokens_B, rows, self._caches)
        self._answered += 1
        return self._weights.head(hidden_Bd).float()

    def _arrange(self) -> None:
        """What the coming steps need to know of the rows and prompts that are left."""
        self._lengths_B = self._lengths_P[self._prompt_of_row_B]
        self._grid = Grid.of(self._prompt_of_row_B, len(self._lengths_P))
        padded = self._caches[0].prompt_length
        self._longest = padded
        self._prompt_mask = None
        if bool((self._lengths_P < padded).any()):
            beyond = torch.arange(padded, device=self._lengths_P.device) >= self._lengths_P[:, None]
            mask = torch.zeros(beyond.shape, dtype=self._hidden_Nd.dtype, device=beyond.device)
            self._prompt_mask = mask.masked_fill_(beyond, float("-inf"))[:, None]


def _linear(module: nn.Linear, lora: Lora | None, *, merge: bool) -> Linear:
    bias = None if module.bias is None else module.bias.detach()
    linear = Linear(weight_OI=module.weight.detach(), bias_O=bias, lora=lora)
    return linear.merged() if merge else linear


def _extra_bytes(weights: Weights, base: Weights) -> int:
    total = weights.head.bytes_beside(base.head)
    for mine, theirs in zip(weights.layers, base.layers, strict=True):
        for part in ("qkv", "attention_out", "gate", "up", "down"):
            total += getattr(mine, part).bytes_beside(getattr(theirs, part))
    return total


def _pieces(lengths: list[int], budget: int) -> Iterator[tuple[int, int]]:
    """Cuts the prompts into runs whose padded size stays within `budget` tokens; a longer prompt runs alone."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if index > start and (index - start + 1) * longest > budget:
            yield start, index
            start, longest = index, length
    yield start, len(lengths)
