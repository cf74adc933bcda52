"""What decoding needs of a language model: the seam between our own forward pass and `transformers`'."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.adapter import Adapter

Prompts = Sequence[NDArray[np.int32]]


class Batch(Protocol):
    """Prompts that are prefilled together, then decoded as rows; owns its KV cache."""

    def prefill(self) -> Iterator[None]:
        """Reads the prompts; yields between bounded pieces of work."""
        ...

    def last_logits(self) -> Tensor:
        """float32 [prompts, vocabulary]: what follows each prompt."""
        ...

    def logits_at(self, prompts_N: Tensor, positions_N: Tensor) -> Tensor:
        """float32 [N, vocabulary]: what follows these positions of these prompts; only where positions were kept."""
        ...

    def expand(self, prompt_of_row_B: Tensor) -> None:
        """Starts decoding: int64 [rows], sorted; row b continues prompt `prompt_of_row_B[b]`."""
        ...

    def keep(self, rows_B: Tensor) -> None:
        """Goes on with these rows only."""
        ...

    def step(self, tokens_B: Tensor) -> Tensor:
        """Reads one token of each row; float32 [rows, vocabulary], what follows."""
        ...


class AdaptedWeights(Protocol):
    """The weights of one model with one adapter or none, ready to run; what they hold beyond the base is their own."""

    @property
    def extra_bytes(self) -> int:
        """Memory held beyond the base model."""
        ...

    def batch(self, prompts: Prompts, *, keep_positions: bool) -> Batch:
        """A new batch of these prompts; with `keep_positions` to be scored, without to be decoded."""
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
