"""Checkpoints hold what they say, wherever the weights are (K-02)."""

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.conformance.calls import create, forward, forward_backward, optim_step, sample, train, values
from tests.conformance.worlds import BASE_MODEL, World
from tinsmith.aio import Suite, TinsmithError
from tinsmith.trainer.v1 import (
    CHECKPOINT_KIND_SAMPLER,
    CHECKPOINT_KIND_TRAINING,
    CreateModelRequest,
    DeleteCheckpointRequest,
    GetCheckpointRequest,
    ListCheckpointsRequest,
    LoadStateRequest,
    Model,
    SaveForSamplerRequest,
    SaveStateRequest,
    VerifyCheckpointRequest,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_saved_state_is_listed_and_whole(trainer: World) -> None:
    model = await create(trainer)
    await train(trainer.suite, model, 2)
    saved = (await trainer.suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    assert saved.uri == f"tinsmith://{model.model_id}/training/000002"
    assert (saved.step, saved.base_model, saved.kind) == (2, BASE_MODEL, CHECKPOINT_KIND_TRAINING)
    assert saved.lora == model.lora
    listed = await trainer.suite.checkpoints.ListCheckpoints(ListCheckpointsRequest(model_id=model.model_id))
    assert list(listed.checkpoints) == [saved]
    await trainer.suite.checkpoints.VerifyCheckpoint(VerifyCheckpointRequest(uri=saved.uri))


async def test_training_goes_on_from_a_loaded_state_as_if_nothing_had_happened(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    await train(suite, model, 2)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    expected = await train(suite, model, 3)
    loaded = await suite.trainer.LoadState(
        LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri, load_optimizer=True)
    )
    assert loaded.model.step == 2
    assert await train(suite, model, 3) == expected


async def test_model_is_made_of_a_checkpoint(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    await train(suite, model, 2)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    expected = await train(suite, model, 2)
    request = CreateModelRequest(checkpoint_uri=saved.uri, load_optimizer=True)
    again = (await suite.trainer.CreateModel(request)).model
    assert (again.step, again.base_model, again.lora) == (2, BASE_MODEL, model.lora)
    assert await train(suite, again, 2) == expected


async def test_without_the_optimizer_it_begins_anew(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    await train(suite, model, 2)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    before = values((await forward(suite, model)).logprobs)
    with_memory = await train(suite, model, 3)
    loaded = await suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri))
    assert loaded.model.step == 0
    assert values((await forward(suite, model)).logprobs).tolist() == before.tolist()
    without_memory = await train(suite, model, 3)
    assert without_memory[0] == with_memory[0]
    assert without_memory[2] != with_memory[2]


async def test_loading_drops_gradients(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    await forward_backward(suite, model)
    await suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri))
    with pytest.raises(TinsmithError) as refused:
        await optim_step(suite, model)
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "NO_GRADIENTS")


async def test_name_is_taken_until_it_is_overwritten(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    request = SaveStateRequest(model_id=model.model_id, name="best")
    await suite.trainer.SaveState(request)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.SaveState(request)
    assert (refused.value.code.name, refused.value.reason) == ("ALREADY_EXISTS", "CHECKPOINT_EXISTS")
    await train(suite, model, 1)
    request.overwrite = True
    saved = (await suite.trainer.SaveState(request)).checkpoint
    assert (saved.name, saved.step) == ("best", 1)
    assert await _step_after_loading(suite, model, saved.uri) == 1


async def test_named_and_ephemeral_sampler_weights(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    named = await suite.trainer.SaveForSampler(
        SaveForSamplerRequest(model_id=model.model_id, name="best", ttl=Duration(seconds=7200))
    )
    ephemeral = await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))
    assert named.checkpoint.uri == f"tinsmith://{model.model_id}/sampler/best"
    assert (named.checkpoint.ephemeral, ephemeral.checkpoint.ephemeral) == (False, True)
    assert named.checkpoint.kind == ephemeral.checkpoint.kind == CHECKPOINT_KIND_SAMPLER
    assert named.checkpoint.HasField("expire_time")
    for saved in (named, ephemeral):
        assert (await sample(trainer, [[72, 105]], saved.checkpoint.uri)).weights_version.startswith(f"{BASE_MODEL}+")


async def test_training_states_can_be_sampled_too(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    await train(suite, model, 2)
    state = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    weights = (await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))).checkpoint
    both = [await sample(trainer, [[72, 105], [7]], uri, temperature=0.0) for uri in (state.uri, weights.uri)]
    assert values(both[0].tokens).tolist() == values(both[1].tokens).tolist()


async def test_sampler_weights_have_no_optimizer(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    saved = (await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))).checkpoint
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.LoadState(
            LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri, load_optimizer=True)
        )
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "CHECKPOINT_MISMATCH")


async def test_deleted_checkpoint_is_gone(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    assert (await suite.checkpoints.DeleteCheckpoint(DeleteCheckpointRequest(uri=saved.uri))).deleted
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=saved.uri))
    assert (refused.value.code.name, refused.value.reason) == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND")


@pytest.mark.parametrize("lora", [{"rank": 2}, {"rank": 4, "train_mlp": False}])
async def test_checkpoint_of_another_shape_is_refused_and_nothing_changed(trainer: World, lora: dict[str, Any]) -> None:
    suite = trainer.suite
    model, other = await create(trainer), await create(trainer, lora=lora)
    saved = (await suite.trainer.SaveState(SaveStateRequest(model_id=other.model_id))).checkpoint
    before = values((await forward(suite, model)).logprobs)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri))
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "CHECKPOINT_MISMATCH")
    assert values((await forward(suite, model)).logprobs).tolist() == before.tolist()


async def _step_after_loading(suite: Suite, model: Model, uri: str) -> int:
    request = LoadStateRequest(model_id=model.model_id, checkpoint_uri=uri, load_optimizer=True)
    return (await suite.trainer.LoadState(request)).model.step
