"""Saving, loading, listing, transferring checkpoints through the public client."""

import hashlib
import resource
import signal
from pathlib import Path

import pytest

from tests.support import serving
from tests.trainer.calls import create, forward_backward, optim_step
from tests.trainer.saving import adapter, save, save_weights, train
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    CHECKPOINT_KIND_SAMPLER,
    CHECKPOINT_KIND_TRAINING,
    CopyCheckpointRequest,
    CreateModelRequest,
    DeleteCheckpointRequest,
    DeleteModelRequest,
    DownloadCheckpointRequest,
    GetCheckpointRequest,
    GetModelRequest,
    ListCheckpointsRequest,
    LoadStateRequest,
    PublishCheckpointRequest,
    SaveForSamplerRequest,
    SetCheckpointTtlRequest,
    VerifyCheckpointRequest,
)
from tinsmith.types.v1 import LoraConfig
from tinsmith_server.serving import CannotServe
from tinsmith_server.trainer import ROOM


async def test_a_run_that_was_interrupted_ends_like_one_that_was_not(tmp_path: Path, model_directory: Path) -> None:
    """The trainer is stopped and started anew between two steps."""
    settings = {"base_models": (f"random={model_directory}",)}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        whole = await create(suite, user_metadata={"run": "7"})
        await train(suite, whole, 2)
        saved = await save(suite, whole)
        await train(suite, whole, 3)
        expected = await save_weights(suite, whole)
    assert (saved.name, saved.step, dict(saved.user_metadata)) == ("000002", 2, {"run": "7"})
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        request = CreateModelRequest(model_id=whole.model_id, checkpoint_uri=saved.uri, load_optimizer=True)
        resumed = (await suite.trainer.CreateModel(request)).model
        assert (resumed.step, resumed.lora) == (2, whole.lora)
        await train(suite, resumed, 3)
        assert adapter(await save_weights(suite, resumed)) == adapter(expected)


async def test_loading_brings_back_weights_and_optimizer_or_weights_alone(suite: Suite) -> None:
    model = await create(suite)
    await train(suite, model, 2)
    saved = await save(suite, model)
    await train(suite, model, 1)
    after = adapter(await save_weights(suite, model))
    await suite.trainer.ForwardBackward(forward_backward(model))  # dropped by loading
    request = LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri, load_optimizer=True)
    assert (await suite.trainer.LoadState(request)).model.step == 2
    assert adapter(await save_weights(suite, model)) == adapter(saved)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.OptimStep(optim_step(model))
    assert refused.value.reason == "NO_GRADIENTS"
    await train(suite, model, 1)
    assert adapter(await save_weights(suite, model)) == after
    request.load_optimizer = False
    assert (await suite.trainer.LoadState(request)).model.step == 0
    assert adapter(await save_weights(suite, model)) == adapter(saved)


@pytest.mark.parametrize(
    ("lora", "from_sampler"),
    [
        (LoraConfig(rank=8, alpha=8), False),
        (LoraConfig(rank=4, alpha=4), False),
        (LoraConfig(rank=4, alpha=8, train_mlp=False), False),
        (LoraConfig(rank=4, alpha=8), True),
    ],
)
async def test_a_checkpoint_that_does_not_fit_leaves_the_model_as_it_is(
    suite: Suite, lora: LoraConfig, from_sampler: bool
) -> None:
    source, model = await create(suite), await create(suite, lora=lora)
    saved = await save_weights(suite, source, name="w") if from_sampler else await save(suite, source)
    before = adapter(await save_weights(suite, model))
    request = LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri, load_optimizer=True)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.LoadState(request)
    assert (refused.value.code.name, refused.value.reason) == ("FAILED_PRECONDITION", "CHECKPOINT_MISMATCH")
    assert adapter(await save_weights(suite, model)) == before


async def test_a_damaged_checkpoint_is_not_loaded(suite: Suite, tmp_path: Path) -> None:
    model = await create(suite)
    saved = await save(suite, model)
    path = tmp_path / "checkpoints" / model.model_id / "training" / saved.name / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for call in (
        suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=saved.uri)),
        suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri=saved.uri)),
        suite.checkpoints.VerifyCheckpoint(VerifyCheckpointRequest(uri=saved.uri)),
    ):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert (refused.value.code.name, refused.value.reason) == ("DATA_LOSS", "CHECKPOINT_CORRUPT")


async def test_a_taken_name_is_refused_unless_overwriting(suite: Suite) -> None:
    model = await create(suite)
    first = await save(suite, model, name="best")
    await train(suite, model, 1)
    with pytest.raises(TinsmithError) as refused:
        await save(suite, model, name="best")
    assert (refused.value.code.name, refused.value.reason) == ("ALREADY_EXISTS", "CHECKPOINT_EXISTS")
    second = await save(suite, model, name="best", overwrite=True)
    assert (second.uri, second.step) == (first.uri, 1)
    assert (await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=first.uri))).checkpoint == second


async def test_only_the_newest_ephemeral_weights_are_kept(suite: Suite) -> None:
    model = await create(suite)
    named = await save_weights(suite, model, name="kept")
    made = [await save_weights(suite, model) for _ in range(6)]
    assert all(checkpoint.ephemeral for checkpoint in made)
    assert not named.ephemeral
    request = ListCheckpointsRequest(model_id=model.model_id, kind=CHECKPOINT_KIND_SAMPLER)
    stored = (await suite.checkpoints.ListCheckpoints(request)).checkpoints
    assert [checkpoint.uri for checkpoint in stored] == [named.uri, *(checkpoint.uri for checkpoint in made[-4:])]


async def test_ephemeral_weights_of_an_earlier_process_count_too(tmp_path: Path, model_directory: Path) -> None:
    settings = {"base_models": (f"random={model_directory}",), "kept_ephemeral": 2}
    for _ in range(2):
        async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
            model = await create(suite, "same")
            newest = [await save_weights(suite, model) for _ in range(2)]
            stored = await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest(model_id="same"))
            assert [checkpoint.uri for checkpoint in stored.checkpoints] == [checkpoint.uri for checkpoint in newest]


async def test_a_repeated_save_returns_the_first_answer(suite: Suite) -> None:
    model = await create(suite)
    request = SaveForSamplerRequest(model_id=model.model_id, seq_id=1)
    first = await suite.trainer.SaveForSampler(request)
    assert await suite.trainer.SaveForSampler(request) == first


async def test_checkpoints_are_listed_in_pages(suite: Suite) -> None:
    model, other = await create(suite, "a"), await create(suite, "b")
    made = [(await save(suite, model, name=str(number))).uri for number in range(4)] + [(await save(suite, other)).uri]
    found, token = [], ""
    for _ in range(3):
        page = await suite.checkpoints.ListCheckpoints(
            ListCheckpointsRequest(kind=CHECKPOINT_KIND_TRAINING, page_size=2, page_token=token)
        )
        found += [checkpoint.uri for checkpoint in page.checkpoints]
        token = page.next_page_token
    assert found == made
    assert token == ""


async def test_a_download_is_what_was_saved(suite: Suite) -> None:
    model = await create(suite)
    saved = await save(suite, model)
    contents: dict[str, bytes] = {}
    name = ""
    async for piece in suite.checkpoints.DownloadCheckpoint(DownloadCheckpointRequest(uri=saved.uri)):
        name = piece.file.name or name
        assert piece.offset == len(contents.setdefault(name, b""))
        contents[name] += piece.data
    assert {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()} == {
        file.name: file.sha256 for file in saved.files
    }


async def test_life_time_publication_copy_and_deletion(suite: Suite) -> None:
    model = await create(suite)
    saved = await save(suite, model, ttl={"seconds": 60})
    assert saved.expire_time.seconds - saved.create_time.seconds == pytest.approx(60, abs=1)
    kept = await suite.checkpoints.SetCheckpointTtl(SetCheckpointTtlRequest(uri=saved.uri))
    assert not kept.checkpoint.HasField("expire_time")
    published = await suite.checkpoints.PublishCheckpoint(PublishCheckpointRequest(uri=saved.uri, published=True))
    assert published.checkpoint.published
    target = "tinsmith://elsewhere/training/copy"
    copy = await suite.checkpoints.CopyCheckpoint(CopyCheckpointRequest(source_uri=saved.uri, target_uri=target))
    assert (copy.checkpoint.uri, adapter(copy.checkpoint)) == (target, adapter(saved))
    again = await suite.checkpoints.CopyCheckpoint(CopyCheckpointRequest(source_uri=saved.uri, target_uri=target))
    assert again == copy, "R-12: a repeat has no effect and the same answer"
    for expected in (True, False):
        answer = await suite.checkpoints.DeleteCheckpoint(DeleteCheckpointRequest(uri=saved.uri))
        assert answer.deleted == expected
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=saved.uri))
    assert refused.value.reason == "CHECKPOINT_NOT_FOUND"
    assert (await suite.checkpoints.VerifyCheckpoint(VerifyCheckpointRequest(uri=target))).checkpoint.uri == target


async def test_a_copy_does_not_replace_another_checkpoint(suite: Suite) -> None:
    model = await create(suite)
    first = await save(suite, model, name="first")
    await train(suite, model, 1)
    second = await save(suite, model, name="second")
    request = CopyCheckpointRequest(source_uri=first.uri, target_uri=second.uri)
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.CopyCheckpoint(request)
    assert refused.value.reason == "CHECKPOINT_EXISTS"


async def test_checkpoints_outlive_their_model(suite: Suite) -> None:
    model = await create(suite)
    saved = await save(suite, model)
    await suite.trainer.DeleteModel(DeleteModelRequest(model_id=model.model_id))
    again = await suite.trainer.CreateModel(CreateModelRequest(model_id=model.model_id, checkpoint_uri=saved.uri))
    assert (await suite.trainer.GetModel(GetModelRequest(model_id=model.model_id))).model.lora == again.model.lora


async def test_a_full_disk_is_reported_and_training_goes_on(suite: Suite) -> None:
    """A limit on the size of files, which the kernel reports as it reports a full disk."""
    model = await create(suite)
    await train(suite, model, 1)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(TinsmithError) as refused:
            await save(suite, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (refused.value.code.name, refused.value.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
    assert not (await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest())).checkpoints
    await train(suite, model, 1)
    assert (await save(suite, model)).step == 2


@pytest.mark.parametrize(
    ("setting", "says"), [("base_models", "base model"), ("checkpoint_root", "can't keep checkpoints in")]
)
async def test_a_room_that_can_not_start_says_what_to_change(
    tmp_path: Path, model_directory: Path, setting: str, says: str
) -> None:
    (tmp_path / "file").write_text("")
    wrong = {"base_models": (str(tmp_path / "nothing"),), "checkpoint_root": tmp_path / "file" / "checkpoints"}
    settings = {"base_models": (f"random={model_directory}",), setting: wrong[setting]}
    with pytest.raises(CannotServe, match=f"{says}.*setting {setting}"):
        async with serving(ROOM, tmp_path, **settings):
            pass
