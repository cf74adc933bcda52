"""A regularizer as a request names it: its weight, and which columns and logprobs it reads."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.local.causal import Outputs
from tinsmith_server.trainer.losses.base import SEQUENCES, TARGETS, Columns
from tinsmith_server.trainer.losses.needs import Need, Shape
from tinsmith_server.trainer.ragged import Array, Ragged, SparseRagged
from tinsmith_server.trainer.regularizers.base import Regularizer, Seen
from tinsmith_server.trainer.regularizers.consistency import Consistency
from tinsmith_server.trainer.regularizers.orthogonality import MOST_PAIRS, MOST_ROWS, Orthogonality
from tinsmith_server.trainer.regularizers.settings import bad


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """weight times a penalty."""

    name: str
    weight: float
    regularizer: Regularizer
    over_vocabulary: bool = False
    mask: str = ""
    """Column whose tokens that are not 0 are read; empty reads all."""
    reference: str = ""

    @property
    def needs(self) -> Mapping[str, Need]:
        """Columns that it reads."""
        reader, wide = f"regularizer {self.name!r}", Shape.VOCABULARY if self.over_vocabulary else Shape.TARGETS
        mask = {self.mask: Need(kind=None, shape=Shape.TOKENS_OR_TARGETS, reader=reader)} if self.mask else {}
        reference = {self.reference: Need(kind=float, shape=wide, reader=reader)} if self.reference else {}
        return mask | reference

    def counts(self, columns: Columns) -> Tensor:
        """Which tokens it reads, bool [tokens]."""
        if not self.mask:
            return torch.ones(len(columns[TARGETS]), dtype=torch.bool, device=columns[TARGETS].device)
        chosen = columns[self.mask] != 0
        return chosen.any(dim=1) if chosen.ndim == 2 else chosen

    def check(self, columns: Mapping[str, Ragged | SparseRagged], vocabulary: int) -> None:
        """Whether it can be computed with these columns, which are as `needs` says.

        InvalidArgument with reason BAD_REGULARIZER, BATCH_TOO_LARGE or BAD_TENSOR.
        """
        targets = columns[TARGETS].values
        has_outcomes = self.over_vocabulary or targets.ndim == 2
        wanted = self.regularizer.of_distributions
        if wanted is not None and wanted != has_outcomes:
            needs, has = ("distributions", "1-D targets") if wanted else ("sampled tokens", "distributions")
            raise bad(
                self.name,
                f"({self.regularizer.kind}) needs {needs}, but reads {has}"
                + ("; send K targets a token or choose over vocabulary" if wanted else ""),
            )
        if isinstance(self.regularizer, Orthogonality):
            outcomes = vocabulary if self.over_vocabulary else targets.shape[1]
            lengths = columns[TARGETS].lengths
            self._check_rows(lengths if self.regularizer.axis == "sequence" else np.full_like(lengths, outcomes))
        reference = columns.get(self.reference)
        if isinstance(reference, SparseRagged) and math.isinf(reference.pad_value):
            if isinstance(self.regularizer, Consistency) and self.regularizer.metric != "kl":
                raise bad(self.name, "is infinite where its reference is; choose the metric kl", "metric")
            self._check_entries(reference, columns)

    def value(self, outputs: Outputs, columns: Columns, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """The penalty before weighting, summed over data, a scalar. `loss` gives the call's loss for the logprobs of
        all targets."""
        logprobs = outputs.distributions if self.over_vocabulary else outputs.logprobs
        assert logprobs is not None, "distributions were asked for"
        read = self.counts(columns).nonzero()[:, 0]
        if not len(read):
            return (logprobs * 0).sum()
        numbers_S, lengths_S = torch.unique_consecutive(columns[SEQUENCES][read], return_counts=True)
        reference = columns[self.reference] if self.reference else None
        seen = Seen(
            x=_rows(logprobs, read),
            reference=None if reference is None else _rows(reference, read),
            lengths_S=lengths_S,
            numbers_S=numbers_S,
            loss_gradient=lambda point: _gradient_at(point, outputs.logprobs, read, loss),
        )
        return self.regularizer(seen).double().sum()

    def _check_rows(self, rows: Array) -> None:
        """How many rows of each datum are compared with each other, int64 [data]."""
        most, pairs = int(rows.max()), int((rows**2).sum())
        if most > MOST_ROWS or pairs > MOST_PAIRS:
            raise InvalidArgument(
                f"regularizer {self.name!r} compares {most} rows of a datum with each other and takes {MOST_ROWS}, "
                f"and {pairs} pairs of rows in the call and takes {MOST_PAIRS}",
                reason="BATCH_TOO_LARGE",
                metadata={"regularizer": self.name, "rows": str(most), "max_rows": str(MOST_ROWS)},
            )

    def _check_entries(self, reference: SparseRagged, columns: Mapping[str, Ragged | SparseRagged]) -> None:
        """A token that is read must have a probability for something."""
        mask = _mask(columns.get(self.mask), len(columns[TARGETS].values))
        empty = np.flatnonzero(mask & (np.diff(reference.entries) == 0))
        if len(empty):
            datum = reference.row_of(int(empty[0]))
            raise InvalidArgument(
                f"{self.reference} of datum {datum} has a token without any entry, where the rest has probability 0",
                reason="BAD_TENSOR",
                metadata={"column": self.reference, "datum": str(datum)},
            )


def _mask(column: Ragged | SparseRagged | None, tokens: int) -> Array:
    """Which tokens are read, bool [tokens]."""
    if column is None:
        return np.ones(tokens, np.bool_)
    chosen: Array = (column.values.reshape(tokens, -1) != 0).any(axis=1)
    return chosen


def _rows(values: Tensor, read: Tensor) -> Tensor:
    """The rows that are read; all of them without a copy, since those over the vocabulary are large."""
    return values if len(read) == len(values) else values[read]


def _gradient_at(point: Tensor, logprobs: Tensor, read: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of the loss by the logprobs that are read, where these are at `point`; with a graph of its own."""
    with torch.enable_grad():
        at = point if point.requires_grad else point.detach().requires_grad_()
        others = torch.zeros(len(logprobs), dtype=torch.bool, device=logprobs.device)
        others[read] = True
        moved = logprobs.detach().to(at.dtype).index_put((others,), at)
        (gradient,) = torch.autograd.grad(loss(moved), at, create_graph=True)
        return gradient
