"""Keys and limits through the gateway: HTTP clients get what gRPC clients get."""

import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.serving.puppet import ROOM as PUPPET
from tests.serving.puppet import SERVICE
from tests.serving.tenancy import key_of, write_tenants
from tests.support import serving
from tinsmith import Addresses, TinsmithError
from tinsmith.aio import Suite
from tinsmith.environment.v1 import ListEnvironmentsRequest
from tinsmith_server.gateway import ROOM
from tinsmith_server.serving import CannotServe


@dataclass(frozen=True, kw_only=True, slots=True)
class House:
    """A gateway before one service that wants keys; the others are away."""

    grpc_address: str
    http: httpx.AsyncClient

    async def list(self, **headers: str) -> httpx.Response:
        return await self.http.post(f"/{SERVICE}/ListEnvironments", json={}, headers=headers)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    keys = write_tenants(tmp_path, alice="", limited="requests_per_s = 0.5\nburst_s = 2.0")
    http_address = f"127.0.0.1:{_free_port()}"
    nowhere = {
        name: f"127.0.0.1:{_free_port()}" for name in ("trainer", "sampler", "dataset", "grader", "orchestrator")
    }
    async with (
        serving(PUPPET, tmp_path, api_keys=keys) as environment,
        serving(ROOM, tmp_path, environment=environment, http_address=http_address, **nowhere) as address,
        httpx.AsyncClient(base_url=f"http://{http_address}", timeout=20) as http,
    ):
        yield House(grpc_address=address, http=http)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_http_callers_need_a_key_and_may_send_it_in_either_header(house: House) -> None:
    """R-02."""
    answer = await house.list()
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert (await house.list(**{"x-api-key": "wrong"})).status_code == 401
    assert (await house.list(**{"x-api-key": key_of("alice")})).status_code == 200
    assert (await house.list(authorization=f"Bearer {key_of('alice')}")).status_code == 200


async def test_http_callers_beyond_their_limit_get_429_and_a_time_to_come_again(house: House) -> None:
    """R-02."""
    header = {"x-api-key": key_of("limited")}
    assert (await house.list(**header)).status_code == 200
    answer = await house.list(**header)
    assert (answer.status_code, answer.json()["code"]) == (429, "resource_exhausted")
    assert answer.headers["retry-after"] in ("1", "2")
    assert (await house.list(**{"x-api-key": key_of("alice")})).status_code == 200


async def test_a_key_goes_through_the_gateways_grpc_address(house: House) -> None:
    request = ListEnvironmentsRequest(page_token="x")
    async with Suite(Addresses(environment=house.grpc_address), api_key=key_of("alice")) as suite:
        assert (await suite.environment.ListEnvironments(request, timeout=30)).next_page_token == "x"
    async with Suite(Addresses(environment=house.grpc_address)) as suite:
        with pytest.raises(TinsmithError) as failed:
            await suite.environment.ListEnvironments(request, timeout=30)
        assert failed.value.reason == "API_KEY_MISSING"


async def test_an_http_address_that_others_reach_wants_keys_too(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="TINSMITH_API_KEYS"):
        async with serving(ROOM, tmp_path, http_address="0.0.0.0:0"):
            pass
    async with serving(ROOM, tmp_path, http_address="0.0.0.0:0", api_keys=write_tenants(tmp_path, alice="")):
        pass


async def test_a_key_that_no_header_may_hold_is_refused_like_any_other(house: House) -> None:
    answer = await house.http.post(
        f"/{SERVICE}/ListEnvironments", json={}, headers=[(b"x-api-key", "clé".encode() * 12)]
    )
    assert answer.status_code == 401, answer.text
