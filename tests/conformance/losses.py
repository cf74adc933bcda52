"""Every loss as the contract defines it, in numpy, with examples for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conformance.calls import ROWS, batch, column
from tinsmith.trainer.v1 import (
    CispoLoss,
    CrossEntropyLoss,
    CustomLoss,
    DroLoss,
    GspoLoss,
    ImportanceSamplingLoss,
    LossNode,
    LossSpec,
    PpoLoss,
    Regularizer,
    RegularizerKind,
)
from tinsmith.types.v1 import Column, DatumBatch

Array = NDArray[Any]
Formula = Callable[[Array, Array, Array, Array], float]
"""p, q and A of all tokens, and the p where the stop-gradient stands -> the loss."""
_TOKENS = sum(map(len, ROWS))


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyLoss:
    """A loss of the sampler's logprobs q and advantages A."""

    spec: LossSpec
    formula: Formula
    prompts: bool = False
    """Whether some tokens were not sampled: q and A both 0."""

    def columns(self, sampled: Array, advantages: Array) -> dict[str, Column | None]:
        """What a batch needs for it."""
        return {
            "weights": None,
            "logprobs": column(split(sampled), np.float32),
            "advantages": column(split(advantages), np.float32),
        }

    def data(self, logprobs: Array) -> tuple[DatumBatch, Array, Array]:
        """Examples of which the model, with these logprobs, has moved away; with their q and A."""
        chance = np.random.default_rng(0)
        sampled = (logprobs + chance.normal(0, 0.3, _TOKENS)).astype(np.float32)
        advantages = chance.normal(0, 1, _TOKENS).astype(np.float32)
        if self.prompts:
            sampled[:2], advantages[:2] = 0, 0
        return batch(**self.columns(sampled, advantages)), sampled, advantages


def split(flat: Array) -> list[Array]:
    """All tokens' values as rows of examples."""
    return np.split(flat, np.cumsum([len(row) for row in ROWS])[:-1])


def _ppo(p: Array, q: Array, a: Array, held: Array) -> float:
    r = np.exp(p - q)
    return -float(np.minimum(r * a, np.clip(r, 0.9, 1.1) * a).sum())


def _cispo(p: Array, q: Array, a: Array, held: Array) -> float:
    return -float((np.clip(np.exp(held - q), 0.5, 1.5) * p * a).sum())


def _dro(p: Array, q: Array, a: Array, held: Array) -> float:
    sampled = ~((q == 0) & (a == 0))
    return -float((p * a - 0.05 * (p - q) ** 2)[sampled].sum())


def _gspo(p: Array, q: Array, a: Array, held: Array) -> float:
    total = 0.0
    for change, advantage in zip(split(p - q), split(a), strict=True):
        s = np.exp(change[advantage != 0].mean())
        total -= np.minimum(s * advantage, np.clip(s, 0.95, 1.05) * advantage).sum()
    return float(total)


POLICY_LOSSES = {
    "importance_sampling": PolicyLoss(
        spec=LossSpec(importance_sampling=ImportanceSamplingLoss()),
        formula=lambda p, q, a, _: -float((np.exp(p - q) * a).sum()),
    ),
    "ppo": PolicyLoss(spec=LossSpec(ppo=PpoLoss(clip_low=0.9, clip_high=1.1)), formula=_ppo),
    "cispo": PolicyLoss(spec=LossSpec(cispo=CispoLoss(clip_low=0.5, clip_high=1.5)), formula=_cispo),
    "dro": PolicyLoss(spec=LossSpec(dro=DroLoss(beta=0.1)), formula=_dro),
    "dro with prompts": PolicyLoss(spec=LossSpec(dro=DroLoss(beta=0.1)), formula=_dro, prompts=True),
    "gspo": PolicyLoss(spec=LossSpec(gspo=GspoLoss(clip_low=0.95, clip_high=1.05)), formula=_gspo),
}

CUSTOM = LossSpec(
    custom=CustomLoss(
        nodes=[
            LossNode(name="p", operation="logprobs"),
            LossNode(name="all", operation="sum", arguments=["p"]),
            LossNode(name="negative", operation="neg", arguments=["all"]),
            LossNode(name="loss", operation="sqrt", arguments=["negative"]),
        ]
    )
)
"""sqrt(-sum p), which is no sum over examples."""

REGULARIZED = LossSpec(
    cross_entropy=CrossEntropyLoss(),
    regularizers=[Regularizer(name="small", kind=RegularizerKind.REGULARIZER_KIND_L2, weight=0.5)],
)
