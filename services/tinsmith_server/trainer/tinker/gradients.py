"""Objectives that the service lacks, from its logprobs: for L(p) with p the logprobs of the targets, the service's
cross-entropy with the weights -dL/dp has the same gradient by every parameter."""

from dataclasses import dataclass

import numpy as np
import torch

from tinsmith_server.trainer.local.causal import Outputs
from tinsmith_server.trainer.local.evaluation import Evaluation
from tinsmith_server.trainer.losses.base import TARGETS
from tinsmith_server.trainer.objective import TermReport
from tinsmith_server.trainer.ragged import Array, Ragged
from tinsmith_server.trainer.request import Batch, TrainingCall

_WEIGHTS = "weights"
_HERE = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluated:
    """An objective at the service's logprobs."""

    metrics: dict[str, float]
    reports: tuple[TermReport, ...]
    gradient: Array | None
    """By the logprobs, float32 of their shape; None when it was not asked for."""


def evaluate(call: TrainingCall, logprobs: Ragged, *, with_gradient: bool) -> Evaluated:
    """Value, reports and, if asked for, gradient, as the `local` backend has them of the same logprobs."""
    evaluation = Evaluation(call.objective, call.batch, device=_HERE)
    leaf = torch.from_numpy(logprobs.values.copy()).requires_grad_(with_gradient)
    gradient = None
    with torch.set_grad_enabled(with_gradient):
        if with_gradient and evaluation.reads_twice:
            evaluation.see(leaf)
        total = evaluation(Outputs(logprobs=leaf), np.arange(len(leaf)))
        if with_gradient:
            (by_logprobs,) = torch.autograd.grad(total, leaf, materialize_grads=True)
            gradient = by_logprobs.numpy()
    return Evaluated(metrics=evaluation.metrics(leaf.detach()), reports=evaluation.reports(), gradient=gradient)


def cross_entropy(call: TrainingCall, weights: Array | None) -> Batch:
    """The call's tokens and targets for the service's cross-entropy; without weights for one that is only asked for its
    logprobs."""
    targets = targets_of(call.batch)
    if weights is None:
        weights = np.zeros(targets.values.shape, np.float32)
    columns = {TARGETS: targets, _WEIGHTS: Ragged(values=weights, offsets=targets.offsets)}
    return Batch(tokens=call.batch.tokens, columns=columns)


def targets_of(batch: Batch) -> Ragged:
    """The targets of a checked batch."""
    targets = batch.columns[TARGETS]
    assert isinstance(targets, Ragged), "a checked batch has its targets dense"
    return targets
