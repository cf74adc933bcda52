"""Batches for training: the same numbers as a request of ours and as padded tensors for the peer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tinsmith.arrays import ragged
from tinsmith.trainer.v1 import CrossEntropyLoss, ImportanceSamplingLoss, LossSpec
from tinsmith.types.v1 import Column, DatumBatch

CROSS_ENTROPY = LossSpec(cross_entropy=CrossEntropyLoss())
IMPORTANCE_SAMPLING = LossSpec(importance_sampling=ImportanceSamplingLoss())


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """Sequences whose tokens after the prompt count."""

    sequences: Sequence[NDArray[np.int64]]
    """Each [T + 1]: the model reads the first T and is judged by the last T."""
    prompt: int = 1
    """Tokens at the beginning of each that are not judged; 1 judges all."""
    advantages: Sequence[float] | None = None
    """One a sequence: importance sampling. None: cross-entropy with all weights 1."""

    @property
    def tokens(self) -> int:
        """Read by the model."""
        return sum(len(row) - 1 for row in self.sequences)

    @property
    def loss(self) -> LossSpec:
        return CROSS_ENTROPY if self.advantages is None else IMPORTANCE_SAMPLING

    def request(self) -> DatumBatch:
        """As the wire has it."""
        columns = {"target_tokens": ragged([row[1:] for row in self.sequences], np.int64)}
        if self.advantages is None:
            columns["weights"] = ragged(self._after_prompt([1.0] * len(self.sequences)), np.float32)
        else:
            columns["advantages"] = ragged(self._after_prompt(self.advantages), np.float32)
            columns["logprobs"] = ragged(self._after_prompt([_LOGPROB] * len(self.sequences)), np.float32)
        return DatumBatch(
            tokens=ragged([row[:-1] for row in self.sequences], np.int32),
            loss_inputs={name: Column(ragged=column) for name, column in columns.items()},
        )

    def _after_prompt(self, values: Sequence[float]) -> list[NDArray[np.float32]]:
        rows = [np.full(len(row) - 1, value, np.float32) for row, value in zip(self.sequences, values, strict=True)]
        for row in rows:
            row[: self.prompt - 1] = 0
        return rows

    def by_length(self, padded_tokens: int) -> list["Examples"]:
        """Micro-batches of alike lengths, each at most this many tokens once padded: a careful loop's."""
        order = sorted(range(len(self.sequences)), key=lambda row: len(self.sequences[row]))
        batches: list[list[int]] = [[]]
        for row in order:
            if len(self.sequences[row]) * (len(batches[-1]) + 1) > padded_tokens:
                batches.append([])
            batches[-1].append(row)
        return [self._some(rows) for rows in batches if rows]

    def _some(self, rows: Sequence[int]) -> "Examples":
        chosen = None if self.advantages is None else [self.advantages[row] for row in rows]
        return Examples(sequences=[self.sequences[row] for row in rows], prompt=self.prompt, advantages=chosen)


_LOGPROB = -7.0
"""What the sampler is said to have given each token; its value costs nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Padded:
    """Examples as the peer reads them, [rows, T] each."""

    tokens: torch.Tensor
    mask: torch.Tensor | None
    """None where no row is padded, which lets attention take its quick way."""
    targets: torch.Tensor
    factor: torch.Tensor
    """Weight or advantage, 0 where a token does not count."""

    @classmethod
    def of(cls, examples: Examples, device: str) -> "Padded":
        longest = max(map(len, examples.sequences)) - 1
        rows = len(examples.sequences)
        tokens, targets = np.zeros((rows, longest), np.int64), np.zeros((rows, longest), np.int64)
        mask, factor = np.zeros((rows, longest), np.int64), np.zeros((rows, longest), np.float32)
        values = examples.advantages or [1.0] * rows
        for number, (row, value) in enumerate(zip(examples.sequences, values, strict=True)):
            length = len(row) - 1
            tokens[number, :length], targets[number, :length] = row[:-1], row[1:]
            mask[number, :length], factor[number, examples.prompt - 1 : length] = 1, value

        def tensor(array: NDArray[Any]) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            tokens=tensor(tokens),
            mask=None if mask.all() else tensor(mask),
            targets=tensor(targets),
            factor=tensor(factor),
        )


def policy_loss(logprobs: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """-sum r A, as `loss.proto` has importance_sampling."""
    return -((logprobs - _LOGPROB).exp() * advantages).sum()
