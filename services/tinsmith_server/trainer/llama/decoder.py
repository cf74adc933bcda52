"""Our own forward pass of the Llama family for training: it reads the nodes of `joined.py` and nothing twice.

`transformers` is the oracle: tests compare losses, logprobs and gradients.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tinsmith_server.models.llama_family import Rotary
from tinsmith_server.trainer.llama.attention import Heads, Places, attention
from tinsmith_server.trainer.llama.linear import Linear
from tinsmith_server.trainer.llama.rms_norm import rms_norm
from tinsmith_server.trainer.local.joined import Joined


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Weights of one decoder layer."""

    attention_norm: Tensor
    qkv: Linear
    qk_norm: Tensor | None
    """Norm weights of query heads, then key heads, [query_heads + kv_heads, head_size]; None where there are none."""
    attention_out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """All weights, an adapter included."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    heads: Heads


def hidden_states(weights: Weights, rotary: Rotary, batch: Joined, *, recompute: bool) -> Tensor:
    """The nodes that need logits, after the last norm: [M, d].

    `recompute` keeps of each layer its input alone and computes the rest again in the backward pass, bit for bit.
    """
    device, epsilon = weights.embedding.device, weights.heads.norm_epsilon
    places = Places(batch.grids, torch.from_numpy(batch.place_N), weights.heads, weights.embedding)
    outputs_M = torch.from_numpy(batch.outputs_M).to(device)
    here = rotary.at(torch.from_numpy(batch.positions_N).to(device))
    x = weights.embedding[torch.from_numpy(batch.tokens_N).to(device)]

    def inner(layer: Layer, x: Tensor) -> Tensor:
        qkv = layer.qkv(rms_norm(x, layer.attention_norm, epsilon), batch.node_counts)
        return _finish(layer, epsilon, x, attention(qkv, layer.qk_norm, here, places), batch.node_counts)

    def outermost(layer: Layer, x: Tensor) -> Tensor:
        # Behind the last attention only the nodes that are asked for matter.
        qkv = layer.qkv(rms_norm(x, layer.attention_norm, epsilon), batch.node_counts)
        attended = attention(qkv, layer.qk_norm, here, places, outputs_M)
        return _finish(layer, epsilon, x.index_select(0, outputs_M), attended, batch.output_counts)

    steps = [partial(inner, layer) for layer in weights.layers[:-1]] + [partial(outermost, weights.layers[-1])]
    if recompute and torch.is_grad_enabled():
        steps = [partial(checkpoint, step, use_reentrant=True, preserve_rng_state=False) for step in steps]
        x.requires_grad_()  # or the first layer would seem to need no backward pass
    for step in steps:
        x = step(x)
    return rms_norm(x, weights.norm, epsilon)


def _finish(layer: Layer, epsilon: float, x: Tensor, attended: Tensor, counts: tuple[int, ...]) -> Tensor:
    """The rest of the layer after attention."""
    x = x + layer.attention_out(attended, counts)
    gated: Tensor = _Gated.apply(layer.gate_up(rms_norm(x, layer.mlp_norm, epsilon), counts))
    return x + layer.down(gated, counts)


class _Gated(torch.autograd.Function):
    """silu(gate) * up of [gate, up] in one matrix; so is its gradient."""

    @staticmethod
    def forward(context: Any, gate_up: Tensor) -> Tensor:
        context.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        """d(silu(g) u) = (s u (1 + g (1 - s)), silu(g)) with s = sigmoid(g)."""
        (gate_up,) = context.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        found = torch.empty_like(gate_up)
        of_gate, of_up = found.chunk(2, dim=-1)
        share = torch.sigmoid(gate)
        active = gate * share
        torch.mul(gradient, active, out=of_up)
        # s + silu(g) (1 - s) = s (1 + g (1 - s))
        slope = torch.addcmul(share + active, active, share, value=-1)
        torch.mul(slope.mul_(up), gradient, out=of_gate)
        return found
