"""What a call minimises: a loss, and regularizers times their weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.loss_graph import CustomLoss
from tinsmith_server.trainer.losses.base import TARGETS, Columns, Loss
from tinsmith_server.trainer.losses.needs import Need, Shape
from tinsmith_server.trainer.ragged import Ragged, SparseRagged
from tinsmith_server.trainer.regularizers import GradientPenalty, Term, bad

_LOGPROBS_AT_ONCE = 1 << 25
"""Over the vocabulary, in a micro-batch: 128 MB of float32, a handful of times over with their gradients."""
_MOST_LOGPROBS_A_DATUM = 1 << 29
"""Likewise of one datum, which is never cut: 2 GB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TermReport:
    """What one regularizer contributed."""

    name: str
    weight: float
    value: float
    """Before weighting."""
    logprob_grad_norm: float | None
    """Norm of the value's gradient by the logprobs that it reads; None where there is none."""
    parameter_grad_norm: float | None = None
    """The same by the adapter's parameters; None where there is none, or nobody asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """loss + sum_i weight_i penalty_i. `Evaluation` computes it."""

    loss: Loss
    terms: tuple[Term, ...] = ()

    @property
    def needs_distribution(self) -> bool:
        """Whether it reads the logprobs of the whole vocabulary."""
        return any(term.over_vocabulary for term in self.terms)

    @property
    def whole_call(self) -> bool:
        """Whether the loss is no sum over data, so that all logprobs of a call must be known before its gradient is."""
        return isinstance(self.loss, CustomLoss) and not self.loss.is_sum_over_data

    @property
    def by_sequence(self) -> bool:
        """Whether it reads `SEQUENCES`."""
        return self.loss.by_sequence or bool(self.terms)

    @property
    def needs(self) -> Sequence[tuple[str, Need]]:
        """Columns that must be there. One may be needed twice, in different ways."""
        of_loss = [
            (name, Need(kind=kind, shape=Shape.TARGETS, reader=self.loss.name))
            for name, kind in self.loss.columns.items()
        ]
        of_graph = list(self.loss.inputs.items()) if isinstance(self.loss, CustomLoss) else []
        return [*of_loss, *of_graph, *(need for term in self.terms for need in term.needs.items())]

    def check(self, columns: Mapping[str, Ragged | SparseRagged], vocabulary: int) -> None:
        """Whether it can be computed with these columns, which are as `needs` says. InvalidArgument with the reasons of
        the contract."""
        if isinstance(self.loss, CustomLoss):
            self.loss.check({name: column for name, column in columns.items() if isinstance(column, Ragged)})
        longest = int(columns[TARGETS].lengths.max())
        if self.needs_distribution and longest * vocabulary > _MOST_LOGPROBS_A_DATUM:
            raise InvalidArgument(
                f"a datum of {longest} tokens has too many logprobs over the vocabulary of {vocabulary}; it may have "
                f"{_MOST_LOGPROBS_A_DATUM}",
                reason="BATCH_TOO_LARGE",
                metadata={"tokens": str(longest), "vocabulary": str(vocabulary)},
            )
        for term in self.terms:
            term.check(columns, vocabulary)
            wants_loss = isinstance(term.regularizer, GradientPenalty) and term.regularizer.function == "loss"
            if wants_loss and self.whole_call:
                raise bad(term.name, "reads the gradient of the loss, which here is no sum over data")

    def tokens_at_once(self, limit: int, vocabulary: int) -> int:
        """Most tokens of a micro-batch, where `limit` is what the model can read: fewer where each brings the logprobs
        of the whole vocabulary."""
        return min(limit, max(_LOGPROBS_AT_ONCE // vocabulary, 1)) if self.needs_distribution else limit

    def counts(self, columns: Columns) -> Tensor:
        """For each token whether it contributes anything, bool [tokens]."""
        counted = self.loss.counts(columns)
        for term in self.terms:
            counted = counted | term.counts(columns)
        return counted
