"""What the trainer needs of a base model, whichever forward pass computes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.llama.layout import MicroBatch
from tinsmith_server.trainer.local.adapter import AdaptedMatrix, Adapter


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What the model says of the targets of one micro-batch."""

    logprobs: Tensor
    """float32 [P], or [P, K] for K targets a token."""
    distributions: Tensor | None = None
    """Logprobs of the whole vocabulary where each target stands, float32 [P, V]; None when they were not asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A micro-batch that a model shall read with its own adapter."""

    batch: MicroBatch
    targets: Tensor
    """int64 [P] or [P, K]."""


class BoundAdapters(Protocol):
    """A base model with one or more adapters, for the length of one training call of each."""

    def outputs(self, readings: Sequence[Reading], *, distributions: bool = False) -> Sequence[Outputs]:
        """One an adapter, in their order, with a gradient unless torch's is switched off. Each is bit for bit what the
        adapter gives alone."""
        ...

    def collect(self, accepted: Sequence[bool]) -> None:
        """Adds to each accepted adapter's gradients what the backward passes since `bind` have found for it."""
        ...


class CausalModel(Protocol):
    """A base model in memory, shared by all adapters. Used on the torch thread only."""

    name: str
    architecture: str
    parameters: int
    vocabulary: int
    context: int
    """Longest sequence in tokens."""
    device: torch.device
    reads_together: bool
    """Whether several adapters in one `bind` are read in one pass."""

    def matrices(self, shape: LoraShape) -> Sequence[AdaptedMatrix]:
        """What an adapter of this shape changes. FailedPrecondition with reason BASE_MODEL_UNSUPPORTED when the model
        has no matrix of a kind that is asked for."""
        ...

    def parameter(self, name: str) -> Tensor | None:
        """A weight of the base model by its name in it; None when it has none such."""
        ...

    def copy(self) -> PreTrainedModel:
        """The model once more, on the CPU. Any thread may make one."""
        ...

    def bind(self, adapters: Sequence[Adapter], trained: Sequence[bool]) -> BoundAdapters:
        """Lays out the adapters beside the base weights; `trained` tells which of them shall get gradients."""
        ...
