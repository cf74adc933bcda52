"""Models leave memory and come back as if they had never been away."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.storage.drafts import draft
from tests.support import serving
from tests.trainer.calls import create, forward_backward, optim_step
from tests.trainer.saving import eventually, look, save, save_weights, state, train
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    DeleteModelRequest,
    HeartbeatRequest,
    ListCheckpointsRequest,
    ListModelsRequest,
    LoadStateRequest,
    Model,
)
from tinsmith_server.serving.errors import Internal
from tinsmith_server.trainer import ROOM
from tinsmith_server.trainer.hosting.parked_states import ParkedStates

SOON = {"nanos": 50_000_000}


async def until_parked(suite: Suite, model: Model) -> Model:
    """The model as soon as it is parked."""

    async def is_parked() -> bool:
        return (await look(suite, model)).parked

    await eventually(is_parked)
    return await look(suite, model)


@asynccontextmanager
async def trainer(home: Path, model_directory: Path, **settings: Any) -> AsyncIterator[Suite]:
    values = {"base_models": (f"random={model_directory}",), "sequence_wait_s": 0.5, **settings}
    async with serving(ROOM, home, **values) as address, Suite.connect(trainer=address) as suite:
        yield suite


async def test_a_parked_model_goes_on_to_the_bit(suite: Suite, tmp_path: Path) -> None:
    """T-05"""
    stays, leaves = await create(suite), await create(suite, idle_timeout=SOON)
    for model in (stays, leaves):
        await train(suite, model, 3)
    before = await look(suite, leaves)
    shown = await until_parked(suite, leaves)
    assert list((tmp_path / "checkpoints" / ".parked").glob("*/*/training/parked"))
    assert (shown.step, shown.lora, shown.trainable_parameters) == (3, before.lora, before.trainable_parameters)
    for model in (stays, leaves):
        await train(suite, model, 2)
    assert state(await save(suite, leaves)) == state(await save(suite, stays))
    assert (await look(suite, stays)).parked is False


async def test_seq_ids_and_answers_outlive_parking(suite: Suite) -> None:
    model = await create(suite, idle_timeout=SOON)
    await suite.trainer.ForwardBackward(forward_backward(model, 1))
    first = await suite.trainer.OptimStep(optim_step(model, 2))
    assert (await until_parked(suite, model)).last_seq_id == 2
    assert await suite.trainer.OptimStep(optim_step(model, 2)) == first
    assert (await look(suite, model)).parked, "a repeat is answered without the model"
    await suite.trainer.ForwardBackward(forward_backward(model, 3))
    assert (await suite.trainer.OptimStep(optim_step(model, 4))).step == 2


async def test_a_model_with_gradients_is_not_parked(suite: Suite) -> None:
    whole, interrupted = await create(suite), await create(suite, idle_timeout=SOON)
    for model in (whole, interrupted):
        await suite.trainer.ForwardBackward(forward_backward(model))
    await asyncio.sleep(1.5)
    assert not (await look(suite, interrupted)).parked
    for model in (whole, interrupted):
        await suite.trainer.OptimStep(optim_step(model))
    assert state(await save(suite, interrupted)) == state(await save(suite, whole))
    await until_parked(suite, interrupted)


@pytest.mark.parametrize("call", ["save", "save_weights", "load"])
async def test_any_call_brings_a_model_back(suite: Suite, call: str) -> None:
    model = await create(suite, idle_timeout=SOON)
    await train(suite, model, 1)
    saved = await save(suite, model, name="first")
    await until_parked(suite, model)
    if call == "save":
        assert state(await save(suite, model, name="second")) == state(saved)
    elif call == "save_weights":
        assert (await save_weights(suite, model)).step == 1
    else:
        request = LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri)
        assert (await suite.trainer.LoadState(request)).model.step == 0


async def test_the_least_recently_used_model_makes_room(tmp_path: Path, model_directory: Path) -> None:
    async with trainer(tmp_path, model_directory, max_models=2, max_parked=1, idle_timeout_s=0) as suite:
        first, second = await create(suite, "first"), await create(suite, "second")
        await train(suite, first, 1)
        await create(suite, "third")
        models = (await suite.trainer.ListModels(ListModelsRequest())).models
        assert {model.model_id: model.parked for model in models} == {"first": False, "second": True, "third": False}
        await train(suite, second, 1)
        assert (await look(suite, first)).parked, "who comes back makes room too"
        assert state(await save(suite, first)) == state(await save(suite, second))
        with pytest.raises(TinsmithError) as refused:
            await create(suite, "fourth")
        assert (refused.value.code.name, refused.value.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_MODELS")


async def test_models_that_hold_gradients_make_no_room(tmp_path: Path, model_directory: Path) -> None:
    async with trainer(tmp_path, model_directory, max_models=1) as suite:
        model = await create(suite)
        await suite.trainer.ForwardBackward(forward_backward(model))
        with pytest.raises(TinsmithError) as refused:
            await create(suite)
        assert refused.value.reason == "TOO_MANY_MODELS"
        await suite.trainer.OptimStep(optim_step(model))
        assert (await create(suite)).model_id


async def test_many_models_take_turns_in_little_memory(tmp_path: Path, model_directory: Path) -> None:
    """Calls of six models at once, of which two fit: each ends as if it were alone."""
    async with trainer(tmp_path, model_directory, max_models=2) as suite:
        models = [await create(suite, f"m{number}") for number in range(6)]
        async with asyncio.timeout(60):
            await asyncio.gather(*(train(suite, model, 4) for model in models))
            states = [state(await save(suite, model)) for model in models]
        assert states == [states[0]] * 6


async def test_parked_states_are_seen_by_nobody_and_go_with_their_model_and_process(
    tmp_path: Path, model_directory: Path
) -> None:
    folder = tmp_path / "checkpoints" / ".parked"
    (folder / "abandoned" / "model").mkdir(parents=True)
    (folder / "abandoned.lock").touch()
    (folder / "late" / "model").mkdir(parents=True)
    async with trainer(tmp_path, model_directory) as suite:
        assert not {path.name for path in folder.iterdir()} & {"abandoned", "late"}, (
            "what a killed process left goes at the start of the next"
        )
        kept, deleted = await create(suite, idle_timeout=SOON), await create(suite, idle_timeout=SOON)
        for model in (kept, deleted):
            await until_parked(suite, model)
        assert not (await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest())).checkpoints
        await suite.trainer.DeleteModel(DeleteModelRequest(model_id=deleted.model_id))

        async def one_is_left() -> bool:
            return len(list(folder.glob("*/*/training/parked"))) == 1

        await eventually(one_is_left)
    assert not list(folder.iterdir())


async def test_a_parked_state_that_was_taken_away_is_told(suite: Suite, tmp_path: Path) -> None:
    model = await create(suite, idle_timeout=SOON)
    await until_parked(suite, model)
    for weights in (tmp_path / "checkpoints" / ".parked").glob("*/*/training/parked/*.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(TinsmithError) as refused:
        await train(suite, model, 1)
    assert (refused.value.code.name, refused.value.reason) == ("INTERNAL", "PARKED_STATE_LOST")


@pytest.mark.parametrize("broken", ["put", "drop"])
async def test_a_disk_that_fails_while_a_model_is_parked_harms_nobody(
    tmp_path: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    async with trainer(tmp_path, model_directory, max_models=1) as suite:
        model = await create(suite, "model")
        await train(suite, model, 1)

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(ParkedStates, broken, fail)
        if broken == "put":
            with pytest.raises(TinsmithError) as refused:
                await create(suite, "other")
            assert refused.value.reason == "TOO_MANY_MODELS"
        else:
            await create(suite, "other")
            assert (await look(suite, model)).parked
        await train(suite, model, 1)
        assert (await look(suite, model)).step == 2


async def test_a_model_of_the_same_name_keeps_its_parked_state(tmp_path: Path) -> None:
    """The one before it may still be on its way out."""
    states = ParkedStates(tmp_path)
    states.open()
    old = states.put(draft("parked"), {"a": b"old"})
    new = states.put(draft("parked"), {"a": b"new"})
    states.drop(old)
    assert states.take(new) == {"a": b"new"}
    states.drop(new)
    with pytest.raises(Internal):
        states.take(new)
    states.close()


async def test_heartbeats_do_not_keep_a_model_in_memory(suite: Suite) -> None:
    model = await create(suite, idle_timeout=SOON)
    async with asyncio.timeout(20):
        while not (await look(suite, model)).parked:
            await suite.trainer.Heartbeat(HeartbeatRequest(model_ids=[model.model_id]))
            await asyncio.sleep(0.02)
