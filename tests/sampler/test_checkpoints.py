"""Adapters by checkpoint URI, and that the same weights always give the same bits."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, MambaConfig, MambaForCausalLM

from tests.sampler.calls import PROMPTS, bits, publish, sample_request
from tests.support import random_tokenizer, serving
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith_server.sampler import ROOM
from tinsmith_server.serving import CannotServe, load_settings
from tinsmith_server.storage import SAMPLER, TRAINING, CheckpointStore, CheckpointUri, Manifest

Serve = Callable[..., AbstractAsyncContextManager[Suite]]


def long_request(**options: object) -> pb.SampleRequest:
    """Many answers of many lengths, so that batches shrink and caches grow."""
    return sample_request(
        [[*range(first, first + 3 + first % 19)] for first in range(40)],
        num_samples=5,
        max_tokens=70,
        temperature=1.2,
        stop={"token_ids": list(range(20))},
        seeds=range(40),
        **options,
    )


@pytest.mark.parametrize("kind", [SAMPLER, TRAINING])
async def test_a_checkpoint_of_either_kind_is_sampled(
    suite: Suite, tmp_path: Path, model_directory: Path, kind: str
) -> None:
    uri = publish(tmp_path, model_directory, seed=1, kind=kind)
    found = await suite.sampler.Sample(sample_request(checkpoint_uri=uri, temperature=0.0, ignore_eos=True))
    adapted = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(model_directory), tmp_path / "peft-s-1"
    )
    for prompt, answer in zip(PROMPTS, rows(found.tokens), strict=True):
        with torch.inference_mode():
            logits = adapted(torch.tensor([[*prompt, *answer.tolist()]])).logits[0, len(prompt) - 1 : -1]
        assert answer.tolist() == logits.argmax(-1).tolist()


async def test_the_version_names_the_base_model_and_the_adapters_checksum(
    suite: Suite, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    found = await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    files = {file.name: file.sha256 for file in store(tmp_path).manifest(CheckpointUri.parse(uri)).files}
    assert found.weights_version.startswith(f"random+{files['adapter_model.safetensors']}")


def store(home: Path) -> CheckpointStore:
    return CheckpointStore(home / "checkpoints")


async def test_a_uri_always_means_what_is_stored_under_it_now(
    suite: Suite, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    first = await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    publish(tmp_path, model_directory, seed=2)
    second = await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    publish(tmp_path, model_directory, seed=1)
    third = await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    assert first.weights_version == third.weights_version != second.weights_version
    assert bits(first) == bits(third) != bits(second)
    store(tmp_path).delete(CheckpointUri.parse(uri))
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "CHECKPOINT_NOT_FOUND")


@pytest.mark.parametrize("damage", ["a flipped bit", "a missing file"])
async def test_a_damaged_checkpoint_is_never_sampled(
    suite: Suite, tmp_path: Path, model_directory: Path, damage: str
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    file = tmp_path / "checkpoints" / "model" / "sampler" / "s" / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    if damage == "a missing file":
        file.unlink()
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.DATA_LOSS, "CHECKPOINT_CORRUPT")
    assert str(tmp_path) not in caught.value.message


async def test_a_bad_request_is_refused_before_an_adapter_is_read_for_it(
    suite: Suite, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    (tmp_path / "checkpoints" / "model" / "sampler" / "s" / "adapter_model.safetensors").unlink()
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.Sample(sample_request([[]], checkpoint_uri=uri))
    assert caught.value.reason == "EMPTY_PROMPT"


async def test_a_checkpoint_of_a_base_model_that_is_not_served_says_which(
    suite: Suite, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1, base_model="other")
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    assert caught.value.reason == "BASE_MODEL_NOT_FOUND"
    assert caught.value.metadata == {"base_model": "other", "served": "random"}


async def test_a_base_model_under_an_alias_is_found_by_its_location_too(
    serve: Serve, tmp_path: Path, model_directory: Path
) -> None:
    """A trainer without the alias names the model by its location."""
    by_alias = publish(tmp_path, model_directory, seed=1, name="alias", base_model="mine")
    by_location = publish(tmp_path, model_directory, seed=1, name="location", base_model=str(model_directory))
    async with serve(base_models=f"mine={model_directory}") as suite:
        one, two = [await suite.sampler.Sample(sample_request(checkpoint_uri=uri)) for uri in (by_alias, by_location)]
    assert bits(one) == bits(two)
    assert one.weights_version == two.weights_version


async def test_bits_are_the_same_from_disk_from_the_cache_in_company_and_after_a_restart(
    serve: Serve, tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    others = [publish(tmp_path, model_directory, seed=seed, name=f"o{seed}") for seed in range(2, 6)]
    seen = []
    async with serve() as suite:
        sample = suite.sampler.Sample
        from_disk = await sample(long_request(checkpoint_uri=uri))
        from_cache = await sample(long_request(checkpoint_uri=uri))
        company = [long_request(checkpoint_uri=other, prompt_logprobs=True) for other in others]
        in_company = (await asyncio.gather(*map(sample, [*company, long_request(checkpoint_uri=uri)])))[-1]
        seen += [from_disk, from_cache, in_company]
    async with serve() as suite:
        await suite.sampler.Sample(sample_request())
        seen.append(await suite.sampler.Sample(long_request(checkpoint_uri=uri)))
    assert len({bits(answer) for answer in seen}) == 1
    lengths = {len(row) for row in rows(seen[0].tokens)}
    assert len(lengths) > 10, "answers should end at different times"


async def test_an_adapter_that_left_the_cache_is_loaded_again(
    serve: Serve, tmp_path: Path, model_directory: Path
) -> None:
    uris = [publish(tmp_path, model_directory, seed=seed, name=f"s{seed}") for seed in range(3)]
    async with serve(adapter_cache_bytes=0) as suite:
        rounds = [[await suite.sampler.Sample(sample_request(checkpoint_uri=uri)) for uri in uris] for _ in range(2)]
    assert [bits(answer) for answer in rounds[0]] == [bits(answer) for answer in rounds[1]]
    assert len({bits(answer) for answer in rounds[0]}) == 3


async def test_a_checkpoint_that_is_replaced_while_it_is_read_is_the_new_one(
    suite: Suite, tmp_path: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, look_up, replaced = publish(tmp_path, model_directory, seed=1), CheckpointStore.manifest, list[str]()

    def look_up_then_replace(self: CheckpointStore, wanted: CheckpointUri) -> Manifest:
        manifest = look_up(self, wanted)
        if not replaced:
            replaced.append(publish(tmp_path, model_directory, seed=2))
        return manifest

    monkeypatch.setattr(CheckpointStore, "manifest", look_up_then_replace)
    found = await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
    assert bits(found) == bits(await suite.sampler.Sample(sample_request(checkpoint_uri=uri)))
    assert replaced


async def test_many_requests_of_one_new_adapter_load_it_once(
    suite: Suite, tmp_path: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    read, files = CheckpointStore.read, list[str]()

    def counted(self: CheckpointStore, manifest: Manifest, name: str) -> bytes:
        files.append(name)
        return read(self, manifest, name)

    monkeypatch.setattr(CheckpointStore, "read", counted)
    answers = await asyncio.gather(*(suite.sampler.Sample(sample_request(checkpoint_uri=uri)) for _ in range(10)))
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors"]
    assert len({bits(answer) for answer in answers}) == 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"base_models": "nowhere=./no/such/folder"}, "BASE_MODEL_NOT_FOUND"),
        ({"device": "cuda:99"}, "BASE_MODEL_UNUSABLE"),
    ],
)
async def test_a_sampler_that_can_not_load_its_model_does_not_start(
    serve: Serve, settings: dict[str, str], named: str
) -> None:
    with pytest.raises(CannotServe, match=named):
        async with serve(**settings):
            pass


async def test_a_model_that_can_not_be_decoded_is_told_at_the_start(serve: Serve, tmp_path: Path) -> None:
    """Mamba has no cache of keys and values."""
    config = MambaConfig(vocab_size=263, hidden_size=16, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    random_tokenizer().save_pretrained(tmp_path / "mamba")
    with pytest.raises(CannotServe, match="'snake' can't be decoded here"):
        async with serve(base_models=f"snake={tmp_path / 'mamba'}"):
            pass


def test_settings_that_all_rooms_share_reach_the_sampler(tmp_path: Path) -> None:
    environment = {"TINSMITH_BASE_MODELS": "tinsmith-tiny, mine=./folder", "TINSMITH_CHECKPOINT_ROOT": str(tmp_path)}
    values = load_settings(ROOM.settings, "sampler", environment=environment).values
    assert values.base_models == ("tinsmith-tiny", "mine=./folder")
    assert values.checkpoint_root == tmp_path


@pytest.mark.parametrize("entries", ["", "a,a", "x="])
def test_base_models_that_can_not_be_are_refused_at_once(entries: str) -> None:
    with pytest.raises(ValueError, match="base"):
        ROOM.settings(base_models=entries)


async def test_checkpoints_live_where_the_setting_says(tmp_path: Path, model_directory: Path) -> None:
    uri = publish(tmp_path / "elsewhere", model_directory, seed=1)
    settings = {"base_models": f"random={model_directory}", "checkpoint_root": tmp_path / "elsewhere" / "checkpoints"}
    async with (
        serving(ROOM, tmp_path / "home", **settings) as address,
        Suite.connect(sampler=address) as suite,
    ):
        await suite.sampler.Sample(sample_request(checkpoint_uri=uri))
