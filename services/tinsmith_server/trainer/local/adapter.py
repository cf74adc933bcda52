"""A low-rank adapter and its gradients: W x + (alpha / rank) B A x (Hu et al. 2021).

All numbers of an adapter lie in one float32 vector, its gradients in another, so that an optimizer step is a handful of
vector operations whatever the number of matrices.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tinsmith_server.storage import LoraShape


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptedMatrix:
    """A matrix of the base model that an adapter changes."""

    path: str
    """Its module's path, for example "model.layers.0.mlp.up_proj"."""
    inputs: int
    outputs: int
    is_transposed: bool = False
    """Whether the base model keeps it as [in, out], as GPT-2 does; the adapter's halves are the same either way."""


class Halves(NamedTuple):
    """A [rank, in] and B [out, rank]."""

    a_RI: Tensor
    b_OR: Tensor


class Adapter:
    """Trainable halves for some matrices, their gradients, and the scale of their product."""

    def __init__(self, matrices: Sequence[AdaptedMatrix], shape: LoraShape, device: torch.device | str = "cpu") -> None:
        self.matrices = tuple(matrices)
        self.shape = shape
        self.size = sum((matrix.inputs + matrix.outputs) * shape.rank for matrix in matrices)
        self.values = torch.zeros(self.size, device=device)
        """float32 [size]."""
        self.gradients = torch.zeros(self.size, device=device)
        """float32 [size]; what has been accumulated since the last optimizer step."""
        self.has_gradients = False
        """Whether anything has been."""
        self.halves: Mapping[str, Halves] = {
            matrix.path: Halves(a_RI, b_OR) for matrix, a_RI, b_OR in self.split(self.values)
        }
        """Views of `values` by path."""

    @property
    def scale(self) -> float:
        return self.shape.alpha / self.shape.rank

    def initialise(self) -> None:
        """PEFT's start: A uniform as `kaiming_uniform_` with a = sqrt(5) draws it, B zero. Drawn on the CPU from the
        shape's seed alone, so that every machine begins alike."""
        generator = torch.Generator().manual_seed(self.shape.seed)
        self.values.zero_()
        for matrix in self.matrices:
            bound = 1 / math.sqrt(matrix.inputs)
            a_RI = torch.empty(self.shape.rank, matrix.inputs).uniform_(-bound, bound, generator=generator)
            self.halves[matrix.path].a_RI.copy_(a_RI)

    def accumulate(self, gradients: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Adds gradients of A and of B, each flat, by path; there are none, or those of all matrices."""
        self.has_gradients = True
        if not gradients:
            return
        parts = [part for matrix in self.matrices for part in gradients[matrix.path]]
        self.gradients.add_(torch.cat(parts))

    def clear_gradients(self) -> None:
        """As after an optimizer step."""
        self.gradients.zero_()
        self.has_gradients = False

    def split(self, vector: Tensor) -> Iterator[tuple[AdaptedMatrix, Tensor, Tensor]]:
        """A vector [size] as one pair of views [rank, in], [out, rank] a matrix, in order."""
        rank = self.shape.rank
        start = 0
        for matrix in self.matrices:
            middle = start + rank * matrix.inputs
            end = middle + matrix.outputs * rank
            yield matrix, vector[start:middle].view(rank, matrix.inputs), vector[middle:end].view(matrix.outputs, rank)
            start = end
