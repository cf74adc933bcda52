"""The episodes of a tenant are not there for another."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.environment.support import game_spec, says
from tests.serving.tenancy import key_of, write_tenants
from tests.support import serving
from tinsmith import Addresses, TinsmithError
from tinsmith.aio import Suite
from tinsmith.environment.v1 import (
    CloseEpisodesRequest,
    CreateEpisodesRequest,
    EpisodeGroupSpec,
    ObserveRequest,
    StepRequest,
)
from tinsmith_server.environment import ROOM


@pytest.fixture
async def tenants(tmp_path: Path) -> AsyncIterator[tuple[Suite, Suite]]:
    """Alice's client and Bob's."""
    async with (
        serving(ROOM, tmp_path, api_keys=write_tenants(tmp_path, alice="", bob="")) as address,
        Suite(Addresses(environment=address), api_key=key_of("alice")) as alice,
        Suite(Addresses(environment=address), api_key=key_of("bob")) as bob,
    ):
        yield alice, bob


async def begin(suite: Suite, request_id: str = "") -> str:
    request = CreateEpisodesRequest(environment=game_spec(), groups=[EpisodeGroupSpec(size=1)], request_id=request_id)
    return str((await suite.environment.CreateEpisodes(request)).groups[0].episode_ids[0])


async def move(suite: Suite, episode_id: str) -> str:
    """Plays the middle field; the reason of a refusal, or nothing."""
    answer = await suite.environment.Step(StepRequest(actions=[says(episode_id, "[4]")]))
    return str(answer.results[0].error_reason)


async def test_another_tenants_episode_can_be_neither_seen_nor_played_nor_closed(tenants: tuple[Suite, Suite]) -> None:
    alice, bob = tenants
    episode_id = await begin(alice)
    with pytest.raises(TinsmithError) as failed:
        await bob.environment.Observe(ObserveRequest(episode_id=episode_id))
    assert failed.value.reason == "EPISODE_NOT_FOUND"
    assert await move(bob, episode_id) == "EPISODE_NOT_FOUND"
    closing = CloseEpisodesRequest(episode_ids=[episode_id])
    assert (await bob.environment.CloseEpisodes(closing)).closed == 0
    assert await move(alice, episode_id) == ""
    assert (await alice.environment.CloseEpisodes(closing)).closed == 1


async def test_a_repeated_creation_is_that_of_the_same_tenant(tenants: tuple[Suite, Suite]) -> None:
    alice, bob = tenants
    first, other, again = [await begin(suite, "1" * 36) for suite in (alice, bob, alice)]
    assert first == again != other
