"""Adapters at a server: loaded from checkpoints when they are wanted, unloaded when others need the room."""

import asyncio
from pathlib import Path

import grpc
import pytest
from safetensors.torch import load_file, save_file

from tests.sampler.calls import bits, publish, sample_request
from tests.sampler.openai.conftest import Serve, World
from tests.sampler.openai.server import ModelServer, model_server
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith_server.storage import CheckpointDraft, CheckpointStore, CheckpointUri

GREEDY = {"temperature": 0.0, "max_tokens": 12}


async def test_an_adapter_answers_as_in_the_local_backend(world: World) -> None:
    """K-03: LoRA load. The answer names the weights."""
    uri = publish(world.home, world.model, seed=1)
    request = sample_request(checkpoint_uri=uri, **GREEDY)
    found, expected = await world.remote.sampler.Sample(request), await world.local.sampler.Sample(request)
    base = await world.local.sampler.Sample(sample_request(**GREEDY))
    assert found.tokens == expected.tokens != base.tokens
    assert found.weights_version == expected.weights_version


async def test_new_weights_under_a_name_answer_the_next_request(world: World) -> None:
    versions = []
    for seed in (1, 2):
        request = sample_request(checkpoint_uri=publish(world.home, world.model, seed=seed), **GREEDY)
        found, expected = await world.remote.sampler.Sample(request), await world.local.sampler.Sample(request)
        assert found.tokens == expected.tokens
        versions.append(found.weights_version)
    assert len(set(versions)) == 2


async def test_the_least_recently_used_leave_when_there_are_too_many(
    serve: Serve, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    """K-03: LoRA unload."""
    uris = [publish(tmp_path, model_directory, seed=seed, name=f"s{seed}") for seed in range(3)]
    async with serve(server, openai_max_adapters=2) as remote:
        for uri in (uris[0], uris[1], uris[0], uris[2], uris[0]):
            await remote.sampler.Sample(sample_request(checkpoint_uri=uri))
            assert len(server.adapters) <= 2
        assert server.loads == 3
        await remote.sampler.Sample(sample_request(checkpoint_uri=uris[1]))
        assert server.loads == 4, "it had left"
        folders = {folder.name for folder in (tmp_path / "openai-adapters").iterdir()}
        assert folders == set(server.adapters)


async def test_adapters_that_are_in_use_stay(
    serve: Serve, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    """Many requests of more adapters than there is room for: all are answered, each by its own."""
    uris = [publish(tmp_path, model_directory, seed=seed, name=f"s{seed}") for seed in range(3)]
    async with serve(server, openai_max_adapters=1) as remote:
        alone = [await remote.sampler.Sample(sample_request(checkpoint_uri=uri, **GREEDY)) for uri in uris]
        requests = [sample_request(checkpoint_uri=uri, **GREEDY) for uri in uris * 3]
        together = await asyncio.gather(*map(remote.sampler.Sample, requests))
    assert [bits(answer) for answer in together] == [bits(answer) for answer in alone] * 3
    assert [answer.weights_version for answer in together] == [answer.weights_version for answer in alone] * 3


async def test_many_requests_of_one_new_adapter_load_it_once(
    remote: Suite, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    await asyncio.gather(*(remote.sampler.Sample(sample_request(checkpoint_uri=uri)) for _ in range(8)))
    assert server.loads == 1


async def test_a_server_that_was_restarted_gets_the_adapter_again(
    remote: Suite, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    request = sample_request(checkpoint_uri=publish(tmp_path, model_directory, seed=1), **GREEDY)
    before = await remote.sampler.Sample(request)
    server.adapters.clear()
    assert bits(await remote.sampler.Sample(request)) == bits(before)
    server.adapters.clear()
    stream = remote.sampler.SampleStream(pb.SampleStreamRequest(sample=request))
    tokens = [delta.token_ids for message in [m async for m in stream] for delta in message.deltas if delta.index == 0]
    assert b"".join(tokens) == rows(before.tokens)[0].tobytes()


async def test_a_request_ends_on_the_weights_it_began_with(
    serve: Serve, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    request = sample_request([[1, 2]], checkpoint_uri=uri, temperature=0.0, max_tokens=60, ignore_eos=True)
    async with serve(server) as remote:
        alone = await remote.sampler.Sample(request)
        server.step_s = 0.005
        stream = remote.sampler.SampleStream(pb.SampleStreamRequest(sample=request))
        messages = [await anext(stream)]
        publish(tmp_path, model_directory, seed=2)
        other = await remote.sampler.Sample(request)
        messages += [message async for message in stream]
    tokens = b"".join(delta.token_ids for message in messages for delta in message.deltas)
    assert tokens == rows(alone.tokens)[0].tobytes() != rows(other.tokens)[0].tobytes()
    assert messages[-1].weights_version == alone.weights_version != other.weights_version


async def test_the_next_process_takes_over_what_is_loaded(
    serve: Serve, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    uris = [publish(tmp_path, model_directory, seed=seed, name=f"s{seed}") for seed in range(2)]
    async with serve(server) as remote:
        for uri in uris:
            await remote.sampler.Sample(sample_request(checkpoint_uri=uri))
    server.adapters.pop(next(iter(server.adapters)))
    (tmp_path / "openai-adapters" / "left-behind").mkdir()
    async with serve(server) as remote:
        folders = {folder.name for folder in (tmp_path / "openai-adapters").iterdir()}
        assert folders == set(server.adapters)
        await remote.sampler.Sample(sample_request(checkpoint_uri=uris[1]))
        assert server.loads == 2


async def test_the_server_may_see_the_folder_by_another_path(
    serve: Serve, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    (tmp_path / "mounted").symlink_to(tmp_path / "shared")
    uri = publish(tmp_path, model_directory, seed=1)
    options = {
        "openai_adapter_directory": tmp_path / "shared",
        "openai_adapter_directory_there": f"{tmp_path}/mounted/",
    }
    async with serve(server, **options) as remote:
        await remote.sampler.Sample(sample_request(checkpoint_uri=uri))
    async with serve(server, openai_adapter_directory_there="/nowhere") as remote:
        with pytest.raises(TinsmithError) as caught:
            await remote.sampler.Sample(sample_request(checkpoint_uri=uri))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_UNSUPPORTED")
    assert "nowhere" not in caught.value.message


async def test_an_adapter_that_the_server_does_not_take_is_told(
    serve: Serve, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    server.max_loras = 0
    async with serve(server) as remote:
        uri = publish(tmp_path, model_directory, seed=1)
        with pytest.raises(TinsmithError) as caught:
            await remote.sampler.Sample(sample_request(checkpoint_uri=uri))
        assert (caught.value.reason, "no room" in caught.value.message) == ("ADAPTER_UNSUPPORTED", True)
        await remote.sampler.Sample(sample_request())


def spoil(home: Path, uri: str) -> None:
    """Publishes the same checkpoint with a weight that is not a number."""
    store = CheckpointStore(home / "checkpoints")
    manifest = store.manifest(CheckpointUri.parse(uri))
    file = home / "spoilt.safetensors"
    file.write_bytes(store.read(manifest, "adapter_model.safetensors"))
    tensors = load_file(file)
    next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, file)
    files = {"adapter_config.json": store.read(manifest, "adapter_config.json")}
    files["adapter_model.safetensors"] = file.read_bytes()
    draft = {name: getattr(manifest, name) for name in ("uri", "step", "base_model", "lora")}
    store.publish(CheckpointDraft(**draft), files, durable=False, overwrite=True)


async def test_weights_that_are_not_finite_never_reach_the_server(
    remote: Suite, server: ModelServer, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    spoil(tmp_path, uri)
    with pytest.raises(TinsmithError) as caught:
        await remote.sampler.Sample(sample_request(checkpoint_uri=uri))
    assert caught.value.reason == "WEIGHTS_NOT_FINITE"
    assert not server.loads


async def test_sglang_takes_adapters_too(serve: Serve, tmp_path: Path, model_directory: Path) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    async with model_server(model_directory, owner="sglang") as server, serve(server) as remote:
        base = await remote.sampler.Sample(sample_request(**GREEDY))
        found = await remote.sampler.Sample(sample_request(checkpoint_uri=uri, **GREEDY))
        assert list(server.adapters)
    assert found.tokens != base.tokens
