"""Our own forward pass of the Llama family (Llama, Qwen2, Qwen3): `transformers` arithmetic without its overhead.

Measured against the eager `transformers` forward on one core (`make bench` prints today's ratio), it wins by one matrix
for q, k and v, one for gate and up, one norm and one rotation for q and k together, and a KV cache that holds a group's
prompt once and never concatenates. `transformers` stays the oracle: tests compare the two token for token.

All tokens of a pass, whatever sequences they belong to, are rows of the same matrices; attention is the caller's.
"""

from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.models.llama_family import Rotary
from tinsmith_server.sampler.engine.adapter_rows import AdapterRows
from tinsmith_server.sampler.engine.linear import Linear
from tinsmith_server.sampler.engine.row_products import RowProducts


class Site(IntEnum):
    """The fused matrices of a layer."""

    QKV = 0
    OUT = 1
    GATE_UP = 2
    DOWN = 3


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
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """All weights of a base model."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear
    shape: Shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Pass:
    """What all layers of one pass over some rows share."""

    weights: Weights
    products: RowProducts
    adapters: AdapterRows
    rotary: Rotary
    """Factors of the rows' positions."""

    def qkv(self, index: int, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [rows, query heads, D], keys and values [rows, KV heads, D], positions rotated in."""
        layer, shape = self.weights.layers[index], self.weights.shape
        normed = rms_norm(x, layer.attention_norm, shape.norm_epsilon)
        heads = self._product(layer.qkv, 4 * index + Site.QKV, normed).view(len(x), -1, shape.head_size)
        rotated = shape.query_heads + shape.kv_heads
        qk = heads[:, :rotated]
        if layer.qk_norm is not None:
            qk = rms_norm(qk, layer.qk_norm, shape.norm_epsilon)
        qk = self.rotary(qk)
        return qk[:, : shape.query_heads], qk[:, shape.query_heads :], heads[:, rotated:]

    def finish(self, index: int, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer after attention."""
        layer = self.weights.layers[index]
        x = x + self._product(layer.out, 4 * index + Site.OUT, attended)
        normed = rms_norm(x, layer.mlp_norm, self.weights.shape.norm_epsilon)
        gate, up = self._product(layer.gate_up, 4 * index + Site.GATE_UP, normed).chunk(2, dim=-1)
        return x + self._product(layer.down, 4 * index + Site.DOWN, F.silu(gate).mul_(up))

    def norm(self, x: Tensor) -> Tensor:
        """Hidden states after the last layer, ready for the head."""
        return rms_norm(x, self.weights.norm, self.weights.shape.norm_epsilon)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [rows, vocabulary]."""
        return self._product(self.weights.head, 4 * len(self.weights.layers), hidden).float()

    def _product(self, linear: Linear, site: int, x: Tensor) -> Tensor:
        return self.adapters.add(site, x, self.products(linear, x))


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Zhang and Sennrich 2019, over the last dimension, in float32."""
    x32 = x.float()
    scale = x32.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    return (x32 * scale).to(x.dtype).mul_(weight)
