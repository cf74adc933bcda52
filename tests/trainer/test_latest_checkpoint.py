""" "latest": the newest checkpoint that is whole, and what was gone past."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.storage.drafts import draft
from tests.trainer.calls import ROWS, batch, create, forward_backward, optim_step
from tests.trainer.saving import look, save, save_weights, state, train
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.trainer.v1 import (
    AdamParams,
    Checkpoint,
    CopyCheckpointRequest,
    CreateModelRequest,
    GetCheckpointRequest,
    LoadStateRequest,
    Model,
    VerifyCheckpointRequest,
)
from tinsmith.types.v1 import Column
from tinsmith_server.storage import CheckpointDraft, CheckpointStore, CheckpointUri, Manifest, resolve
from tinsmith_server.trainer.checkpoints import stored_state

WEIGHTS = "adapter_model.safetensors"


def latest(model: Model, kind: str = "training") -> str:
    return f"tinsmith://{model.model_id}/{kind}/latest"


def flip(home: Path, checkpoint: Checkpoint, file: str = WEIGHTS) -> None:
    """Changes one bit of a stored file."""
    path = home / "checkpoints" / checkpoint.uri.removeprefix("tinsmith://") / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


async def three_checkpoints(suite: Suite) -> tuple[Model, list[Checkpoint]]:
    model = await create(suite)
    saved = []
    for _ in range(3):
        await train(suite, model, 1)
        saved.append(await save(suite, model))
    return model, saved


async def test_latest_is_the_newest(suite: Suite) -> None:
    model, saved = await three_checkpoints(suite)
    created = await suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=latest(model), load_optimizer=True))
    assert (created.model.step, created.restored_from, list(created.skipped)) == (3, saved[2], [])
    assert (await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=latest(model)))).checkpoint == saved[2]
    weights = await save_weights(suite, model)
    found = await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=latest(model, "sampler")))
    assert found.checkpoint == weights


async def test_an_answer_names_the_checkpoint_of_a_plain_uri_too(suite: Suite) -> None:
    model, saved = await three_checkpoints(suite)
    created = await suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=saved[0].uri))
    assert created.restored_from == saved[0]
    request = LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved[1].uri)
    assert (await suite.trainer.LoadState(request)).restored_from == saved[1]
    assert not (await suite.trainer.CreateModel(CreateModelRequest(base_model="random"))).HasField("restored_from")


@pytest.mark.parametrize("file", [WEIGHTS, "optimizer.safetensors", "adapter_config.json", "manifest.json"])
async def test_damaged_ones_are_gone_past_and_named(suite: Suite, tmp_path: Path, file: str) -> None:
    """R-01"""
    model, saved = await three_checkpoints(suite)
    for checkpoint in saved[1:]:
        flip(tmp_path, checkpoint, file)
    created = await suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=latest(model), load_optimizer=True))
    loaded = await suite.trainer.LoadState(
        LoadStateRequest(model_id=model.model_id, checkpoint_uri=latest(model), load_optimizer=True)
    )
    found = await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=latest(model)))
    for answer, taken in ((created, created.restored_from), (loaded, loaded.restored_from), (found, found.checkpoint)):
        assert taken == saved[0]
        assert [(item.uri, item.reason) for item in answer.skipped] == [
            (checkpoint.uri, "CHECKPOINT_CORRUPT") for checkpoint in reversed(saved[1:])
        ]
        assert all(file in item.message for item in answer.skipped)
    assert created.model.step == loaded.model.step == 1
    again = await save(suite, created.model)
    assert state(again) == state(saved[0])


async def test_when_all_are_damaged_nothing_is_guessed(suite: Suite, tmp_path: Path) -> None:
    """R-01: the exhausted one."""
    model, saved = await three_checkpoints(suite)
    for checkpoint in saved:
        flip(tmp_path, checkpoint)
    for call in (
        suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=latest(model))),
        suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri=latest(model))),
        suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=latest(model))),
    ):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert (refused.value.code.name, refused.value.reason) == ("DATA_LOSS", "NO_GOOD_CHECKPOINT")
        assert refused.value.metadata["damaged"].split(",") == [checkpoint.uri for checkpoint in reversed(saved)]
    assert (await look(suite, model)).step == 3


async def test_without_checkpoints_there_is_no_latest(suite: Suite) -> None:
    model = await create(suite)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=latest(model)))
    assert (refused.value.code.name, refused.value.reason) == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND")


async def test_a_sampler_checkpoint_that_is_newest_is_no_damage(suite: Suite) -> None:
    """It lacks the optimizer that is asked for, which going back would not mend."""
    model = await create(suite)
    await save_weights(suite, model, name="w")
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.CreateModel(
            CreateModelRequest(checkpoint_uri=latest(model, "sampler"), load_optimizer=True)
        )
    assert refused.value.reason == "CHECKPOINT_MISMATCH"


async def test_no_checkpoint_can_take_the_name(suite: Suite) -> None:
    model = await create(suite)
    saved = await save(suite, model)
    for call in (
        save(suite, model, name="latest"),
        save_weights(suite, model, name="latest"),
        suite.checkpoints.CopyCheckpoint(CopyCheckpointRequest(source_uri=saved.uri, target_uri=latest(model))),
    ):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", "RESERVED_NAME")


@pytest.mark.parametrize(("file", "number"), [(WEIGHTS, float("nan")), ("optimizer.safetensors", float("-inf"))])
async def test_weights_that_are_not_finite_are_not_loaded(
    suite: Suite, tmp_path: Path, file: str, number: float
) -> None:
    """Stored by something that did not look: every checksum agrees."""
    model = await create(suite)
    good = await save(suite, model)
    store = CheckpointStore(tmp_path / "checkpoints")
    manifest = store.manifest(CheckpointUri.parse(good.uri))
    files = {entry.name: store.read(manifest, entry.name) for entry in manifest.files}
    tensors = safetensors.torch.load(files[file])
    name = next(name for name in tensors if tensors[name].is_floating_point())
    tensors[name].view(-1)[0] = number
    uri = CheckpointUri(model_id=model.model_id, kind="training", name="bad")
    draft = CheckpointDraft(uri=uri, step=1, base_model="random", lora=manifest.lora)
    store.publish(draft, {**files, file: safetensors.torch.save(tensors)}, durable=False)
    for call in (
        suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=str(uri), load_optimizer=True)),
        suite.trainer.LoadState(
            LoadStateRequest(model_id=model.model_id, checkpoint_uri=str(uri), load_optimizer=True)
        ),
        suite.checkpoints.VerifyCheckpoint(VerifyCheckpointRequest(uri=str(uri))),
    ):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert (refused.value.code.name, refused.value.reason) == ("DATA_LOSS", "WEIGHTS_NOT_FINITE")
        assert (refused.value.metadata["file"], refused.value.metadata["tensor"]) == (file, name)
    created = await suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=latest(model), load_optimizer=True))
    assert [(item.uri, item.reason) for item in created.skipped] == [(str(uri), "WEIGHTS_NOT_FINITE")]
    assert created.restored_from == good


async def test_weights_that_are_not_finite_are_never_stored(suite: Suite) -> None:
    model = await create(suite)
    good = await save(suite, model)
    nothing_counts = batch(weights=Column(ragged=ragged([[0.0] * len(row) for row in ROWS], np.float32)))
    for _ in range(4):  # each multiplies the weights by minus 1e12
        await suite.trainer.ForwardBackward(forward_backward(model, batch=nothing_counts))
        await suite.trainer.OptimStep(optim_step(model, adam=AdamParams(learning_rate=1e6, weight_decay=1e6)))
    for call in (save(suite, model, name="bad"), save_weights(suite, model)):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "WEIGHTS_NOT_FINITE")
    request = LoadStateRequest(model_id=model.model_id, checkpoint_uri=latest(model), load_optimizer=True)
    assert (await suite.trainer.LoadState(request)).restored_from == good
    assert state(await save(suite, model, name="again")) == state(good)


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    files = {WEIGHTS: safetensors.torch.save({"a": torch.ones(2)})}
    store.publish(draft(), files, durable=False)
    check, replaced = stored_state.check_finite, []

    def replace_and_check(*args: Any) -> None:
        if not replaced:
            replaced.append(store.publish(draft(step=2), files, durable=False, overwrite=True))
        check(*args)

    monkeypatch.setattr(stored_state, "check_finite", replace_and_check)
    uri = CheckpointUri.parse("tinsmith://model/training/latest")
    for load in (partial(stored_state.read_state, store, with_optimizer=False), partial(stored_state.verify, store)):
        replaced.clear()
        found = resolve(store, uri, load)
        manifest = found.value if isinstance(found.value, Manifest) else found.value.manifest
        assert (manifest, found.skipped) == (replaced[0], ())
