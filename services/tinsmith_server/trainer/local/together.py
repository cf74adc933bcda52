"""Training calls of several models on one base, computed in one forward and one backward pass.

Each call's results are bit for bit those that it has alone: what the models share is only the walk through the layers.
The losses are evaluated call by call on what the model says, so one that fails, or that is not a number, is its own.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from tinsmith_server.trainer.llama.layout import MicroBatch, MicroBatches
from tinsmith_server.trainer.local.adapter import Adapter
from tinsmith_server.trainer.local.causal import BoundAdapters, CausalModel, Outputs, Reading
from tinsmith_server.trainer.local.evaluation import Evaluation
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import ForwardResult, TrainingCall

T = TypeVar("T")


class Work:
    """A call that has been checked: laid out in micro-batches, then filled with results one micro-batch at a time."""

    def __init__(
        self,
        base: CausalModel,
        adapter: Adapter,
        call: TrainingCall,
        *,
        trains: bool,
        max_nodes: int,
        part: int | None = None,
    ) -> None:
        self.base, self.adapter, self.trains = base, adapter, trains
        self.error: Exception | None = None
        """What went wrong with this call, and no other."""
        self.call = call
        self.evaluation = Evaluation(call.objective, call.batch, device=base.device, part=part)
        self._logprobs = torch.zeros(self.evaluation.targets.shape)
        counts = self.evaluation.counts if call.omit_logprobs else None
        self.pieces = MicroBatches(call.batch.tokens, counts, max_nodes=max_nodes)

    @property
    def can_join(self) -> bool:
        """Whether it may be computed in one pass with calls of other models."""
        is_plain = not (self.reads_twice or self.needs_distribution or self.call.parameter_grad_norms)
        return is_plain and self.base.reads_together and len(self.pieces) == 1

    @property
    def needs_distribution(self) -> bool:
        return self.call.objective.needs_distribution

    @property
    def reads_twice(self) -> bool:
        """Whether the loss can be judged only when all logprobs are known."""
        return self.trains and self.evaluation.reads_twice

    def reading(self, piece: MicroBatch) -> Reading:
        targets = self.evaluation.targets[torch.from_numpy(piece.targets_P)]
        return Reading(batch=piece, targets=targets.to(self.base.device))

    def note(self, piece: MicroBatch, outputs: Outputs) -> None:
        """Takes note of the logprobs."""
        self._logprobs[torch.from_numpy(piece.targets_P)] = outputs.logprobs.detach().cpu()

    def see(self) -> None:
        """Shows the loss the logprobs of all pieces, as far as they were noted."""
        self.evaluation.see(self._logprobs)

    def evaluate(self, piece: MicroBatch, outputs: Outputs) -> list[tuple[Tensor, Tensor]]:
        """Takes note of what the model says; returns the outputs with the objective's gradient at each."""
        self.note(piece, outputs)
        parts = [outputs.logprobs] if outputs.distributions is None else [outputs.logprobs, outputs.distributions]
        leaves = [part.detach().requires_grad_(self.trains) for part in parts]
        with torch.set_grad_enabled(self.trains):
            value = self.evaluation(
                Outputs(logprobs=leaves[0], distributions=leaves[1] if len(leaves) > 1 else None), piece.targets_P
            )
            if self.trains:
                torch.autograd.backward(value)
        return [(part, leaf.grad) for part, leaf in zip(parts, leaves, strict=True) if leaf.grad is not None]

    def result(self) -> ForwardResult:
        """What the call answers, once all pieces have been evaluated."""
        metrics, reports = self.evaluation.metrics(self._logprobs), self.evaluation.reports()
        if self.call.omit_logprobs:
            return ForwardResult(logprobs=None, metrics=metrics, regularizers=reports)
        rows = Ragged(values=self._logprobs.numpy(), offsets=self.call.batch.tokens.offsets)
        return ForwardResult(logprobs=rows, metrics=metrics, regularizers=reports)


def run_together(works: Sequence[Work]) -> list[ForwardResult | Exception]:
    """The results of calls of different models on one base, or what each one failed with. Gradients are added to a
    model's own only when its call has succeeded.

    One call may be of any kind and have any number of pieces; several must all be such that they `can_join`.
    """
    bound = works[0].base.bind([work.adapter for work in works], [work.trains for work in works])
    if works[0].reads_twice:
        _look_ahead(bound, works[0])
    with torch.set_grad_enabled(any(work.trains for work in works)):
        for pieces in zip(*(work.pieces for work in works), strict=True):
            _pass(bound, works, pieces)
    results = [_tried(work, work.result) for work in works]
    bound.collect([work.error is None for work in works])
    return [
        work.error if result is None else result  # type: ignore[misc]  # one of the two is there
        for work, result in zip(works, results, strict=True)
    ]


def _look_ahead(bound: BoundAdapters, work: Work) -> None:
    """Reads a whole call without gradients, for a loss that is no sum over its data."""
    with torch.no_grad():
        for piece in work.pieces:
            (outputs,) = bound.outputs([work.reading(piece)])
            work.note(piece, outputs)
    _tried(work, work.see)


def _pass(bound: BoundAdapters, works: Sequence[Work], pieces: Sequence[MicroBatch]) -> None:
    readings = [work.reading(piece) for work, piece in zip(works, pieces, strict=True)]
    outputs = bound.outputs(readings, distributions=works[0].needs_distribution)
    ends: list[tuple[Tensor, Tensor]] = []
    for work, piece, found in zip(works, pieces, outputs, strict=True):
        ends += _tried(work, partial(work.evaluate, piece, found)) or []
    if ends:
        torch.autograd.backward([end for end, _ in ends], [gradient for _, gradient in ends])


def _tried(work: Work, step: Callable[[], T]) -> T | None:
    """What a step of one call gives; None, with the error noted, when it or one before it fails."""
    if work.error is None:
        try:
            return step()
        except Exception as error:
            work.error = error
    return None
