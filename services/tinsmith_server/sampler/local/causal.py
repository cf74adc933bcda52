"""What the sampler needs of a language model: the seam between our own forward pass and `transformers`'."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.adapter import Adapter

Prompts = Sequence[NDArray[np.int32]]


class ScoringBatch(Protocol):
    """Sequences that are read together to judge tokens at their positions."""

    def prefill(self) -> Iterator[None]:
        """Reads the sequences; yields between bounded pieces of work."""
        ...

    def logits_at(self, sequences_N: NDArray[np.int64], positions_N: NDArray[np.int64]) -> Tensor:
        """float32 [N, vocabulary]: what follows these positions of these sequences, the latter ascending."""
        ...


class AdaptedWeights(Protocol):
    """The weights of one model with one adapter or none, ready to run; what they hold beyond the base is their own."""

    @property
    def extra_bytes(self) -> int:
        """Memory held beyond the base model."""
        ...

    def scoring(self, sequences: Prompts) -> ScoringBatch:
        """A new batch of sequences to be judged."""
        ...


class CausalModel(Protocol):
    """A base model in memory."""

    name: str
    """As requests name it."""
    architecture: str
    parameters: int
    vocabulary: int
    """Number of rows of the output head: token ids are below it."""
    context: int
    """Longest sequence in tokens."""
    scored_together: int
    """Most prompt tokens, padding included, of a batch that keeps positions; a longer prompt is alone."""
    eos_ids: frozenset[int]
    device: torch.device

    def base(self) -> AdaptedWeights:
        """The model as it is."""
        ...

    def adapted(self, adapter: Adapter) -> AdaptedWeights:
        """The model with `adapter`; FailedPrecondition with reason ADAPTER_MISMATCH where it does not fit."""
        ...
