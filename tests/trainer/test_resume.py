"""The resume that `trainer_service.proto` tells of, with a trainer that is killed again and again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import grpc
import numpy as np
import pytest

from tests.support import serving
from tests.trainer.calls import batch
from tests.trainer.killable import killable_trainer
from tests.trainer.saving import state
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    AdamParams,
    Checkpoint,
    CreateModelRequest,
    CrossEntropyLoss,
    ForwardBackwardRequest,
    LossSpec,
    OptimStepRequest,
    SaveStateRequest,
)
from tinsmith.types.v1 import LoraConfig
from tinsmith_server.storage import CheckpointStore
from tinsmith_server.trainer import ROOM

Answer = TypeVar("Answer")
STEPS, SAVE_EVERY, KILLS = 40, 5, 20
FRESH = CreateModelRequest(model_id="run", base_model="random", lora=LoraConfig(rank=4, seed=1))
LATEST = CreateModelRequest(model_id="run", checkpoint_uri="tinsmith://run/training/latest", load_optimizer=True)


class Client:
    """Trains STEPS steps; the data of a step depend on it alone."""

    def __init__(self, suite: Suite) -> None:
        self._trainer = suite.trainer
        self._begun = [asyncio.Event() for _ in range(STEPS + 1)]
        self.resumed = 0

    async def run(self) -> Checkpoint:
        """The last checkpoint."""
        while True:
            try:
                return await self._from_the_last_checkpoint()
            except TinsmithError as error:
                if error.reason != "MODEL_NOT_FOUND":
                    raise
                self.resumed += 1

    async def has_begun(self, step: int) -> None:
        """Waits for the first beginning of a step."""
        async with asyncio.timeout(120):
            await self._begun[step].wait()

    async def _from_the_last_checkpoint(self) -> Checkpoint:
        done = await self._create()
        seq_id = 0
        for step in range(done + 1, STEPS + 1):
            self._begun[step].set()
            calls = self._calls(step, seq_id)
            answers = await asyncio.gather(*(patiently(method, request) for method, request in calls))
            seq_id += len(calls)
        saved: Checkpoint = answers[-1].checkpoint
        return saved

    async def _create(self) -> int:
        """Makes the model; the steps that it has done."""
        try:
            return (await patiently(self._trainer.CreateModel, with_id(LATEST))).model.step
        except TinsmithError as error:
            if error.reason != "CHECKPOINT_NOT_FOUND":
                raise
            return (await patiently(self._trainer.CreateModel, with_id(FRESH))).model.step

    def _calls(self, step: int, seq_id: int) -> list[tuple[Callable[..., Awaitable[Any]], Any]]:
        """The calls of a step, sent at once."""
        rows = np.random.default_rng(step).integers(0, 200, (4, 24)).tolist()
        loss = LossSpec(cross_entropy=CrossEntropyLoss())
        common = {"model_id": "run"}
        calls: list[tuple[Callable[..., Awaitable[Any]], Any]] = [
            (
                self._trainer.ForwardBackward,
                ForwardBackwardRequest(**common, seq_id=seq_id + 1, loss=loss, batch=batch(rows)),
            ),
            (
                self._trainer.OptimStep,
                OptimStepRequest(**common, seq_id=seq_id + 2, adam=AdamParams(learning_rate=1e-2)),
            ),
        ]
        if step % SAVE_EVERY == 0:
            calls.append((self._trainer.SaveState, SaveStateRequest(**common, seq_id=seq_id + 3, overwrite=True)))
        return calls


def with_id(request: CreateModelRequest) -> CreateModelRequest:
    copy = CreateModelRequest(request_id=str(uuid4()))
    copy.MergeFrom(request)
    return copy


async def patiently(method: Callable[..., Awaitable[Answer]], request: Any) -> Answer:
    """The call, repeated as it is while the trainer is away."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await method(request)
            except TinsmithError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.02)


async def undisturbed(home: Path, model_directory: Path) -> Checkpoint:
    settings = {"base_models": (f"random={model_directory}",)}
    async with serving(ROOM, home, **settings) as address, Suite.connect(trainer=address) as suite:
        return await Client(suite).run()


@pytest.mark.chaos
async def test_a_trainer_killed_at_random_moments_loses_nothing(tmp_path: Path, model_directory: Path) -> None:
    """R-01"""
    expected = await undisturbed(tmp_path / "calm", model_directory)
    chance = random.Random(0)
    moments = sorted(chance.randint(1, STEPS) for _ in range(KILLS))
    async with (
        killable_trainer(tmp_path, base_models=[f"random={model_directory}"], sequence_wait_s=2.0) as trainer,
        Suite.connect(trainer=trainer.address) as suite,
    ):
        client = Client(suite)
        running = asyncio.create_task(client.run())
        for moment in moments:
            await client.has_begun(moment)
            await asyncio.sleep(chance.uniform(0, 0.03))
            await trainer.kill()
        saved = await running
        assert trainer.kills == KILLS
    assert client.resumed >= KILLS // 4, "most kills hit a model, some hit a trainer that was starting"
    assert state(saved) == state(expected)
    store = CheckpointStore(tmp_path / "checkpoints")
    published = [manifest.uri.name for manifest in store.list()]
    assert published == [f"{step:06d}" for step in range(SAVE_EVERY, STEPS + 1, SAVE_EVERY)]
    store.sweep(unfinished_after_s=-1)
    left = [path.name for path in (tmp_path / "checkpoints" / "run" / "training").iterdir()]
    assert len(left) == 2 * len(published), "a link and a folder each"
