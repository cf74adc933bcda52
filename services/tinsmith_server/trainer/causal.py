"""What the trainer needs of a base model, whichever forward pass computes it."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.adapter import AdaptedMatrix, Adapter
from tinsmith_server.trainer.layout import MicroBatch


class BoundAdapter(Protocol):
    """A base model with one adapter, for the length of one training call."""

    def logprobs(self, batch: MicroBatch, targets: Tensor) -> Tensor:
        """Logprobs float32 of `targets` int64, [P] or [P, K], with a gradient unless torch's is switched off."""
        ...

    def collect(self) -> None:
        """Adds to the adapter's gradients what the backward passes since `bind` have found."""
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

    def matrices(self, shape: LoraShape) -> Sequence[AdaptedMatrix]:
        """What an adapter of this shape changes. FailedPrecondition with reason BASE_MODEL_UNSUPPORTED when the model
        has no matrix of a kind that is asked for."""
        ...

    def bind(self, adapter: Adapter) -> BoundAdapter:
        """Lays out the adapter beside the base weights."""
        ...
