"""One model at a Tinker service, which has its adapter, gradients and optimizer.

A call whose answer is lost on the way leaves two doubts: whether it was done, and whether the service still waits for
its number before it takes the next one. So the model is not used after that; a LoadState gives it a new one at the
service.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

import tinker

from tinsmith_server.serving.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServiceError,
    Unimplemented,
)
from tinsmith_server.storage import LoraShape
from tinsmith_server.tinker_client.connection import Connection
from tinsmith_server.tinker_client.models import ServedModel
from tinsmith_server.tinker_client.remote_checkpoint import (
    Adapted,
    RemoteCheckpoint,
    fresh_name,
    ttl_seconds,
)
from tinsmith_server.trainer.checkpoints.adapter_files import mismatch
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import AdamParams, Batch, ForwardResult, StepResult, TrainingCall
from tinsmith_server.trainer.tinker import data
from tinsmith_server.trainer.tinker.gradients import cross_entropy, evaluate, targets_of
from tinsmith_server.trainer.tinker.losses import CROSS_ENTROPY, ServiceLoss, service_loss
from tinsmith_server.trainer.validation import check_call

T = TypeVar("T")


class TinkerModel:
    """See `backend.TrainableModel`."""

    trainable_parameters = 0
    """The service does not tell."""

    def __init__(
        self,
        connection: Connection,
        base: ServedModel,
        shape: LoraShape,
        client: tinker.TrainingClient | None,
        *,
        step: int,
        max_data: int,
    ) -> None:
        self._connection, self._base, self._shape, self._client = connection, base, shape, client
        self._step, self._max_data = step, max_data
        self._has_gradients = False

    @property
    def base_model(self) -> str:
        return self._base.name

    @property
    def shape(self) -> LoraShape:
        return self._shape

    @property
    def step(self) -> int:
        return self._step

    @property
    def is_at_rest(self) -> bool:
        return False

    async def forward(self, call: TrainingCall) -> ForwardResult:
        return await self._run(call, forward_only=True)

    async def forward_backward(self, call: TrainingCall) -> ForwardResult:
        return await self._run(call, forward_only=False)

    async def optim_step(self, params: AdamParams) -> StepResult:
        if not self._has_gradients:
            raise FailedPrecondition(
                "there are no gradients: call ForwardBackward before OptimStep", reason="NO_GRADIENTS"
            )
        answer = await self._ask(lambda client: client.optim_step(data.adam(params)))
        self._has_gradients = False
        self._step += 1
        metrics = {"learning_rate:mean": params.learning_rate, **data.metrics(answer.metrics)}
        return StepResult(step=self._step, metrics=metrics)

    async def adapter_files(self, *, lifetime: timedelta | None) -> dict[str, bytes]:
        name, ttl_s = fresh_name(self._step), ttl_seconds(lifetime)
        saved = await self._ask(lambda client: client.save_weights_for_sampler(name, ttl_seconds=ttl_s))
        return RemoteCheckpoint(path=saved.path, step=self._step, adapted=Adapted.of(self._shape)).files()

    async def state_files(self, *, lifetime: timedelta | None) -> dict[str, bytes]:
        name, ttl_s = fresh_name(self._step), ttl_seconds(lifetime)
        saved = await self._ask(lambda client: client.save_state(name, ttl_seconds=ttl_s))
        return RemoteCheckpoint(path=saved.path, step=self._step, adapted=Adapted.of(self._shape)).files()

    async def load(self, files: Mapping[str, bytes], *, with_optimizer: bool) -> None:
        """Goes on with a new model at the service, made of the checkpoint. Errors as the protocol's; NotFound with
        reason CHECKPOINT_NOT_FOUND when the service has its weights no more."""
        remote = RemoteCheckpoint.of(files)
        if with_optimizer and not remote.has_optimizer:
            raise mismatch("no optimizer state; load it without, or take a training checkpoint")
        if remote.adapted != Adapted.of(self._shape):
            raise mismatch(f"{remote.adapted}, the model {Adapted.of(self._shape)}")
        service = self._connection.service
        make = (
            service.create_training_client_from_state_with_optimizer
            if with_optimizer
            else service.create_training_client_from_state
        )
        client = await self._connection.result(make(remote.path), missing=lambda said: _lost_weights(remote, said))
        self._client, self._has_gradients = client, False
        self._step = remote.step if with_optimizer else 0

    async def _run(self, call: TrainingCall, *, forward_only: bool) -> ForwardResult:
        _check_supported(call)
        checked = check_call(call, self._base, max_data=self._max_data)
        loss = service_loss(checked)
        if loss is not None:
            logprobs, said = await self._compute(checked.batch, loss, forward_only=forward_only)
            found = await asyncio.to_thread(evaluate, checked, logprobs, with_gradient=False)
        else:
            logprobs, _ = await self._compute(cross_entropy(checked, None), CROSS_ENTROPY, forward_only=True)
            found, said = await asyncio.to_thread(evaluate, checked, logprobs, with_gradient=not forward_only), {}
            if found.gradient is not None:
                await self._compute(cross_entropy(checked, -found.gradient), CROSS_ENTROPY, forward_only=False)
        return ForwardResult(
            logprobs=None if call.omit_logprobs else logprobs,
            metrics={**found.metrics, **said},
            regularizers=found.reports,
        )

    async def _compute(
        self, batch: Batch, loss: ServiceLoss, *, forward_only: bool
    ) -> tuple[Ragged, Mapping[str, float]]:
        """One pass at the service: logprobs, and its figures."""
        datums = await asyncio.to_thread(data.datums, batch)
        if forward_only:
            output = await self._ask(lambda client: client.forward(datums, loss.name, loss.config))
        else:
            output = await self._ask(lambda client: client.forward_backward(datums, loss.name, loss.config))
            self._has_gradients = True
        return data.logprobs(output, targets_of(batch)), data.metrics(output.metrics)

    async def _ask(self, call: Callable[[tinker.TrainingClient], tinker.APIFuture[T]]) -> T:
        if self._client is None:
            raise FailedPrecondition(
                "the answer to an earlier call was lost on the way, so the model's state at the Tinker service is not "
                "known; load its last checkpoint",
                reason="MODEL_STATE_UNKNOWN",
            )
        try:
            return await self._connection.result(call(self._client))
        except InvalidArgument:  # the service has looked at the call and not done it
            raise
        except (ServiceError, asyncio.CancelledError):
            self._client = None
            raise


def _lost_weights(remote: RemoteCheckpoint, said: str) -> NotFound:
    return NotFound(
        f"the Tinker service has no weights {remote.path}: {said}",
        reason="CHECKPOINT_NOT_FOUND",
        metadata={"path": remote.path},
    )


def _check_supported(call: TrainingCall) -> None:
    """Unimplemented with reason REGULARIZER_NOT_IMPLEMENTED or FailedPrecondition with reason BACKEND_UNSUPPORTED for
    what can't be computed of the targets' logprobs, which are all that the service gives."""
    for term in call.terms:
        if term.over_vocabulary:
            raise Unimplemented(
                f"regularizer {term.name} reads logprobs of the whole vocabulary, which the Tinker service does not "
                "give; use backend local",
                reason="REGULARIZER_NOT_IMPLEMENTED",
                metadata={"regularizer": term.name},
            )
    if call.parameter_grad_norms:
        raise FailedPrecondition(
            "the Tinker service gives no gradients by the parameters; leave parameter_grad_norms out",
            reason="BACKEND_UNSUPPORTED",
            metadata={"option": "parameter_grad_norms"},
        )
