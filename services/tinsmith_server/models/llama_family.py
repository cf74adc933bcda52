"""What Llama, Qwen2 and Qwen3 checkpoints have in common, for forward passes of our own."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

_FAMILY = frozenset({"llama", "qwen2", "qwen3"})
_STATIC_ROTARY = frozenset({"default", "linear", "llama3", "yarn"})


def is_plain_member(model: PreTrainedModel) -> bool:
    """Whether the model is of this family with nothing that changes its arithmetic, such as windowed attention."""
    config = model.config
    return (
        config.model_type in _FAMILY
        and config.hidden_act == "silu"
        and config.rope_parameters.get("rope_type", "default") in _STATIC_ROTARY
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rotary:
    """Rotary position embedding of Su et al. 2021 as two factors: x cos + swap(x) sin, swap exchanging the halves."""

    cos: Tensor
    """[positions, 1, head_size]."""
    signed_sin: Tensor
    """Same shape; the first half carries the minus sign of the rotation."""

    def at(self, positions: Tensor) -> "Rotary":
        """The factors of these positions, one a token."""
        return Rotary(cos=self.cos[positions], signed_sin=self.signed_sin[positions])

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, heads, head_size] -> the same, rotated."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.signed_sin)

    def back(self, x: Tensor) -> Tensor:
        """The same, rotated the other way; so are gradients taken back."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.signed_sin, value=-1)


class RotaryTable:
    """The factors of a model, from its own rotary module, computed as far as they were needed."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._module = model.model.rotary_emb
        self._like = torch.empty(1, device=model.device, dtype=model.dtype)
        self._known = Rotary(cos=torch.empty(0), signed_sin=torch.empty(0))

    def up_to(self, positions: int) -> Rotary:
        """Factors of at least `positions` positions."""
        if len(self._known.cos) < positions:
            ids = torch.arange(1 << (positions - 1).bit_length(), device=self._like.device)
            cos, sin = self._module(self._like, ids[None])
            half = cos.shape[-1] // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
            self._known = Rotary(cos=cos[0][:, None], signed_sin=sin[0][:, None])
        return self._known


def qk_norm_of(attention: nn.Module, *, query_heads: int, kv_heads: int) -> Tensor | None:
    """Norm weights of query heads, then key heads, [query_heads + kv_heads, head_size]; None where there are none."""
    if not hasattr(attention, "q_norm"):
        return None
    query = attention.get_parameter("q_norm.weight").detach().expand(query_heads, -1)
    key = attention.get_parameter("k_norm.weight").detach().expand(kv_heads, -1)
    return torch.cat([query, key])
