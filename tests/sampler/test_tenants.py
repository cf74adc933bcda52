"""Adapters of tenants: a tenant samples from its own, and from what others have published."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.sampler.calls import publish, sample_request
from tests.serving.tenancy import key_of, write_tenants
from tests.support import serving
from tinsmith import Addresses, TinsmithError
from tinsmith.aio import Suite
from tinsmith_server.sampler import ROOM
from tinsmith_server.storage import CheckpointDraft, CheckpointStore, CheckpointUri


def owned(home: Path, uri: str, owner: str, *, published: bool = False) -> str:
    """A copy of a checkpoint that belongs to a tenant; returns its URI."""
    store = CheckpointStore(home / "checkpoints")
    manifest = store.manifest(CheckpointUri.parse(uri))
    draft = CheckpointDraft(
        uri=replace(manifest.uri, model_id=f"of-{owner}", name="published" if published else "own"),
        step=manifest.step,
        base_model=manifest.base_model,
        lora=manifest.lora,
        owner=owner,
        published=published,
    )
    files = {file.name: store.read(manifest, file.name) for file in manifest.files}
    return str(store.publish(draft, files, durable=False).uri)


async def test_a_tenant_samples_from_its_own_adapters_and_from_published_ones(
    tmp_path: Path, model_directory: Path
) -> None:
    uri = publish(tmp_path, model_directory, seed=1)
    private, public = owned(tmp_path, uri, "alice"), owned(tmp_path, uri, "alice", published=True)
    settings = {"base_models": f"random={model_directory}", "api_keys": write_tenants(tmp_path, alice="", bob="")}
    async with (
        serving(ROOM, tmp_path, **settings) as address,
        Suite(Addresses(sampler=address), api_key=key_of("alice")) as alice,
        Suite(Addresses(sampler=address), api_key=key_of("bob")) as bob,
    ):
        for suite, seen in ((alice, private), (alice, public), (bob, public)):
            await suite.sampler.Sample(sample_request(checkpoint_uri=seen))
        for hidden in (private, uri):
            with pytest.raises(TinsmithError) as failed:
                await bob.sampler.Sample(sample_request(checkpoint_uri=hidden))
            assert failed.value.reason == "CHECKPOINT_NOT_FOUND", "although it is in memory for its owner"


async def test_what_is_in_memory_tells_nothing_of_other_tenants_prompts(tmp_path: Path, model_directory: Path) -> None:
    settings = {"base_models": f"random={model_directory}", "api_keys": write_tenants(tmp_path, alice="", bob="")}
    prompt = sample_request([[token % 50 for token in range(130)]], max_tokens=1)
    async with (
        serving(ROOM, tmp_path, **settings) as address,
        Suite(Addresses(sampler=address), api_key=key_of("alice")) as alice,
        Suite(Addresses(sampler=address), api_key=key_of("bob")) as bob,
    ):
        answers = [await suite.sampler.Sample(prompt) for suite in (alice, bob, alice)]
    assert [answer.usage.cached_prompt_tokens for answer in answers] == [0, 0, 128]
    assert answers[0].tokens == answers[1].tokens == answers[2].tokens


async def test_tokens_that_are_read_and_written_count_against_their_tenant(
    tmp_path: Path, model_directory: Path
) -> None:
    """R-02."""
    keys = write_tenants(tmp_path, alice="tokens_per_s = 0.1\nburst_s = 100.0")
    settings = {"base_models": f"random={model_directory}", "api_keys": keys}
    async with (
        serving(ROOM, tmp_path, **settings) as address,
        Suite(Addresses(sampler=address), api_key=key_of("alice")) as alice,
    ):
        await alice.sampler.Sample(sample_request([[1, 2, 3, 4]], max_tokens=8, ignore_eos=True))
        with pytest.raises(TinsmithError) as failed:
            await alice.sampler.Sample(sample_request([[1]], max_tokens=1))
        assert (failed.value.reason, failed.value.metadata["limit"]) == ("RATE_LIMITED", "tokens")
