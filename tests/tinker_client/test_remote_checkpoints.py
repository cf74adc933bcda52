"""Checkpoints whose weights stay at the service: what our storage has of them, and who can use them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.conformance.calls import create as create_model
from tests.conformance.calls import sample_request, train
from tests.conformance.worlds import World, local
from tests.tinker_client.conftest import Bench
from tests.tinker_client.test_training_faults import create
from tinsmith.aio import TinsmithError
from tinsmith.trainer.v1 import CreateModelRequest, SaveForSamplerRequest, SaveStateRequest
from tinsmith_server.serving.errors import DataLoss, FailedPrecondition
from tinsmith_server.storage import CheckpointStore
from tinsmith_server.tinker_client.remote_checkpoint import FILE, Adapted, RemoteCheckpoint, fresh_name, ttl_seconds

pytestmark = pytest.mark.asyncio(loop_scope="module")
ADAPTED = Adapted(rank=4, attention=True, mlp=True, unembedding=False)


async def test_storage_has_their_name_and_nothing_else(bench: Bench) -> None:
    model = await create(bench.suite)
    await train(bench.suite, model, 1)
    saved = (await bench.suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id))).checkpoint
    assert [file.name for file in saved.files] == [FILE]
    store = CheckpointStore(bench.home / "checkpoints")
    (manifest,) = store.list(model_id=model.model_id)
    remote = RemoteCheckpoint.of({FILE: store.read(manifest, FILE)})
    assert remote.path.startswith("tinker://")
    assert (remote.step, remote.has_optimizer) == (1, True)


async def test_service_keeps_them_as_long_as_they_are_wanted(bench: Bench) -> None:
    model = await create(bench.suite)
    request = SaveForSamplerRequest(model_id=model.model_id)
    there = CheckpointStore(bench.home / "service" / "checkpoints")
    before = {str(manifest.uri) for manifest in there.list()}
    for name, ttl_s in (("kept", 0), ("two-hours", 7200), ("short", 60), ("", 0)):
        request.name = name
        if ttl_s:
            request.ttl.CopyFrom(Duration(seconds=ttl_s))
        else:
            request.ClearField("ttl")
        await bench.suite.trainer.SaveForSampler(request)
    made = [manifest for manifest in there.list() if str(manifest.uri) not in before]
    hours = [
        manifest.expire_time and round((manifest.expire_time - datetime.now(UTC)) / timedelta(hours=1))
        for manifest in made
    ]
    assert hours == [None, 2, 1, 24]


async def test_only_the_tinker_backend_uses_them(bench: Bench, tmp_path: Path, model_directory: Path) -> None:
    """And it uses no others."""
    remote = await create(bench.suite)
    state = (await bench.suite.trainer.SaveState(SaveStateRequest(model_id=remote.model_id))).checkpoint
    weights = (await bench.suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=remote.model_id))).checkpoint
    async with local(bench.home, model_directory) as here:
        assert await _refusals(here, state.uri, weights.uri) == ["CHECKPOINT_MISMATCH", "ADAPTER_UNSUPPORTED"]
        own = await create_model(here)
        state = (await here.suite.trainer.SaveState(SaveStateRequest(model_id=own.model_id))).checkpoint
        weights = (await here.suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=own.model_id))).checkpoint
    there = World(backend="tinker", suite=bench.suite)
    assert await _refusals(there, state.uri, weights.uri) == ["CHECKPOINT_MISMATCH", "CHECKPOINT_MISMATCH"]


async def _refusals(world: World, state: str, weights: str) -> list[str]:
    reasons = []
    for call in (
        world.suite.trainer.CreateModel(CreateModelRequest(checkpoint_uri=state)),
        world.suite.sampler.Sample(sample_request([[1]], weights)),
    ):
        with pytest.raises(TinsmithError) as refused:
            await call
        assert refused.value.code.name == "FAILED_PRECONDITION"
        reasons.append(refused.value.reason)
    return reasons


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"path": "tinker://run/weights/name"}',
        b'{"path": "tinker://run/weights/name", "step": 1}',
    ],
)
async def test_damaged_file_names_no_weights(content: bytes) -> None:
    with pytest.raises(DataLoss) as refused:
        RemoteCheckpoint.of({FILE: content})
    assert refused.value.reason == "CHECKPOINT_CORRUPT"


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": "tinker://run/elsewhere/name"},
        {"path": "https://run/weights/name"},
        {"path": "tinker://run/weights/../name"},
        {"path": 5},
        {"step": "many"},
        {"adapted": {}},
        {"adapted": None},
    ],
)
async def test_wrong_field_names_no_weights(wrong: dict[str, object]) -> None:
    written = RemoteCheckpoint(path="tinker://run/weights/name", step=1, adapted=ADAPTED).files()
    assert RemoteCheckpoint.of(written).step == 1
    with pytest.raises(DataLoss) as refused:
        RemoteCheckpoint.of({FILE: json.dumps({**json.loads(written[FILE]), **wrong}).encode()})
    assert refused.value.reason == "CHECKPOINT_CORRUPT"


async def test_file_says_what_was_written() -> None:
    written = RemoteCheckpoint(path="tinker://run:train:0/sampler_weights/a", step=7, adapted=ADAPTED)
    assert RemoteCheckpoint.of(written.files()) == written
    assert not written.has_optimizer
    with pytest.raises(FailedPrecondition):
        RemoteCheckpoint.of({"adapter_model.safetensors": b""})


async def test_names_are_never_used_twice() -> None:
    assert len({fresh_name(3) for _ in range(1000)}) == 1000


async def test_life_times_are_those_that_the_service_takes() -> None:
    wanted = [None, timedelta(seconds=1), timedelta(hours=2), timedelta(days=36500)]
    assert [ttl_seconds(lifetime) for lifetime in wanted] == [None, 3600, 7200, 315_360_000]
