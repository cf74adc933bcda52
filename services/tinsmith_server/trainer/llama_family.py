"""Llama, Qwen2 and Qwen3 checkpoints on our own forward pass (`decoder.py`)."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinsmith_server.models.llama_family import RotaryTable, qk_norm_of
from tinsmith_server.trainer import decoder
from tinsmith_server.trainer.adapter import Adapter
from tinsmith_server.trainer.decoder import Layer, Sizes, Weights
from tinsmith_server.trainer.head import target_logprobs
from tinsmith_server.trainer.layout import MicroBatch
from tinsmith_server.trainer.linear import GradientBridge, Linear, Projection, adapted, fused, single
from tinsmith_server.trainer.model_facts import ModelFacts


class LlamaFamilyModel(ModelFacts):
    """A base model in memory; see `causal.CausalModel`."""

    def __init__(self, model: PreTrainedModel, *, name: str) -> None:
        super().__init__(model, name=name)
        config = model.config
        self.sizes = Sizes(
            query_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            feed_forward=config.intermediate_size,
            norm_epsilon=config.rms_norm_eps,
        )
        self.embedding = model.model.embed_tokens.weight.detach()
        self.norm = model.model.norm.weight.detach()
        self.head = single("lm_head", model.lm_head)
        self.layers = [_BaseLayer(f"model.layers.{index}", module) for index, module in enumerate(model.model.layers)]
        heads = {"query_heads": self.sizes.query_heads, "kv_heads": self.sizes.kv_heads}
        self._qk_norms = [qk_norm_of(module.self_attn, **heads) for module in model.model.layers]
        self.rotary = RotaryTable(model)

    def bind(self, adapter: Adapter) -> "BoundLlama":
        return BoundLlama(self, adapter)

    def qk_norm(self, index: int) -> Tensor | None:
        """Norm weights of the heads of one layer."""
        return self._qk_norms[index]


class BoundLlama:
    """See `causal.BoundAdapter`."""

    def __init__(self, model: LlamaFamilyModel, adapter: Adapter) -> None:
        self._model = model
        self._bridge = GradientBridge()

        def linear(projection: Projection) -> Linear:
            return adapted(projection, adapter, self._bridge)

        layers = [
            Layer(
                attention_norm=base.attention_norm,
                qkv=linear(base.qkv),
                qk_norm=model.qk_norm(index),
                attention_out=linear(base.attention_out),
                mlp_norm=base.mlp_norm,
                gate_up=linear(base.gate_up),
                down=linear(base.down),
            )
            for index, base in enumerate(model.layers)
        ]
        self._weights = Weights(embedding=model.embedding, layers=tuple(layers), norm=model.norm)
        self._head = linear(model.head)

    def logprobs(self, batch: MicroBatch, targets: Tensor) -> Tensor:
        rotary = self._model.rotary.up_to(int(batch.lengths_R.max()))
        hidden_Md = decoder.hidden_states(self._weights, self._model.sizes, rotary, batch)
        outputs = torch.from_numpy(batch.output_of_target_P).to(hidden_Md.device)
        return target_logprobs(self._head, hidden_Md, outputs, targets, self._model.vocabulary)

    def collect(self) -> None:
        self._bridge.carry()


class _BaseLayer:
    """Frozen weights of one decoder layer."""

    def __init__(self, path: str, module: nn.Module) -> None:
        def submodule(name: str) -> tuple[str, nn.Linear]:
            found = module.get_submodule(name)
            assert isinstance(found, nn.Linear)
            return f"{path}.{name}", found

        self.attention_norm = module.get_parameter("input_layernorm.weight").detach()
        self.qkv = fused([submodule(f"self_attn.{name}") for name in ("q_proj", "k_proj", "v_proj")])
        self.attention_out = single(*submodule("self_attn.o_proj"))
        self.mlp_norm = module.get_parameter("post_attention_layernorm.weight").detach()
        self.gate_up = fused([submodule(f"mlp.{name}") for name in ("gate_proj", "up_proj")])
        self.down = single(*submodule("mlp.down_proj"))
