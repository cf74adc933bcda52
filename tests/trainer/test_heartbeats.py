"""Models whose clients have gone are released; others never notice."""

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import serving
from tests.trainer.calls import create, forward_backward, optim_step
from tests.trainer.saving import eventually, is_there, look, save, save_weights, state, train
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import DeleteModelRequest, GetModelRequest, HeartbeatRequest, ListCheckpointsRequest
from tinsmith_server.trainer import ROOM
from tinsmith_server.trainer.hosting.parked_states import ParkedStates

CLIENT = """
import asyncio, sys
from tests.trainer.calls import create
from tests.trainer.saving import save, save_weights, train
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import HeartbeatRequest

async def main() -> None:
    async with Suite.connect(trainer=sys.argv[1]) as suite:
        model = await create(suite, "mine", heartbeat_timeout={"seconds": 2})
        await train(suite, model, 1)
        await save(suite, model, name="kept")
        await save_weights(suite, model)
        print("ready", flush=True)
        while True:
            await suite.trainer.Heartbeat(HeartbeatRequest(model_ids=["mine"]))
            await asyncio.sleep(0.2)

asyncio.run(main())
"""


async def reason(call: object) -> str:
    with pytest.raises(TinsmithError) as refused:
        await call  # type: ignore[misc]
    return refused.value.reason


async def is_gone(suite: Suite, model_id: str) -> bool:
    return not await is_there(suite, model_id)


async def test_the_model_of_a_killed_client_is_released_and_others_are_not(suite: Suite) -> None:
    """T-05"""
    other, twin = await create(suite, "other"), await create(suite, "twin")
    await train(suite, other, 1)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in [os.getcwd(), *sys.path] if path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, suite.addresses.trainer, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"ready\n"
    await asyncio.sleep(3)
    assert (await suite.trainer.GetModel(GetModelRequest(model_id="mine"))).model.step == 1, "heartbeats keep it"
    process.send_signal(signal.SIGKILL)
    await process.wait()
    killed = time.monotonic()
    await eventually(lambda: is_gone(suite, "mine"))
    assert time.monotonic() - killed > 0.2, "not before its time"

    async def only_the_named_is_left() -> bool:
        stored = await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest(model_id="mine"))
        return [checkpoint.name for checkpoint in stored.checkpoints] == ["kept"]

    await eventually(only_the_named_is_left)
    await train(suite, twin, 1)
    assert state(await save(suite, other)) == state(await save(suite, twin))


async def test_calls_that_wait_are_told_why_and_later_ones_that_it_is_gone(
    tmp_path: Path, model_directory: Path
) -> None:
    settings = {"base_models": (f"random={model_directory}",), "sequence_wait_s": 60.0}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        model = await create(suite, heartbeat_timeout={"seconds": 2}, idle_timeout={"nanos": 10_000_000})
        await save_weights(suite, model)
        early = suite.trainer.OptimStep(optim_step(model, 5))
        assert await reason(early) == "MODEL_RELEASED"
        assert await reason(suite.trainer.ForwardBackward(forward_backward(model))) == "MODEL_NOT_FOUND"
        answer = await suite.trainer.Heartbeat(HeartbeatRequest(model_ids=[model.model_id]))
        assert list(answer.unknown_model_ids) == [model.model_id]

        async def nothing_is_parked() -> bool:
            return not list((tmp_path / "checkpoints" / ".parked").glob("*/*/training/parked"))

        await eventually(nothing_is_parked)


async def test_a_model_is_not_released_for_one_that_had_its_name(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another is being parked, a silent model is deleted and made again."""
    parking, may_go_on, put = threading.Event(), threading.Event(), ParkedStates.put

    def wait_and_put(*args: Any) -> Any:
        parking.set()
        may_go_on.wait(20)
        return put(*args)

    monkeypatch.setattr(ParkedStates, "put", wait_and_put)
    await create(suite, "parked", idle_timeout={"nanos": 1_000_000})
    await create(suite, "mine", heartbeat_timeout={"seconds": 2})
    assert await asyncio.to_thread(parking.wait, 20)
    await asyncio.sleep(2.1)
    await suite.trainer.DeleteModel(DeleteModelRequest(model_id="mine"))
    await create(suite, "mine", heartbeat_timeout={"seconds": 60})
    may_go_on.set()

    async def is_parked() -> bool:
        return (await suite.trainer.GetModel(GetModelRequest(model_id="parked"))).model.parked

    await eventually(is_parked)
    await asyncio.sleep(1.2)  # another look at all models
    assert await is_there(suite, "mine")


async def test_without_a_timeout_a_silent_client_keeps_its_model(suite: Suite) -> None:
    silent, watched = await create(suite), await create(suite, heartbeat_timeout={"nanos": 1_000_000})
    await eventually(lambda: is_gone(suite, watched.model_id))
    assert (await look(suite, silent)).model_id == silent.model_id
