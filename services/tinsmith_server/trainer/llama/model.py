"""Llama, Qwen2 and Qwen3 checkpoints on our own forward pass (`decoder.py`)."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from tinsmith_server.models.llama_family import RotaryTable, qk_norm_of
from tinsmith_server.trainer.llama import decoder
from tinsmith_server.trainer.llama.adapted import AdaptedProjection, Bound
from tinsmith_server.trainer.llama.attention import Heads
from tinsmith_server.trainer.llama.decoder import Layer, Weights
from tinsmith_server.trainer.llama.head import Head
from tinsmith_server.trainer.llama.linear import Projection, single, stacked
from tinsmith_server.trainer.local.adapter import Adapter
from tinsmith_server.trainer.local.causal import Outputs, Reading
from tinsmith_server.trainer.local.joined import join
from tinsmith_server.trainer.local.model_facts import ModelFacts

_VECTOR = 64
"""Numbers that the widest vector instructions take in one turn of a loop."""
_MOST_ACTIVATIONS = 1 << 31
"""Bytes that the layers of one pass may leave for its backward pass, before they are computed again instead."""


class LlamaFamilyModel(ModelFacts):
    """A base model in memory; see `causal.CausalModel`."""

    reads_together = True

    def __init__(self, model: PreTrainedModel, *, name: str, recompute: bool | None = None) -> None:
        """`recompute`: whether a backward pass computes the layers again instead of remembering them; None does so
        where memory asks for it."""
        super().__init__(model, name=name)
        config = model.config
        self._recompute = recompute
        self.heads = Heads(
            queries=config.num_attention_heads,
            keys=config.num_key_value_heads,
            size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            norm_epsilon=config.rms_norm_eps,
        )
        layers = list(model.model.layers)
        self.embedding = model.model.embed_tokens.weight.detach()
        self.norm = model.model.norm.weight.detach()
        self.qkv = _of_layers(layers, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.attention_out = _of_layers(layers, "self_attn.o_proj")
        self.gate_up = _of_layers(layers, "mlp.gate_proj", "mlp.up_proj")
        self.down = _of_layers(layers, "mlp.down_proj")
        self.head = single("lm_head", model.lm_head)
        self.attention_norms = [layer.get_parameter("input_layernorm.weight").detach() for layer in layers]
        self.mlp_norms = [layer.get_parameter("post_attention_layernorm.weight").detach() for layer in layers]
        heads = {"query_heads": self.heads.queries, "kv_heads": self.heads.keys}
        self.qk_norms = [qk_norm_of(layer.self_attn, **heads) for layer in layers]
        self.rotary = RotaryTable(model)
        widths = (config.hidden_size, self.heads.keys * self.heads.size, config.intermediate_size)
        self.node_step = _VECTOR // math.gcd(_VECTOR, *widths)
        """Rows of nodes that vector instructions divide evenly."""
        self.output_step = math.lcm(self.node_step, _VECTOR // math.gcd(_VECTOR, self.vocabulary))
        """The same of outputs."""

    def recomputes(self, nodes: int) -> bool:
        """Whether the layers of a pass over so many nodes are computed again in its backward pass."""
        if self._recompute is not None:
            return self._recompute
        # Inputs and outputs of the projections, and about as much between them.
        widths = sum(sum(each.weight_LOI.shape[1:]) for each in (self.qkv, self.attention_out, self.gate_up, self.down))
        size: int = 2 * nodes * widths * len(self.mlp_norms) * self.embedding.itemsize
        return size > _MOST_ACTIVATIONS

    def bind(self, adapters: Sequence[Adapter], trained: Sequence[bool]) -> "BoundLlama":
        return BoundLlama(self, adapters, trained)


class BoundLlama:
    """See `causal.BoundAdapters`."""

    @torch.no_grad()
    def __init__(self, model: LlamaFamilyModel, adapters: Sequence[Adapter], trained: Sequence[bool]) -> None:
        self._model = model
        self._adapters = [
            Bound(adapter=adapter, is_trained=flag, gradients={})
            for adapter, flag in zip(adapters, trained, strict=True)
        ]
        self._projections: list[AdaptedProjection] = []
        qkv, attention_out, gate_up, down, head = (
            self._adapted(projection)
            for projection in (model.qkv, model.attention_out, model.gate_up, model.down, model.head)
        )
        layers = [
            Layer(
                attention_norm=model.attention_norms[index],
                qkv=qkv.layers[index],
                qk_norm=model.qk_norms[index],
                attention_out=attention_out.layers[index],
                mlp_norm=model.mlp_norms[index],
                gate_up=gate_up.layers[index],
                down=down.layers[index],
            )
            for index in range(len(model.mlp_norms))
        ]
        self._weights = Weights(embedding=model.embedding, layers=tuple(layers), norm=model.norm, heads=model.heads)
        self._head = Head(head.layers[0], vocabulary=model.vocabulary)

    def outputs(self, readings: Sequence[Reading], *, distributions: bool = False) -> Sequence[Outputs]:
        model = self._model
        batches = [reading.batch for reading in readings]
        joined = join(batches, node_step=model.node_step, output_step=model.output_step)
        rotary = model.rotary.up_to(joined.longest)
        recompute = model.recomputes(len(joined.tokens_N))
        hidden_Md = decoder.hidden_states(self._weights, rotary, joined, recompute=recompute)
        return self._head.outputs(hidden_Md, joined.output_counts, readings, distributions=distributions)

    @torch.no_grad()
    def collect(self, accepted: Sequence[bool]) -> None:
        for projection in self._projections:
            projection.bring_home()
        for bound, is_accepted in zip(self._adapters, accepted, strict=True):
            if bound.is_trained and is_accepted:
                bound.adapter.accumulate(bound.gradients)

    def _adapted(self, projection: Projection) -> AdaptedProjection:
        made = AdaptedProjection(projection, self._adapters)
        self._projections.append(made)
        return made


def _of_layers(layers: Sequence[nn.Module], *names: str) -> Projection:
    """The projection of some linear modules that every layer has."""

    def submodule(index: int, name: str) -> tuple[str, nn.Linear]:
        found = layers[index].get_submodule(name)
        assert isinstance(found, nn.Linear)
        return f"model.layers.{index}.{name}", found

    return stacked([[submodule(index, name) for name in names] for index in range(len(layers))])
