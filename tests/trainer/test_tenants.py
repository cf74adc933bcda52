"""What one tenant has in the trainer, another neither sees nor touches."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.serving.tenancy import key_of, write_tenants
from tests.support import serving
from tests.trainer.calls import batch, forward_backward, optim_step
from tests.trainer.saving import adapter, eventually, is_there, save, save_weights, train
from tinsmith import Addresses, TinsmithError
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    CopyCheckpointRequest,
    CreateModelRequest,
    DeleteCheckpointRequest,
    DeleteModelRequest,
    DownloadCheckpointRequest,
    GetCheckpointRequest,
    GetModelRequest,
    HeartbeatRequest,
    ListCheckpointsRequest,
    ListModelsRequest,
    LoadStateRequest,
    Model,
    PublishCheckpointRequest,
    SaveStateRequest,
    SetCheckpointTtlRequest,
    VerifyCheckpointRequest,
)
from tinsmith_server.trainer import ROOM

SERVICE_KEY = "k" * 32
LIMITED = grpc.StatusCode.RESOURCE_EXHAUSTED


@dataclass(frozen=True, kw_only=True, slots=True)
class Town:
    """Clients of one trainer."""

    alice: Suite
    bob: Suite
    room: Suite
    """A room of the suite, by its service key."""


@pytest.fixture
async def town(tmp_path: Path, model_directory: Path) -> AsyncIterator[Town]:
    settings = {"base_models": (f"random={model_directory}",), "sequence_wait_s": 0.3, "max_models": 2}
    keys = {"api_keys": write_tenants(tmp_path, alice="", bob=""), "service_key": SERVICE_KEY}
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serving(ROOM, tmp_path, **settings, **keys))
        suites = [
            Suite(Addresses(trainer=address), api_key=key) for key in (key_of("alice"), key_of("bob"), SERVICE_KEY)
        ]
        for suite in suites:
            await stack.enter_async_context(suite)
        yield Town(alice=suites[0], bob=suites[1], room=suites[2])


async def model_of(suite: Suite, model_id: str = "", **fields: Any) -> Model:
    request = CreateModelRequest(model_id=model_id, base_model="random", **fields)
    return (await suite.trainer.CreateModel(request)).model


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(TinsmithError) as failed:
        await call
    return failed.value.code, failed.value.reason


async def test_the_model_of_another_tenant_is_not_there(town: Town) -> None:
    model = await model_of(town.alice)
    bob, model_id = town.bob.trainer, model.model_id
    calls = [
        bob.GetModel(GetModelRequest(model_id=model_id)),
        bob.ForwardBackward(forward_backward(model)),
        bob.OptimStep(optim_step(model)),
        bob.SaveState(SaveStateRequest(model_id=model_id)),
    ]
    for call in calls:
        assert await refused(call) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert not (await bob.DeleteModel(DeleteModelRequest(model_id=model_id))).deleted
    assert list((await bob.Heartbeat(HeartbeatRequest(model_ids=[model_id]))).unknown_model_ids) == [model_id]
    seen = [
        [m.model_id for m in (await suite.trainer.ListModels(ListModelsRequest())).models]
        for suite in (town.alice, town.bob, town.room)
    ]
    assert seen == [[model_id], [], [model_id]]
    await train(town.alice, model, 1)


def damage(home: Path, name: str) -> None:
    """Spoils what says what is in a checkpoint."""
    manifest = next(path for path in home.rglob("manifest.json") if path.parent.name.startswith(f".{name}."))
    manifest.write_text("{")


async def test_a_repeated_creation_is_that_of_the_same_tenant(town: Town) -> None:
    request_id = "1" * 36
    made = [await model_of(suite, request_id=request_id) for suite in (town.alice, town.bob, town.alice)]
    assert made[0].model_id == made[2].model_id != made[1].model_id


async def test_the_checkpoint_of_another_tenant_is_not_there(town: Town) -> None:
    model = await model_of(town.alice)
    await train(town.alice, model, 1)
    mine = await save(town.alice, model, name="a")
    theirs = await model_of(town.bob)
    bob = town.bob.checkpoints
    calls = [
        bob.GetCheckpoint(GetCheckpointRequest(uri=mine.uri)),
        bob.GetCheckpoint(GetCheckpointRequest(uri=f"tinsmith://{model.model_id}/training/latest")),
        bob.VerifyCheckpoint(VerifyCheckpointRequest(uri=mine.uri)),
        bob.SetCheckpointTtl(SetCheckpointTtlRequest(uri=mine.uri)),
        bob.PublishCheckpoint(PublishCheckpointRequest(uri=mine.uri, published=True)),
        bob.CopyCheckpoint(CopyCheckpointRequest(source_uri=mine.uri, target_uri="tinsmith://stolen/training/a")),
        anext(bob.DownloadCheckpoint(DownloadCheckpointRequest(uri=mine.uri))),
        town.bob.trainer.CreateModel(CreateModelRequest(checkpoint_uri=mine.uri)),
        town.bob.trainer.LoadState(LoadStateRequest(model_id=theirs.model_id, checkpoint_uri=mine.uri)),
    ]
    for call in calls:
        assert await refused(call) == (grpc.StatusCode.NOT_FOUND, "CHECKPOINT_NOT_FOUND")
    assert not (await bob.DeleteCheckpoint(DeleteCheckpointRequest(uri=mine.uri))).deleted
    for suite, uris in ((town.alice, [mine.uri]), (town.bob, []), (town.room, [mine.uri])):
        listed = await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest())
        assert [checkpoint.uri for checkpoint in listed.checkpoints] == uris
    assert (await town.alice.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=mine.uri))).checkpoint == mine


async def test_a_published_checkpoint_may_be_read_by_all_and_changed_by_its_owner(town: Town) -> None:
    model = await model_of(town.alice)
    await train(town.alice, model, 1)
    mine = await save(town.alice, model, name="a")
    await town.alice.checkpoints.PublishCheckpoint(PublishCheckpointRequest(uri=mine.uri, published=True))
    bob = town.bob.checkpoints
    copied = await bob.CopyCheckpoint(CopyCheckpointRequest(source_uri=mine.uri, target_uri="tinsmith://b/training/a"))
    assert adapter(copied.checkpoint) == adapter(mine)
    created = await town.bob.trainer.CreateModel(CreateModelRequest(checkpoint_uri=mine.uri, load_optimizer=True))
    assert created.model.step == 1
    assert (await refused(bob.SetCheckpointTtl(SetCheckpointTtlRequest(uri=mine.uri))))[1] == "CHECKPOINT_NOT_FOUND"
    assert not (await bob.DeleteCheckpoint(DeleteCheckpointRequest(uri=mine.uri))).deleted
    beside = f"tinsmith://{model.model_id}/training/of-bob"
    copy = bob.CopyCheckpoint(CopyCheckpointRequest(source_uri=copied.checkpoint.uri, target_uri=beside))
    assert await refused(copy) == (grpc.StatusCode.ALREADY_EXISTS, "CHECKPOINT_EXISTS")
    found = await town.alice.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=mine.uri))
    assert found.checkpoint.published
    assert adapter(found.checkpoint) == adapter(mine)
    get = town.alice.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=copied.checkpoint.uri))
    assert (await refused(get))[1] == "CHECKPOINT_NOT_FOUND", "a copy is the copier's, and not published"


async def test_a_model_id_that_was_another_tenants_can_not_be_written_to(town: Town) -> None:
    model = await model_of(town.alice, "shared-name")
    await train(town.alice, model, 1)
    mine = await save(town.alice, model, name="a")
    await town.alice.trainer.DeleteModel(DeleteModelRequest(model_id="shared-name"))
    squatter = await model_of(town.bob, "shared-name")
    for fields in ({"name": "a", "overwrite": True}, {"name": "b"}):
        saving = town.bob.trainer.SaveState(SaveStateRequest(model_id=squatter.model_id, **fields))
        assert (await refused(saving))[1] == "CHECKPOINT_EXISTS"
    found = await town.alice.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=mine.uri))
    assert found.checkpoint == mine


async def test_a_damaged_checkpoint_of_another_tenant_is_not_there_either(town: Town, tmp_path: Path) -> None:
    model = await model_of(town.alice)
    for name in ("whole", "damaged"):
        await train(town.alice, model, 1)
        await save(town.alice, model, name=name)
    uri = f"tinsmith://{model.model_id}/training/"
    damage(tmp_path, "damaged")
    get = town.alice.checkpoints.GetCheckpoint
    assert (await refused(get(GetCheckpointRequest(uri=uri + "damaged"))))[1] == "CHECKPOINT_CORRUPT"
    await town.alice.checkpoints.PublishCheckpoint(PublishCheckpointRequest(uri=uri + "whole", published=True))
    get = town.bob.checkpoints.GetCheckpoint
    assert (await refused(get(GetCheckpointRequest(uri=uri + "damaged"))))[1] == "CHECKPOINT_NOT_FOUND"
    assert not (await get(GetCheckpointRequest(uri=uri + "latest"))).skipped


async def test_a_released_model_takes_none_of_another_tenants_weights_along(town: Town) -> None:
    """Whoever cleans up may remove everybody's: it must not be told to."""
    model = await model_of(town.alice, "shared-name")
    weights = await save_weights(town.alice, model)
    await town.alice.checkpoints.PublishCheckpoint(PublishCheckpointRequest(uri=weights.uri, published=True))
    await town.alice.trainer.DeleteModel(DeleteModelRequest(model_id="shared-name"))
    await model_of(town.bob, "shared-name", heartbeat_timeout=Duration(nanos=100_000_000))

    async def is_released() -> bool:
        return not await is_there(town.bob, "shared-name")

    await eventually(is_released)
    await model_of(town.bob, "shared-name")  # after the farewell of the one before
    found = await town.alice.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=weights.uri))
    assert found.checkpoint.uri == weights.uri


async def test_what_a_room_saves_of_a_tenants_model_is_the_tenants(town: Town) -> None:
    model = await model_of(town.alice)
    saved = await save(town.room, model, name="by-the-suite")
    found = await town.alice.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=saved.uri))
    assert found.checkpoint == saved
    await save(town.alice, model, name="by-alice")


async def test_models_of_several_tenants_are_parked_for_each_other(town: Town) -> None:
    """Whose call needs the room does not matter: nothing is lost, and nothing of it becomes the other's."""
    models = [(suite, await model_of(suite)) for suite in (town.alice, town.bob, town.alice, town.bob)]
    for _ in range(2):
        for suite, model in models:
            await train(suite, model, 1)
    saved = [await save_weights(suite, model, name="w") for suite, model in models]
    assert len({checkpoint.uri for checkpoint in saved}) == 4
    assert [checkpoint.step for checkpoint in saved] == [2] * 4
    listed = await town.alice.checkpoints.ListCheckpoints(ListCheckpointsRequest())
    assert {checkpoint.uri for checkpoint in listed.checkpoints} == {saved[0].uri, saved[2].uri}


async def test_tokens_that_are_trained_on_count_against_their_tenant(tmp_path: Path, model_directory: Path) -> None:
    """R-02: the eleven tokens of the first call are more than the ten that may be saved up."""
    keys = write_tenants(tmp_path, alice="tokens_per_s = 0.1\nburst_s = 100.0")
    settings = {"base_models": (f"random={model_directory}",), "api_keys": keys}
    async with (
        serving(ROOM, tmp_path, **settings) as address,
        Suite(Addresses(trainer=address), api_key=key_of("alice")) as alice,
    ):
        model = await model_of(alice)
        await alice.trainer.ForwardBackward(forward_backward(model, batch=batch([[1] * 11])))
        assert await refused(alice.trainer.OptimStep(optim_step(model))) == (LIMITED, "RATE_LIMITED")
