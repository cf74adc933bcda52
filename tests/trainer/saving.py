"""Steps and saves that several test files make."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.trainer.calls import forward_backward, optim_step
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    Checkpoint,
    GetModelRequest,
    ListModelsRequest,
    Model,
    SaveForSamplerRequest,
    SaveStateRequest,
)


async def train(suite: Suite, model: Model, steps: int) -> None:
    for _ in range(steps):
        await suite.trainer.ForwardBackward(forward_backward(model))
        await suite.trainer.OptimStep(optim_step(model))


async def save(suite: Suite, model: Model, **fields: Any) -> Checkpoint:
    return (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id, **fields))).checkpoint


async def save_weights(suite: Suite, model: Model, **fields: Any) -> Checkpoint:
    return (await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id, **fields))).checkpoint


async def look(suite: Suite, model: Model) -> Model:
    """The model as the trainer shows it now."""
    return (await suite.trainer.GetModel(GetModelRequest(model_id=model.model_id))).model


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Waits for something that must happen."""
    async with asyncio.timeout(20):
        while True:
            if await is_so():
                return
            await asyncio.sleep(0.02)


async def is_there(suite: Suite, model_id: str) -> bool:
    """Whether the trainer has this model."""
    return model_id in {model.model_id for model in (await suite.trainer.ListModels(ListModelsRequest())).models}


def adapter(checkpoint: Checkpoint) -> str:
    """SHA-256 of the adapter's weights."""
    return next(file.sha256 for file in checkpoint.files if file.name == "adapter_model.safetensors")


def state(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 of each file: weights and the optimizer's memory."""
    return {file.name: file.sha256 for file in checkpoint.files}
