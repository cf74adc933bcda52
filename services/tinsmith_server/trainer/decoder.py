"""Our own forward pass of the Llama family for training: it reads the nodes of `layout.py` and nothing twice.

`transformers` is the oracle: tests compare losses, logprobs and gradients.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.models.llama_family import Rotary
from tinsmith_server.trainer.layout import Grid, MicroBatch
from tinsmith_server.trainer.linear import Linear
from tinsmith_server.trainer.rms_norm import rms_norm

_SHORT_ROW = 64
"""Up to this many keys plain matrix products beat torch's fused attention on a CPU, where its blocks stay empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of the model."""

    query_heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
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
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """All weights, an adapter included."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class GridTensors:
    """A `layout.Grid` on the device."""

    queries_RQ: Tensor
    keys_RK: Tensor
    mask_R1QK: Tensor | None
    """Added to the scores: 0 where a query sees a key, else minus infinity; None where causality says it."""

    @classmethod
    def of(cls, grid: Grid, like: Tensor) -> "GridTensors":
        queries_RQ = torch.from_numpy(grid.queries_RQ).to(like.device)
        keys_RK = torch.from_numpy(grid.keys_RK).to(like.device)
        mask = None
        if grid.visible_RQK is not None:
            hidden = torch.from_numpy(~grid.visible_RQK).to(like.device)
            mask = like.new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)[:, None]
        elif _is_short(keys_RK):
            mask = like.new_full((1, 1, *keys_RK.shape[1:] * 2), -math.inf).triu_(1)
        return cls(queries_RQ=queries_RQ, keys_RK=keys_RK, mask_R1QK=mask)


def hidden_states(weights: Weights, sizes: Sizes, rotary: Rotary, batch: MicroBatch) -> Tensor:
    """The nodes that need logits, after the last norm: [M, d]."""
    device = weights.embedding.device
    grids = [GridTensors.of(grid, weights.embedding) for grid in batch.grids]
    place_N = torch.from_numpy(batch.place_N).to(device)
    outputs_M = torch.from_numpy(batch.outputs_M).to(device)
    here = rotary.at(torch.from_numpy(batch.positions_N).to(device))
    x = weights.embedding[torch.from_numpy(batch.tokens_N).to(device)]
    for layer in weights.layers[:-1]:
        attended = _attention(layer, sizes, here, x, grids)
        x = _finish(layer, sizes, x, attended.index_select(0, place_N))
    # Behind the last attention only the nodes that are asked for matter.
    last = weights.layers[-1]
    attended = _attention(last, sizes, here, x, grids)
    x = _finish(last, sizes, x.index_select(0, outputs_M), attended.index_select(0, place_N[outputs_M]))
    return rms_norm(x, weights.norm, sizes.norm_epsilon)


def _attention(layer: Layer, sizes: Sizes, rotary: Rotary, x: Tensor, grids: list[GridTensors]) -> Tensor:
    """Attention outputs of the grids' queries, laid end to end: [places, query_heads * head_size]."""
    heads = layer.qkv(rms_norm(x, layer.attention_norm, sizes.norm_epsilon)).view(len(x), -1, sizes.head_size)
    qk, value_NHD = torch.split_with_sizes(heads, [sizes.query_heads + sizes.kv_heads, sizes.kv_heads], dim=1)
    if layer.qk_norm is not None:
        qk = rms_norm(qk, layer.qk_norm, sizes.norm_epsilon)
    query_NHD, key_NHD = torch.split_with_sizes(rotary(qk), [sizes.query_heads, sizes.kv_heads], dim=1)
    outputs = [_attend(query_NHD, key_NHD, value_NHD, grid) for grid in grids]
    return torch.cat(outputs)


def _attend(query_NHD: Tensor, key_NHD: Tensor, value_NHD: Tensor, grid: GridTensors) -> Tensor:
    """Attention of one grid, [rows * queries, query_heads * head_size]."""
    query_RQHD, key_RKHD, value_RKHD = (
        part.index_select(0, nodes.flatten()).view(*nodes.shape, *part.shape[1:])
        for part, nodes in ((query_NHD, grid.queries_RQ), (key_NHD, grid.keys_RK), (value_NHD, grid.keys_RK))
    )
    if grid.mask_R1QK is not None and _is_short(grid.keys_RK):
        attended = _attend_by_products(query_RQHD, key_RKHD, value_RKHD, grid.mask_R1QK)
    else:
        attended = F.scaled_dot_product_attention(
            query_RQHD.transpose(1, 2),
            key_RKHD.transpose(1, 2),
            value_RKHD.transpose(1, 2),
            attn_mask=grid.mask_R1QK,
            is_causal=grid.mask_R1QK is None,
            enable_gqa=key_NHD.shape[1] != query_NHD.shape[1],
        ).transpose(1, 2)
    return attended.reshape(grid.queries_RQ.numel(), -1)


def _is_short(keys_RK: Tensor) -> bool:
    return keys_RK.shape[1] <= _SHORT_ROW and keys_RK.device.type == "cpu"


def _attend_by_products(query_RQHD: Tensor, key_RKGD: Tensor, value_RKGD: Tensor, mask_R1QK: Tensor) -> Tensor:
    """The same written out; the query heads of one key head go through one product. [R, Q, H, D]."""
    rows, queries, heads, size = query_RQHD.shape
    keys, groups = key_RKGD.shape[1:3]
    of_group = heads // groups
    query = (
        query_RQHD.view(rows, queries, groups, of_group, size)
        .permute(0, 2, 3, 1, 4)
        .reshape(-1, of_group * queries, size)
    )
    key = key_RKGD.permute(0, 2, 3, 1).reshape(-1, size, keys)
    value = value_RKGD.transpose(1, 2).reshape(-1, keys, size)
    scores = torch.bmm(query, key).view(rows, heads, queries, keys)
    shares = torch.add(mask_R1QK, scores, alpha=size**-0.5).softmax(dim=-1)
    attended = torch.bmm(shares.view(-1, of_group * queries, keys), value)
    return attended.view(rows, groups, of_group, queries, size).permute(0, 3, 1, 2, 4)


def _finish(layer: Layer, sizes: Sizes, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of the layer after attention."""
    x = x + layer.attention_out(attended)
    gate_up = layer.gate_up(rms_norm(x, layer.mlp_norm, sizes.norm_epsilon))
    gate, up = torch.split_with_sizes(gate_up, [sizes.feed_forward] * 2, dim=-1)
    return x + layer.down(F.silu(gate) * up)
