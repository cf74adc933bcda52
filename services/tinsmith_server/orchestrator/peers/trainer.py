"""The trainer: one adapter of the run, trained in the order of its seq_ids."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    AdamParams,
    Checkpoint,
    CreateModelRequest,
    DeleteModelRequest,
    ForwardBackwardRequest,
    ForwardBackwardResponse,
    GetCapabilitiesRequest,
    GetCheckpointRequest,
    ImportanceSamplingLoss,
    LossSpec,
    OptimStepRequest,
    OptimStepResponse,
    PpoLoss,
    SaveForSamplerRequest,
    SaveStateRequest,
)
from tinsmith.types.v1 import Column, DatumBatch, LoraConfig
from tinsmith_server.orchestrator.peers.caller import Caller
from tinsmith_server.orchestrator.peers.failures import check_served
from tinsmith_server.orchestrator.peers.wire import from_message, to_message
from tinsmith_server.orchestrator.ragged import Ragged

_LOSSES: Mapping[str, LossSpec] = {
    "importance_sampling": LossSpec(importance_sampling=ImportanceSamplingLoss()),
    "ppo": LossSpec(ppo=PpoLoss()),
}
_ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class FreshModel:
    """How a run's model begins when there is no checkpoint of the run."""

    base_model: str
    lora_rank: int
    lora_alpha: float
    lora_seed: int
    load_checkpoint: str = ""
    """Weights to begin from, with a fresh optimizer; empty begins from the base model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adam:
    """Settings of one optimizer step."""

    learning_rate: float
    grad_clip_norm: float
    """0 does not clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Datums:
    """Examples as ragged columns with the boundaries of `tokens`."""

    tokens: Ragged
    loss_inputs: Mapping[str, Ragged]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Weights that were saved."""

    sampler_uri: str
    checkpoint_uri: str = ""
    """Training goes on from here; empty when only a sampler's weights were saved."""
    adapter_sha256: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """What came of training on a batch."""

    weights: Weights
    """Those after it."""
    logprobs: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Of the targets, before their part's update, in the order of the data."""
    losses: Sequence[Mapping[str, float]] = ()
    """Metrics of each part's gradients, by name and reduction."""
    steps: Sequence[Mapping[str, float]] = ()
    """Metrics of each optimizer step."""


class Trainer:
    """Makes models and takes them away."""

    def __init__(self, suite: Suite, call: Caller) -> None:
        self._suite = suite
        self._call = call

    async def create(self, model_id: str, source: FreshModel | str, request_id: str) -> "LoadedModel":
        """A model from the run's own checkpoint, named by its URI, with its optimizer; or a fresh one."""
        request = CreateModelRequest(request_id=request_id, model_id=model_id)
        if isinstance(source, str):
            request.checkpoint_uri = source
            request.load_optimizer = True
        else:
            request.base_model = source.base_model
            request.checkpoint_uri = source.load_checkpoint
            lora = LoraConfig(rank=source.lora_rank, alpha=source.lora_alpha, seed=source.lora_seed)
            request.lora.CopyFrom(lora)
        await self._call("trainer", self._suite.trainer.CreateModel, request)
        return LoadedModel(self._suite, self._call, model_id)

    async def knows(self, base_model: str, checkpoint_uri: str) -> None:
        """Raises unless the trainer has both: BASE_MODEL_NOT_FOUND, CHECKPOINT_NOT_FOUND."""
        answer = await self._call("trainer", self._suite.trainer.GetCapabilities, GetCapabilitiesRequest())
        check_served("trainer", base_model, [model.name for model in answer.base_models])
        if checkpoint_uri:
            await self._call("trainer", self._suite.checkpoints.GetCheckpoint, GetCheckpointRequest(uri=checkpoint_uri))

    async def delete(self, model_id: str) -> None:
        """Takes a model out of memory, if it is there."""
        await self._call("trainer", self._suite.trainer.DeleteModel, DeleteModelRequest(model_id=model_id))


class LoadedModel:
    """A model in the trainer's memory, which only this run uses."""

    def __init__(self, suite: Suite, call: Caller, model_id: str) -> None:
        self._trainer = suite.trainer
        self._call = call
        self._model_id = model_id
        self._seq_ids = count(1)

    async def train(self, parts: Sequence[Datums], loss: str, adam: Adam, *, save_as: str = "") -> Update:
        """One optimizer step on each part, then saves what `save` saves. `loss` is a key of `_LOSSES`.

        All calls are under way at once; their seq_ids make the trainer run them in this order.
        """
        updates = [call for part in parts for call in (self._forward_backward(part, loss), self._optim_step(adam))]
        answers = await _all([*updates, *self._saving(save_as)])
        gradients: list[ForwardBackwardResponse] = answers[0 : len(updates) : 2]
        steps: list[OptimStepResponse] = answers[1 : len(updates) : 2]
        logprobs = [from_message(answer.logprobs).flat for answer in gradients]
        return Update(
            weights=_weights(answers[len(updates) :]),
            logprobs=np.concatenate(logprobs) if logprobs else np.zeros(0, np.float32),
            losses=[dict(answer.metrics) for answer in gradients],
            steps=[dict(answer.metrics) for answer in steps],
        )

    async def save(self, name: str = "") -> Weights:
        """Weights for the sampler: ephemeral ones, or with a name those and a training checkpoint of that name."""
        return _weights(await _all(self._saving(name)))

    def _saving(self, name: str) -> list[Awaitable[Any]]:
        for_sampler = SaveForSamplerRequest(
            model_id=self._model_id, seq_id=next(self._seq_ids), name=name, overwrite=bool(name)
        )
        calls: list[Awaitable[Any]] = [self._call("trainer", self._trainer.SaveForSampler, for_sampler)]
        if name:
            state = SaveStateRequest(model_id=self._model_id, seq_id=next(self._seq_ids), name=name, overwrite=True)
            calls.append(self._call("trainer", self._trainer.SaveState, state))
        return calls

    def _forward_backward(self, data: Datums, loss: str) -> Awaitable[ForwardBackwardResponse]:
        columns = {name: Column(ragged=to_message(rows)) for name, rows in data.loss_inputs.items()}
        request = ForwardBackwardRequest(
            model_id=self._model_id,
            seq_id=next(self._seq_ids),
            loss=_LOSSES[loss],
            batch=DatumBatch(tokens=to_message(data.tokens), loss_inputs=columns),
        )
        return self._call("trainer", self._trainer.ForwardBackward, request)

    def _optim_step(self, adam: Adam) -> Awaitable[OptimStepResponse]:
        params = AdamParams(learning_rate=adam.learning_rate, grad_clip_norm=adam.grad_clip_norm)
        request = OptimStepRequest(model_id=self._model_id, seq_id=next(self._seq_ids), adam=params)
        return self._call("trainer", self._trainer.OptimStep, request)


async def _all(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """The answers of all calls. The first failure gives up the rest, which may wait for the failed call's turn."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]


def _weights(saved: Sequence[Any]) -> Weights:
    for_sampler: Checkpoint = saved[0].checkpoint
    if len(saved) == 1:
        return Weights(sampler_uri=for_sampler.uri)
    state: Checkpoint = saved[1].checkpoint
    sha256 = next((file.sha256 for file in state.files if file.name == _ADAPTER_FILE), "")
    return Weights(sampler_uri=for_sampler.uri, checkpoint_uri=state.uri, adapter_sha256=sha256)
