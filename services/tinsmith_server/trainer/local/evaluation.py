"""The objective of one call, computed micro-batch by micro-batch.

    evaluation = Evaluation(call.objective, call.batch, device=...)
    if evaluation.reads_twice:
        evaluation.see(logprobs of all targets, without gradient)
    for each micro-batch:
        backward(evaluation(outputs, places))
    evaluation.metrics(logprobs of all targets), evaluation.reports()

A loss alone goes straight to torch's backward pass. With regularizers, each term's gradient is first taken by the
logprobs, where it is cheap, so that its norm is known; their weighted sum then goes through the model in one backward
pass.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinsmith_server.trainer.local.causal import Outputs
from tinsmith_server.trainer.loss_graph import CustomLoss
from tinsmith_server.trainer.losses.base import SEQUENCES, TARGETS, Columns
from tinsmith_server.trainer.losses.needs import Shape
from tinsmith_server.trainer.objective import Objective, TermReport
from tinsmith_server.trainer.ragged import Array, Ragged, SparseRagged
from tinsmith_server.trainer.regularizers import Term
from tinsmith_server.trainer.request import Batch

LOSS = 0
"""Part of an objective that is its loss; its regularizers are the parts from 1 on."""


class Evaluation:
    """See the file's comment. Used for one call, or for one part of it with the weight 1."""

    def __init__(self, objective: Objective, batch: Batch, *, device: torch.device, part: int | None = None) -> None:
        self._objective, self._device, self._part = objective, device, part
        self._sparse = {name: column for name, column in batch.columns.items() if isinstance(column, SparseRagged)}
        self._columns = _token_columns(objective, batch)
        self._fixed: Tensor | None = None
        self.reads_twice = objective.whole_call and part in (None, LOSS)
        """Whether `see` must be called before the first micro-batch, where gradients are wanted."""
        self._terms = [_Sum() for _ in objective.terms]
        self._base, self._total = _Sum(), _Sum()

    @property
    def counts(self) -> Array:
        """For each token whether its target is read, bool [tokens]."""
        counts: Array = self._objective.counts(self._columns).numpy()
        return counts

    @property
    def targets(self) -> Tensor:
        """int64 [tokens] or [tokens, K]."""
        return self._columns[TARGETS]

    @property
    def has_gradient(self) -> bool:
        """Whether a regularizer that was computed has one."""
        return any(found.has_gradient for found in self._terms)

    def see(self, logprobs: Tensor) -> None:
        """Takes the gradient of the loss by the logprobs of the whole call, float32 [tokens] or [tokens, K]."""
        with torch.enable_grad():
            leaf = logprobs.detach().clone().requires_grad_()
            (self._fixed,) = torch.autograd.grad(self._objective.loss(leaf.double(), self._columns), leaf)

    def __call__(self, outputs: Outputs, places: Array) -> Tensor:
        """A scalar whose gradient is that of what a micro-batch adds to the objective; `places` are those of its
        targets in the call, int64 [P], rising."""
        columns = self._at(places)
        if self._is_loss_alone:
            return self._objective.loss(outputs.logprobs, columns)
        leaves = _leaves(outputs)
        total = _Gradients()
        if self._part in (None, LOSS):
            total = self._loss_gradient(leaves, columns, places)
            self._base.add(total)
        for number, (term, found) in enumerate(zip(self._objective.terms, self._terms, strict=True), start=1):
            if self._part in (None, number):
                gradient = self._of_term(term, found, leaves, columns)
                total = total.plus(gradient, term.weight if self._part is None else 1.0)
        self._total.add(total)
        return total.carried_by(outputs)

    def metrics(self, logprobs: Tensor) -> dict[str, float]:
        """Of the whole call, in float64."""
        loss = self._objective.loss
        counted = loss.counts(self._columns)
        inputs = loss.inputs if isinstance(loss, CustomLoss) else {}
        names = {*loss.columns, *inputs, SEQUENCES}
        kept = {name: _in_double(self._columns[name][counted]) for name in names if name in self._columns}
        in_double = logprobs[counted].double()
        base = float(loss(in_double, kept).detach())
        metrics = {"loss:sum": base, **loss.metrics(in_double, kept)}
        if not self._terms:
            return metrics
        added = sum(term.weight * found.value for term, found in self._pairs())
        metrics |= {"loss:sum": base + added, "base:sum": base, "regularizer_total:sum": added}
        for name, found in (("base", self._base), ("total", self._total)):
            if found.norm is not None:
                metrics[f"logprob_grad_norm_{name}:mean"] = found.norm
        return metrics

    def reports(self) -> tuple[TermReport, ...]:
        """What each regularizer contributed, in the request's order."""
        return tuple(
            TermReport(name=term.name, weight=term.weight, value=found.value, logprob_grad_norm=found.norm)
            for term, found in self._pairs()
        )

    @property
    def _is_loss_alone(self) -> bool:
        return self._fixed is None and (not self._terms or self._part == LOSS) and not self._waits

    @property
    def _waits(self) -> bool:
        """Whether there is no gradient of the loss for lack of `see`: a call without gradients."""
        return self.reads_twice and self._fixed is None

    def _pairs(self) -> list[tuple[Term, "_Sum"]]:
        return list(zip(self._objective.terms, self._terms, strict=True))

    def _at(self, places: Array) -> dict[str, Tensor]:
        """The columns of some tokens."""
        index = torch.from_numpy(places)
        found = {name: column[index].to(self._device) for name, column in self._columns.items()}
        for name, column in self._sparse.items():
            found[name] = torch.from_numpy(column.dense(places)).to(self._device)
        return found

    def _loss_gradient(self, leaves: Outputs, columns: Columns, places: Array) -> "_Gradients":
        if self._fixed is not None:
            return _Gradients(logprobs=self._fixed[torch.from_numpy(places)].to(self._device))
        if self._waits or not torch.is_grad_enabled():
            return _Gradients()
        (gradient,) = torch.autograd.grad(self._objective.loss(leaves.logprobs, columns), leaves.logprobs)
        return _Gradients(logprobs=gradient)

    def _of_term(self, term: Term, found: "_Sum", leaves: Outputs, columns: Columns) -> "_Gradients":
        in_double = Outputs(logprobs=leaves.logprobs.double(), distributions=leaves.distributions)
        value = term.value(in_double, columns, lambda logprobs: self._objective.loss(logprobs, columns))
        gradient = _Gradients.of(value, leaves)
        found.add(gradient, value=float(value.detach()))
        return gradient


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Gradients:
    """By the logprobs that an objective reads; None where it does not, or where it is constant."""

    logprobs: Tensor | None = None
    distributions: Tensor | None = None

    @classmethod
    def of(cls, value: Tensor, leaves: Outputs) -> "_Gradients":
        if not value.requires_grad:
            return cls()
        if leaves.distributions is None:
            return cls(logprobs=torch.autograd.grad(value, leaves.logprobs)[0])
        by_logprobs, by_distributions = torch.autograd.grad(
            value, [leaves.logprobs, leaves.distributions], allow_unused=True
        )
        return cls(logprobs=by_logprobs, distributions=by_distributions)

    @property
    def parts(self) -> list[Tensor]:
        return [part for part in (self.logprobs, self.distributions) if part is not None]

    def plus(self, other: "_Gradients", weight: float) -> "_Gradients":
        if not weight:
            return self
        return _Gradients(
            logprobs=_added(self.logprobs, other.logprobs, weight),
            distributions=_added(self.distributions, other.distributions, weight),
        )

    def carried_by(self, outputs: Outputs) -> Tensor:
        """A scalar whose backward pass hands these gradients to the outputs. Its own value is 0."""
        carried: Tensor = _Carrier.apply(outputs.logprobs, outputs.distributions, self.logprobs, self.distributions)
        return carried


class _Carrier(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, logprobs: Tensor, distributions: Tensor | None, first: Tensor | None, second: Tensor | None
    ) -> Tensor:
        context.gradients = first, second
        return logprobs.new_zeros(())

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        first, second = context.gradients
        return first, second, None, None


@dataclass(kw_only=True, slots=True)
class _Sum:
    """A value and the square of its gradient's norm, over the micro-batches so far."""

    value: float = 0.0
    square: float = 0.0
    has_gradient: bool = False

    @property
    def norm(self) -> float | None:
        return math.sqrt(self.square) if self.has_gradient else None

    def add(self, gradient: _Gradients, *, value: float = 0.0) -> None:
        self.value += value
        for part in gradient.parts:
            self.square += float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2
            self.has_gradient = True


def _leaves(outputs: Outputs) -> Outputs:
    """The same numbers, apart from the model."""
    wanted = torch.is_grad_enabled()
    distributions = outputs.distributions
    return Outputs(
        logprobs=outputs.logprobs.detach().requires_grad_(wanted),
        distributions=None if distributions is None else distributions.detach().requires_grad_(wanted),
    )


def _added(first: Tensor | None, second: Tensor | None, weight: float) -> Tensor | None:
    if second is None:
        return first
    return second * weight if first is None else first.add(second, alpha=weight)


def _token_columns(objective: Objective, batch: Batch) -> dict[str, Tensor]:
    """The dense columns, one row a token; a datum's number stands beside each of its tokens."""
    lengths = batch.tokens.lengths
    by_datum = {name for name, need in objective.needs if need.shape is Shape.DATUM}
    found: dict[str, Tensor] = {}
    for name, column in batch.columns.items():
        if isinstance(column, Ragged):
            values = np.repeat(column.values, lengths) if name in by_datum else column.values
            found[name] = torch.from_numpy(values)
    if objective.by_sequence:
        found[SEQUENCES] = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    return found


def _in_double(column: Tensor) -> Tensor:
    return column.double() if column.is_floating_point() else column
