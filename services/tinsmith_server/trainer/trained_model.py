"""One model in training: adapter, gradients, optimizer. Plain torch, no messages, no event loop.

Used on one thread at a time. The result of a call is a function of the calls before it and nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer import adapter_files
from tinsmith_server.trainer.adapter import Adapter
from tinsmith_server.trainer.causal import CausalModel
from tinsmith_server.trainer.layout import MicroBatch, micro_batches
from tinsmith_server.trainer.losses.base import SEQUENCES, TARGETS, Loss
from tinsmith_server.trainer.optimizer import AdamW
from tinsmith_server.trainer.ragged import Array, Ragged
from tinsmith_server.trainer.request import AdamParams, ForwardResult, StepResult, TrainingCall
from tinsmith_server.trainer.validation import check_call


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one call may bring, and how much of it is computed at once."""

    micro_batch_tokens: int = 4096
    max_batch_data: int = 8192
    max_rank: int = 512


class TrainedModel:
    """An adapter on a base model that others share; see `backend.TrainableModel`."""

    def __init__(self, base: CausalModel, shape: LoraShape, *, limits: Limits) -> None:
        _check_shape(shape, limits)
        self._base = base
        self._limits = limits
        self._adapter = Adapter(base.matrices(shape), shape, base.device)
        self._optimizer = AdamW(self._adapter)
        self._has_gradients = False
        self._adapter.initialise()

    @property
    def base_model(self) -> str:
        return self._base.name

    @property
    def shape(self) -> LoraShape:
        return self._adapter.shape

    @property
    def step(self) -> int:
        """Number of optimizer steps applied."""
        return self._optimizer.step

    @property
    def trainable_parameters(self) -> int:
        return self._adapter.size

    def forward(self, call: TrainingCall) -> ForwardResult:
        checked = check_call(call, self._base, max_data=self._limits.max_batch_data)
        with torch.no_grad():
            return self._run(checked, lambda loss: None)

    def forward_backward(self, call: TrainingCall) -> ForwardResult:
        checked = check_call(call, self._base, max_data=self._limits.max_batch_data)
        self._has_gradients = True
        return self._run(checked, torch.autograd.backward)

    def optim_step(self, params: AdamParams) -> StepResult:
        if not self._has_gradients:
            raise FailedPrecondition(
                "there are no gradients: call ForwardBackward before OptimStep", reason="NO_GRADIENTS"
            )
        self._has_gradients = False
        norm = self._optimizer.apply(params)
        metrics = {"grad_norm:mean": norm, "learning_rate:mean": params.learning_rate}
        return StepResult(step=self.step, metrics=metrics)

    def adapter_files(self) -> dict[str, bytes]:
        return adapter_files.write_adapter(self._adapter, self._base.name)

    def state_files(self) -> dict[str, bytes]:
        return {**self.adapter_files(), **adapter_files.write_optimizer(self._adapter, self._optimizer)}

    def load(self, files: Mapping[str, bytes], *, with_optimizer: bool) -> None:
        """Takes over an adapter, and the optimizer's memory if asked; without it the optimizer begins anew.
        Accumulated gradients are dropped. Errors as `adapter_files.read_adapter`; nothing is changed then."""
        values = adapter_files.read_adapter(files, self._adapter)
        memory = adapter_files.read_optimizer(files, self._adapter) if with_optimizer else None
        self._adapter.values.copy_(values)
        self._adapter.gradients.zero_()
        self._has_gradients = False
        self._optimizer.reset()
        if memory is not None:
            self._optimizer.mean.copy_(memory.mean)
            self._optimizer.mean_square.copy_(memory.mean_square)
            self._optimizer.step = memory.step

    def _run(self, call: TrainingCall, backward: Callable[[Tensor], None]) -> ForwardResult:
        batch, loss = call.batch, call.loss
        columns = {name: torch.from_numpy(column.values) for name, column in batch.columns.items()}
        if loss.by_sequence:
            columns[SEQUENCES] = torch.from_numpy(np.repeat(np.arange(len(batch.tokens)), batch.tokens.lengths))
        counted = loss.counts(columns)
        counts: Array = counted.numpy()
        logprobs = torch.zeros(columns[TARGETS].shape)
        bound = self._base.bind(self._adapter)
        nodes = self._limits.micro_batch_tokens
        for piece in micro_batches(batch.tokens, counts if call.omit_logprobs else None, max_nodes=nodes):
            logprobs[piece.targets_P] = self._run_piece(bound.logprobs, piece, columns, loss, backward)
        bound.collect()
        kept = {name: _in_double(column[counted]) for name, column in columns.items() if name != TARGETS}
        in_double = logprobs[counted].double()
        metrics = {"loss:sum": float(loss(in_double, kept)), **loss.metrics(in_double, kept)}
        if call.omit_logprobs:
            return ForwardResult(logprobs=None, metrics=metrics)
        rows = Ragged(values=logprobs.numpy(), offsets=batch.tokens.offsets)
        return ForwardResult(logprobs=rows, metrics=metrics)

    def _run_piece(
        self,
        logprobs_of: Callable[[MicroBatch, Tensor], Tensor],
        piece: MicroBatch,
        columns: Mapping[str, Tensor],
        loss: Loss,
        backward: Callable[[Tensor], None],
    ) -> Tensor:
        places = torch.from_numpy(piece.targets_P)
        mine = {name: column[places].to(self._base.device) for name, column in columns.items()}
        logprobs = logprobs_of(piece, mine[TARGETS])
        backward(loss(logprobs, mine))
        return logprobs.detach().cpu()


def _in_double(column: Tensor) -> Tensor:
    return column.double() if column.is_floating_point() else column


def _check_shape(shape: LoraShape, limits: Limits) -> None:
    if shape.rank > limits.max_rank:
        raise InvalidArgument(
            f"lora.rank is {shape.rank}, this trainer takes at most {limits.max_rank} (setting max_rank)",
            reason="RANK_TOO_LARGE",
            metadata={"rank": str(shape.rank), "max_rank": str(limits.max_rank)},
            violations=[("lora.rank", f"must be at most {limits.max_rank}")],
        )
    if not (shape.train_attention or shape.train_mlp or shape.train_unembedding):
        raise InvalidArgument(
            "lora leaves nothing to train: set one of train_attention, train_mlp, train_unembedding",
            reason="NOTHING_TO_TRAIN",
            violations=[("lora", "must train attention, mlp or unembedding")],
        )
