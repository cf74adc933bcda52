"""AdamW (Loshchilov and Hutter 2019), with the gradient clipped by its global norm first.

g <- g min(1, clip / |g|)                       m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
w <- w (1 - lr decay) - lr / (1 - b1^t)  m / (sqrt(v) / sqrt(1 - b2^t) + eps)
"""

import math

import torch

from tinsmith_server.serving.errors import Internal
from tinsmith_server.trainer.local.adapter import Adapter
from tinsmith_server.trainer.request import AdamParams


class AdamW:
    """Moments of an adapter's numbers, and how many steps they have seen."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self.mean = torch.zeros_like(adapter.values)
        """First moment, float32 [size]."""
        self.mean_square = torch.zeros_like(adapter.values)
        """Second moment, float32 [size]."""
        self.step = 0

    def reset(self) -> None:
        """As before the first step."""
        self.mean.zero_()
        self.mean_square.zero_()
        self.step = 0

    def apply(self, params: AdamParams) -> float:
        """One step with the accumulated gradients, which are cleared; returns their norm before clipping.

        Raises Internal with reason NON_FINITE_GRADIENT, with the weights unchanged, when one is not finite.
        """
        gradients = self._adapter.gradients
        norm = float(torch.linalg.vector_norm(gradients, dtype=torch.float64))
        if not math.isfinite(norm):
            self._adapter.clear_gradients()
            raise Internal(
                "a gradient is not finite, so it was dropped; look at the advantages and weights of the batch, or "
                "lower the learning rate",
                reason="NON_FINITE_GRADIENT",
            )
        if 0 < params.grad_clip_norm < norm:
            gradients.mul_(params.grad_clip_norm / norm)
        self._update(params)
        self._adapter.clear_gradients()
        return norm

    def _update(self, params: AdamParams) -> None:
        gradients, values = self._adapter.gradients, self._adapter.values
        self.step += 1
        correction1 = 1 - params.beta1**self.step
        correction2 = 1 - params.beta2**self.step
        self.mean.lerp_(gradients, 1 - params.beta1)
        self.mean_square.mul_(params.beta2).addcmul_(gradients, gradients, value=1 - params.beta2)
        values.mul_(1 - params.learning_rate * params.weight_decay)
        denominator = self.mean_square.sqrt().div_(math.sqrt(correction2)).add_(params.eps)
        values.addcdiv_(self.mean, denominator, value=-params.learning_rate / correction1)
