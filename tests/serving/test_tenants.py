"""Who may call: keys, limits, and whose key goes on to other services."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.conftest import OpenServer
from tests.serving.puppet import Puppet, PuppetRoom, PuppetSettings
from tests.serving.tenancy import hashed, key_of, write_tenants
from tinsmith import Addresses, TinsmithError
from tinsmith import Suite as BlockingSuite
from tinsmith.aio import Suite
from tinsmith.environment.v1 import ListEnvironmentsRequest, PlayRequest, StepRequest
from tinsmith_server.serving import (
    BadSettings,
    CannotServe,
    RoomServer,
    charge_tokens,
    current_tenant,
    load_settings,
    outgoing_metadata,
)
from tinsmith_server.serving.errors import ResourceExhausted
from tinsmith_server.serving.gate import Gate
from tinsmith_server.serving.tenants import BadTenants, load_tenants
from tinsmith_server.serving.token_bucket import TokenBucket

SERVICE_KEY = "s" * 32


@asynccontextmanager
async def running(server: RoomServer) -> AsyncIterator[Puppet]:
    """A server that is ready; yields what decides its answers."""
    await server.bind()
    await server.load()
    assert isinstance(server.room, PuppetRoom)
    try:
        yield server.room.puppet
    finally:
        await server.stop()


def client(server: RoomServer, tenant: str = "", **options: object) -> Suite:
    return Suite(Addresses(environment=server.address), api_key=key_of(tenant) if tenant else None, **options)  # type: ignore[arg-type]


async def call(suite: Suite, text: str = "") -> None:
    await suite.environment.ListEnvironments(ListEnvironmentsRequest(page_token=text), timeout=30.0)


async def refused(suite: Suite, text: str = "") -> TinsmithError:
    with pytest.raises(TinsmithError) as failed:
        await call(suite, text)
    return failed.value


async def refused_at_last(suite: Suite) -> TinsmithError:
    """Calls until a call is refused."""
    for _ in range(20):
        try:
            await call(suite, "x" * 100)
        except TinsmithError as error:
            return error
    raise AssertionError("nothing is refused")


# Keys.


async def test_a_key_names_a_tenant_in_either_header(open_server: OpenServer, tmp_path: Path) -> None:
    """R-02."""
    server = open_server(api_keys=write_tenants(tmp_path, alice="weight = 2.0", bob=""))
    seen: list[tuple[str, float]] = []

    async def note() -> None:
        seen.append((current_tenant().name, current_tenant().weight))

    headers = [
        ("authorization", f"Bearer {key_of('alice')}"),
        ("authorization", f"bearer  {key_of('bob')} "),
        ("x-api-key", key_of("alice")),
    ]
    async with running(server) as puppet:
        puppet.act = note
        for header in headers:
            async with client(server, metadata=lambda header=header: (header,)) as suite:
                await call(suite)
    assert seen == [("alice", 2.0), ("bob", 1.0), ("alice", 2.0)]
    assert current_tenant().name == ""


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((), "API_KEY_MISSING"),
        ((("authorization", "Basic YTpi"),), "API_KEY_MISSING"),
        ((("authorization", "Bearer "),), "API_KEY_MISSING"),
        ((("x-api-key", ""),), "API_KEY_MISSING"),
        ((("authorization", f"Bearer {key_of('mallory')}"),), "API_KEY_UNKNOWN"),
        ((("x-api-key", hashed(key_of("alice"))),), "API_KEY_UNKNOWN"),
        ((("x-api-key", key_of("alice")[:-1]),), "API_KEY_UNKNOWN"),
        ((("authorization", key_of("alice")),), "API_KEY_MISSING"),
    ],
)
async def test_a_call_without_a_known_key_does_nothing(
    open_server: OpenServer, tmp_path: Path, header: tuple[tuple[str, str], ...], reason: str
) -> None:
    """R-02. No part of a key is in the answer."""
    server = open_server(api_keys=write_tenants(tmp_path, alice=""))
    async with running(server) as puppet, client(server, metadata=lambda: header) as suite:
        error = await refused(suite)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)
        assert not puppet.entered.is_set()
        assert "0123456789abcdef" not in f"{error.message} {error.metadata}"
        with pytest.raises(TinsmithError) as failed:
            async for _ in suite.environment.Play(_one_step()):
                pass
        assert failed.value.reason == reason


async def _one_step() -> AsyncIterator[PlayRequest]:
    yield PlayRequest(step=StepRequest())


async def test_health_and_reflection_need_no_key(open_server: OpenServer, tmp_path: Path) -> None:
    server = open_server(api_keys=write_tenants(tmp_path, alice=""))
    async with running(server), grpc.aio.insecure_channel(server.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        wanted = reflection_pb2.ServerReflectionRequest(list_services="")
        asked = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([wanted]))
        assert [len(found.list_services_response.service) async for found in asked] == [3]


async def test_without_keys_everybody_is_anyone(server: RoomServer, puppet: Puppet, suite: Suite) -> None:
    seen: list[str] = []

    async def note() -> None:
        seen.append(current_tenant().name)
        charge_tokens(10**9)

    puppet.act = note
    await call(suite)
    async with client(server, "mallory") as other:
        await call(other)
    assert seen == ["", ""]


async def test_a_blocking_client_sends_its_key_and_finds_it_in_the_environment(
    open_server: OpenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = open_server(api_keys=write_tenants(tmp_path, alice=""))
    request = ListEnvironmentsRequest(page_token="x")

    def with_key(api_key: str | None) -> str:
        with BlockingSuite.connect(environment=server.address, api_key=api_key) as suite:
            token: str = suite.environment.ListEnvironments(request, timeout=30, metadata=(("a", "b"),)).next_page_token
            return token

    async with running(server):
        assert await asyncio.to_thread(with_key, key_of("alice")) == "x"
        with pytest.raises(TinsmithError):
            await asyncio.to_thread(with_key, None)
        monkeypatch.setenv("TINSMITH_API_KEY", key_of("alice"))
        assert await asyncio.to_thread(with_key, None) == "x"
        async with Suite.connect(environment=server.address) as suite:
            await call(suite)


# The file.


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "tenants"),
        ("[tenants]", "tenants"),
        ("tenants = 3", ""),
        ("[tenants.a]", "tenants.a.keys"),
        ("[tenants.a]\nkeys = []", "tenants.a.keys"),
        ('[tenants.a]\nkeys = ["secret"]', "tenants.a.keys.0"),
        (f'[tenants.a]\nkeys = ["{hashed("k")}"]\nwieght = 2', "tenants.a.wieght"),
        (f'[tenants.a]\nkeys = ["{hashed("k")}"]\nweight = 0', "tenants.a.weight"),
        (f'[tenants.a]\nkeys = ["{hashed("k")}"]\nconcurrent = -1', "tenants.a.concurrent"),
        (f'[tenants."a b"]\nkeys = ["{hashed("k")}"]', "a b"),
        (f'[tenants.a]\nkeys = ["{hashed("k")}"]\n[tenants.b]\nkeys = ["{hashed("k")}"]', "a key of b"),
        (f'[other]\n[tenants.a]\nkeys = ["{hashed("k")}"]', "other"),
        ("[tenants", ""),
    ],
)
async def test_a_file_that_does_not_do_is_one_clear_line(
    open_server: OpenServer, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(text)
    with pytest.raises(CannotServe) as failed:
        open_server(api_keys=path)
    message = str(failed.value)
    assert failed.value.exit_code == 2
    assert str(path) in message
    assert says in message
    assert "secret" not in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(BadTenants, match="No such file"):
        load_tenants(tmp_path / "absent.toml")


def test_a_tenant_may_have_two_keys_while_it_changes_them(tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(f'[tenants.a]\nkeys = ["{hashed("old")}", "{hashed("new")}"]')
    tenants = load_tenants(path)
    assert {tenants.identify({"x-api-key": key}).name for key in ("old", "new")} == {"a"}


# Addresses that others reach.


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "example.org:0", "10.1.2.3:0", "127.0.0.1:0,0.0.0.0:0"])
async def test_an_address_that_others_reach_wants_keys(open_server: OpenServer, address: str) -> None:
    """R-02."""
    server = open_server(address=address)
    with pytest.raises(CannotServe, match="TINSMITH_API_KEYS") as failed:
        await server.bind()
    assert failed.value.exit_code == 2
    assert "TINSMITH_INSECURE" in str(failed.value)
    await server.stop()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.8.9.10:0", "localhost:0", "unix:{home}/a.sock"])
async def test_a_local_address_does_not(open_server: OpenServer, tmp_path: Path, address: str) -> None:
    async with running(open_server(address=address.format(home=tmp_path))):
        pass


@pytest.mark.parametrize("by", ["insecure", "api_keys"])
async def test_it_may_be_allowed(open_server: OpenServer, tmp_path: Path, by: str) -> None:
    value = True if by == "insecure" else write_tenants(tmp_path, alice="")
    async with running(open_server(address="0.0.0.0:0", **{by: value})):
        pass


# Whose key goes on.


async def test_the_key_of_a_caller_goes_on_to_the_calls_made_for_it(open_server: OpenServer, tmp_path: Path) -> None:
    server = open_server(api_keys=write_tenants(tmp_path, alice="", bob=""), service_key=SERVICE_KEY)
    seen: list[str] = []

    async def note() -> None:
        seen.append(current_tenant().name)

    async with running(server) as puppet, client(server, metadata=outgoing_metadata) as behind:

        async def call_on() -> None:
            puppet.act = note
            await call(behind)

        for tenant in ("alice", "bob"):
            puppet.act = call_on
            async with client(server, tenant) as suite:
                await call(suite)
    assert seen == ["alice", "bob"]


async def test_what_a_room_does_for_nobody_goes_by_the_service_key(open_server: OpenServer, tmp_path: Path) -> None:
    path = write_tenants(tmp_path, alice="requests_per_s = 1.0")
    async with AsyncExitStack() as stack:
        behind = open_server(api_keys=path, service_key=SERVICE_KEY)
        behind_puppet = await stack.enter_async_context(running(behind))
        seen: list[str] = []

        async def note() -> None:
            seen.append(current_tenant().name)

        behind_puppet.act = note
        caller = await stack.enter_async_context(client(behind, metadata=outgoing_metadata))
        front = open_server(service_key=SERVICE_KEY)
        assert isinstance(front.room, PuppetRoom)
        tasks: list[asyncio.Task[None]] = []

        class Working(PuppetRoom):
            async def start(self) -> None:
                tasks.append(asyncio.create_task(call(caller)))

        front.room.__class__ = Working
        front_puppet = await stack.enter_async_context(running(front))
        await tasks[0]
        front_puppet.act = lambda: call(caller)
        async with client(front) as suite:
            await call(suite)
    assert seen == ["(service)", "(service)"]
    assert outgoing_metadata() == ()


def test_the_service_key_may_call_for_a_tenant_and_no_other_key_may(tmp_path: Path) -> None:
    tenants = load_tenants(write_tenants(tmp_path, alice="", bob=""), SERVICE_KEY)
    for_alice = {"x-tinsmith-tenant": "alice"}
    assert tenants.identify({"x-api-key": SERVICE_KEY} | for_alice).name == "alice"
    assert tenants.identify({"x-api-key": key_of("bob")} | for_alice).name == "bob"
    with pytest.raises(Exception, match="no tenant 'eve'") as failed:
        tenants.identify({"x-api-key": SERVICE_KEY, "x-tinsmith-tenant": "eve"})
    assert failed.value.reason == "TENANT_UNKNOWN"  # type: ignore[attr-defined]  # a ServiceError


def test_a_short_service_key_is_refused_and_a_long_one_never_shown() -> None:
    with pytest.raises(BadSettings, match="at least 32 characters") as failed:
        load_settings(PuppetSettings, "puppet", environment={"TINSMITH_SERVICE_KEY": "hush"})
    assert "hush" not in str(failed.value)
    values = load_settings(PuppetSettings, "puppet", environment={"TINSMITH_SERVICE_KEY": SERVICE_KEY}).values
    assert SERVICE_KEY not in f"{values!r} {values.service_key}"


# Limits.


@pytest.mark.parametrize(
    ("limit", "what"),
    [("requests_per_s = 2.0", "requests"), ("bytes_per_s = 100.0", "bytes"), ("tokens_per_s = 5.0", "tokens")],
)
async def test_beyond_its_limit_a_tenant_is_told_when_to_come_again(
    open_server: OpenServer, tmp_path: Path, limit: str, what: str
) -> None:
    """R-02: requests, bytes and tokens; the other tenants do not notice."""
    server = open_server(api_keys=write_tenants(tmp_path, noisy=limit, quiet=""))

    async def spend() -> None:
        charge_tokens(10)

    async with running(server) as puppet, client(server, "noisy") as noisy, client(server, "quiet") as quiet:
        puppet.act = spend
        error = await refused_at_last(noisy)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert (error.metadata["tenant"], error.metadata["limit"]) == ("noisy", what)
        assert error.retry_after_s is not None
        assert 0 < error.retry_after_s < 5
        await call(quiet, "x" * 100)
        await asyncio.sleep(error.retry_after_s + 0.05)
        await call(noisy)


async def test_messages_of_a_stream_are_counted_as_they_come(open_server: OpenServer, tmp_path: Path) -> None:
    server = open_server(api_keys=write_tenants(tmp_path, noisy="bytes_per_s = 0.001"))

    async def steps() -> AsyncIterator[PlayRequest]:
        for _ in range(3):
            yield PlayRequest(step=StepRequest(request_id="0" * 36))

    async with running(server), client(server, "noisy") as suite:
        assert len([answer async for answer in suite.environment.Play(steps())]) == 3
        assert (await refused(suite)).metadata["limit"] == "bytes"


async def test_a_tenant_has_only_so_many_calls_at_once(open_server: OpenServer, tmp_path: Path) -> None:
    """R-02."""
    server = open_server(api_keys=write_tenants(tmp_path, noisy="concurrent = 2", quiet=""))
    may_end, entered = asyncio.Event(), asyncio.Semaphore(0)

    async def wait() -> None:
        entered.release()
        await may_end.wait()

    async with running(server) as puppet, client(server, "noisy") as noisy, client(server, "quiet") as quiet:
        puppet.act = wait
        calls = [asyncio.create_task(call(suite)) for suite in (noisy, noisy, quiet, quiet, quiet)]
        async with asyncio.timeout(30):
            for _ in calls:
                await entered.acquire()
        error = await refused(noisy)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TENANT_CONCURRENCY")
        assert (error.metadata, error.retry_after_s) == ({"tenant": "noisy", "limit": "2"}, 0.25)
        calls[0].cancel()
        await asyncio.gather(calls[0], return_exceptions=True)
        async with asyncio.timeout(30):
            while True:  # the server hears of the cancellation a little later
                retried = asyncio.create_task(call(noisy))
                done, _ = await asyncio.wait({retried}, timeout=0.2)
                if not done:
                    break
                assert isinstance(retried.exception(), TinsmithError)
        may_end.set()
        await asyncio.gather(retried, *calls[1:])


async def test_a_call_that_is_refused_by_its_handler_gives_its_place_back(
    open_server: OpenServer, tmp_path: Path
) -> None:
    server = open_server(api_keys=write_tenants(tmp_path, a="concurrent = 1"), max_calls=1)

    async def fail() -> None:
        raise ValueError("no")

    async with running(server) as puppet, client(server, "a") as suite:
        puppet.act = fail
        for _ in range(5):
            assert (await refused(suite)).reason == "INTERNAL"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    st.floats(0.1, 100),
    st.floats(0.1, 10),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 500)), max_size=40),
)
def test_a_bucket_gives_no_more_than_its_rate_and_one_burst(
    rate: float, burst_s: float, wishes: list[tuple[float, float]]
) -> None:
    """R-02: what is spent before the last wish is at most what has filled by then; who waits as told may spend."""
    clock = Clock()
    bucket, spent_before = TokenBucket(rate, burst_s, clock), 0.0
    for pause_s, amount in wishes:
        clock.now += pause_s
        wait_s = bucket.wait_s()
        if wait_s > 0:
            clock.now += wait_s
            assert bucket.wait_s() == 0
        assert spent_before <= rate * (burst_s + clock.now) + 1e-3
        bucket.spend(amount)
        spent_before += amount


async def test_unused_allowance_can_be_spent_at_once_and_not_more(tmp_path: Path) -> None:
    clock = Clock()
    tenants = load_tenants(write_tenants(tmp_path, a="requests_per_s = 2.0\nburst_s = 3.0"))
    gate = Gate(tenants, clock=clock)

    async def admitted() -> int:
        number = 0
        while True:
            try:
                async with gate.passed({"x-api-key": key_of("a")}, waits=True):
                    number += 1
            except ResourceExhausted:
                return number

    assert await admitted() == 6
    clock.now += 1.0
    assert await admitted() == 2
    clock.now += 1000.0
    assert await admitted() == 6
