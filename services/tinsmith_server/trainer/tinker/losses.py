"""Which of our losses the service computes as we define them. It is sent those; the rest is computed from its logprobs.

The service's gspo is defined token by token, ours over the sequence, and its dro counts tokens that were not sampled,
which ours leaves out: so the first is never sent, the second only when every token counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tinker.types import LossFnType

from tinsmith_server.trainer.losses import Cispo, CrossEntropy, Dro, ImportanceSampling, Ppo
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import TrainingCall


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceLoss:
    """A loss by the service's name, with its configuration."""

    name: LossFnType
    config: Mapping[str, float] | None = None


CROSS_ENTROPY = ServiceLoss(name="cross_entropy")


def service_loss(call: TrainingCall) -> ServiceLoss | None:
    """The service's loss that gives the same numbers of a checked call; None when there is none."""
    if call.terms:
        return None
    match call.loss:
        case CrossEntropy():
            return CROSS_ENTROPY
        case ImportanceSampling():
            return ServiceLoss(name="importance_sampling")
        case Ppo() as loss:
            return ServiceLoss(name="ppo", config=_clip(loss))
        case Cispo() as loss:
            return ServiceLoss(name="cispo", config=_clip(loss))
        case Dro() as loss if _all_count(call):
            return ServiceLoss(name="dro", config={"beta": loss.beta})
        case _:
            return None


def _all_count(call: TrainingCall) -> bool:
    columns = {name: column.values for name, column in call.batch.columns.items() if isinstance(column, Ragged)}
    return bool(call.loss.counts({name: torch.from_numpy(values) for name, values in columns.items()}).all())


def _clip(loss: Ppo | Cispo) -> Mapping[str, float]:
    return {"clip_low_threshold": loss.clip_low, "clip_high_threshold": loss.clip_high}
