"""Our own forward pass of the Llama family (Llama, Qwen2, Qwen3): `transformers` arithmetic without its overhead.

Measured against the eager `transformers` forward on one core (`make bench` prints today's ratio), it wins by one matrix
for q, k and v, one norm and one rotation for q and k together, and a KV cache (`kv_cache.py`) that holds the prompt's
part once for all answers of a group and never concatenates. `transformers` stays the oracle: tests compare the two
token for token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.models.llama_family import Rotary
from tinsmith_server.sampler.kv_cache import LayerCache, Rows
from tinsmith_server.sampler.linear import Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of the model."""

    query_heads: int
    kv_heads: int
    head_size: int
    norm_epsilon: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Weights of one decoder layer."""

    attention_norm: Tensor
    qkv: Linear
    qk_norm: Tensor | None
    """Norm weights of query heads, then key heads, [query_heads + kv_heads, head_size]; None where there are none."""
    attention_out: Linear
    mlp_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """All weights of one model, base or adapted."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Zhang and Sennrich 2019, over the last dimension, in float32."""
    x32 = x.float()
    norm: Tensor = torch.linalg.vector_norm(x32, dim=-1, keepdim=True)
    mean_square = norm.square_().mul_(1 / x.shape[-1])
    return (x32 * mean_square.add_(epsilon).rsqrt_()).to(x.dtype) * weight


def prefill(
    weights: Weights, shape: Shape, rotary: Rotary, tokens_PT: Tensor, last_P: Tensor | None
) -> tuple[Tensor, list[LayerCache]]:
    """Reads prompts padded on the right. Returns hidden states and the KV cache of each layer.

    The hidden states are those of all places, [P * T, d]; given `last_P`, the place of each prompt's last token, only
    those, [P, d], and the last layer works for no others. Padding on the right needs no mask: under the causal mask no
    token sees what stands behind it, and the cache's owner hides the padding from later tokens.
    """
    prompts, length = tokens_PT.shape
    x = weights.embedding[tokens_PT.reshape(-1)]
    here = rotary.at(torch.arange(length, device=x.device).repeat(prompts))
    caches = []
    for layer in weights.layers:
        query, key, value = (
            part.view(prompts, length, -1, shape.head_size).transpose(1, 2) for part in _qkv(layer, shape, here, x)
        )
        caches.append(LayerCache.of_prompt(key, value))
        if last_P is not None and layer is weights.layers[-1]:
            attended = _attend_from(last_P, query, key, value)
            x = x[torch.arange(prompts, device=x.device) * length + last_P]
        else:
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = _finish(layer, shape, x, attended.transpose(1, 2).reshape(len(x), -1))
    return rms_norm(x, weights.norm, shape.norm_epsilon), caches


def _attend_from(places_P: Tensor, query_PHTD: Tensor, key_PHTD: Tensor, value_PHTD: Tensor) -> Tensor:
    """Causal attention from one place of each prompt, [P, H, 1, D]."""
    prompts, _, length, _ = key_PHTD.shape
    everywhere = torch.arange(length, device=places_P.device)
    seen_P11T = (everywhere <= places_P[:, None])[:, None, None]
    query_PH1D = query_PHTD[torch.arange(prompts, device=places_P.device), :, places_P][:, :, None]
    return F.scaled_dot_product_attention(query_PH1D, key_PHTD, value_PHTD, attn_mask=seen_P11T, enable_gqa=True)


def decode(
    weights: Weights, shape: Shape, rotary: Rotary, tokens_B: Tensor, rows: Rows, caches: list[LayerCache]
) -> Tensor:
    """Reads one more token of each row; `rows` says where it stands. Returns hidden states [B, d]."""
    x = weights.embedding[tokens_B]
    here = rotary.at(rows.positions_B)
    for layer, cache in zip(weights.layers, caches, strict=True):
        query, key, value = _qkv(layer, shape, here, x)
        x = _finish(layer, shape, x, cache.attend(query, key, value, rows))
    return rms_norm(x, weights.norm, shape.norm_epsilon)


def _qkv(layer: Layer, shape: Shape, rotary: Rotary, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [tokens, query heads, D], keys and values [tokens, KV heads, D], positions rotated in."""
    heads = layer.qkv(rms_norm(x, layer.attention_norm, shape.norm_epsilon)).view(len(x), -1, shape.head_size)
    rotated = shape.query_heads + shape.kv_heads
    qk = heads[:, :rotated]
    if layer.qk_norm is not None:
        qk = rms_norm(qk, layer.qk_norm, shape.norm_epsilon)
    qk = rotary(qk)
    return qk[:, : shape.query_heads], qk[:, shape.query_heads :], heads[:, rotated:]


def _finish(layer: Layer, shape: Shape, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of the layer after attention."""
    x = x + layer.attention_out(attended)
    normed = rms_norm(x, layer.mlp_norm, shape.norm_epsilon)
    return x + layer.down(F.silu(layer.gate(normed)).mul_(layer.up(normed)))
