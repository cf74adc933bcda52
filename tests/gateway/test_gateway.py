"""The gateway: every service over Connect, gRPC-Web and JSON, and over one gRPC address; against real servers."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.support import serving
from tinsmith import Addresses, TinsmithError, aio
from tinsmith.environment.v1 import (
    CreateEpisodesResponse,
    EnvironmentServiceServicer,
    PlayRequest,
    PlayResponse,
    StepRequest,
    StepResponse,
    add_EnvironmentServiceServicer_to_server,
)
from tinsmith.orchestrator.v1 import (
    GetRunRequest,
    GetRunResponse,
    OrchestratorServiceServicer,
    Run,
    RunEvent,
    StartRunRequest,
    StartRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)
from tinsmith_server.gateway import ROOM
from tinsmith_server.gateway.upstream import PROCESS_OF, methods
from tinsmith_server.serving import Room, RoomDefinition, RoomSettings
from tinsmith_server.serving.errors import NotFound

ROOT = Path(__file__).resolve().parents[2]
ORCHESTRATOR = "tinsmith.orchestrator.v1.OrchestratorService"


class Orchestrator(OrchestratorServiceServicer):
    """Notes what reaches it."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.time_left: float | None = None
        self.watchers = 0

    async def GetRun(self, request: GetRunRequest, context: Any) -> GetRunResponse:
        self.metadata = dict(context.invocation_metadata())
        self.time_left = context.time_remaining()
        if request.run_id == "absent":
            raise NotFound("no run 'absent'", reason="RUN_NOT_FOUND", metadata={"run_id": "absent"})
        return GetRunResponse(run=Run(run_id=request.run_id))

    async def StartRun(self, request: StartRunRequest, context: Any) -> StartRunResponse:
        return StartRunResponse(run=Run(run_id="new", display_name=request.display_name))

    async def WatchRun(self, request: WatchRunRequest, context: Any) -> AsyncIterator[WatchRunResponse]:
        self.watchers += 1
        try:
            for number in range(1, 4):
                yield WatchRunResponse(events=[RunEvent(seq=number)], seen_seq=number)
            if request.run_id == "endless":
                await asyncio.sleep(60)
        finally:
            self.watchers -= 1


class Environment(EnvironmentServiceServicer):
    """Answers a stream message by message."""

    async def Play(self, requests: AsyncIterator[PlayRequest], context: Any) -> AsyncIterator[PlayResponse]:
        async for request in requests:
            if request.HasField("create"):
                yield PlayResponse(created=CreateEpisodesResponse())
            else:
                yield PlayResponse(stepped=StepResponse())


@dataclass
class _Fake(Room):
    """A room of one servicer."""

    servicer: Any
    add: Any

    def register(self, server: Any) -> None:
        self.add(self.servicer, server)

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def _definition(name: str, service: str, servicer: Any, add: Any) -> RoomDefinition:
    return RoomDefinition(
        name=name,
        default_port=1,
        settings=RoomSettings,
        services=(service,),
        open=lambda _: _Fake(servicer=servicer, add=add),
    )


@dataclass(frozen=True)
class House:
    """A gateway before two services; the others are away."""

    orchestrator: Orchestrator
    grpc_address: str
    url: str
    http: httpx.AsyncClient


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    from tinsmith.orchestrator.v1 import add_OrchestratorServiceServicer_to_server as add_orchestrator

    orchestrator, port = Orchestrator(), _free_port()
    one = _definition("orchestrator", ORCHESTRATOR, orchestrator, add_orchestrator)
    service = "tinsmith.environment.v1.EnvironmentService"
    two = _definition("environment", service, Environment(), add_EnvironmentServiceServicer_to_server)
    nowhere = {name: f"127.0.0.1:{_free_port()}" for name in ("trainer", "sampler", "dataset", "grader")}
    async with serving(one, tmp_path) as first, serving(two, tmp_path) as second:
        options = {"orchestrator": first, "environment": second, "http_address": f"127.0.0.1:{port}", **nowhere}
        async with (
            serving(ROOM, tmp_path, **options) as address,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
        ):
            yield House(orchestrator=orchestrator, grpc_address=address, url=f"http://127.0.0.1:{port}", http=http)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_json_unary_prints_every_field(house: House) -> None:
    answer = await house.http.post(f"/{ORCHESTRATOR}/GetRun", json={"runId": "a"})
    assert answer.status_code == 200
    run = answer.json()["run"]
    assert (run["runId"], run["step"], run["state"]) == ("a", "0", "RUN_STATE_UNSPECIFIED")


async def test_snake_case_json_is_taken_too(house: House) -> None:
    answer = await house.http.post(f"/{ORCHESTRATOR}/GetRun", json={"run_id": "a"})
    assert answer.json()["run"]["runId"] == "a"


async def test_protobuf_unary(house: House) -> None:
    answer = await house.http.post(
        f"/{ORCHESTRATOR}/StartRun",
        content=StartRunRequest(display_name="x").SerializeToString(),
        headers={"content-type": "application/proto"},
    )
    assert StartRunResponse.FromString(answer.content).run.display_name == "x"


async def test_reads_answer_http_get_and_writes_do_not(house: House) -> None:
    query = {"connect": "v1", "encoding": "json", "message": json.dumps({"runId": "b"})}
    read = await house.http.get(f"/{ORCHESTRATOR}/GetRun", params=query)
    assert read.json()["run"]["runId"] == "b"
    write = await house.http.get(f"/{ORCHESTRATOR}/StartRun", params=query)
    assert write.status_code == 405


async def test_failure_keeps_its_code_message_and_reason(house: House) -> None:
    answer = await house.http.post(f"/{ORCHESTRATOR}/GetRun", json={"runId": "absent"})
    assert answer.status_code == 404
    body = answer.json()
    assert (body["code"], body["message"]) == ("not_found", "no run 'absent'")
    assert [detail["type"] for detail in body["details"]] == ["google.rpc.ErrorInfo"]


async def test_service_that_is_away_is_503(house: House) -> None:
    answer = await house.http.post("/tinsmith.grader.v1.GraderService/ListGraders", json={})
    assert answer.status_code == 503
    assert answer.json()["code"] == "unavailable"


@pytest.mark.parametrize("body", [b"{", b'{"runId": 5}', b'{"noSuchField": 1}', b"\xff\xfe", b"[1]"])
async def test_bad_json_is_a_400_that_says_what_is_wrong(house: House, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await house.http.post(f"/{ORCHESTRATOR}/GetRun", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["code"] == "invalid_argument"
    assert "Traceback" not in answer.text


async def test_unknown_method_and_path_are_404(house: House) -> None:
    for path in (f"/{ORCHESTRATOR}/Nothing", "/nothing", "/tinsmith.nothing.v1.X/Y"):
        assert (await house.http.post(path, json={})).status_code == 404


async def test_deadline_and_trace_reach_the_service(house: House) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"connect-timeout-ms": "5000", "traceparent": trace, "cookie": "secret"}
    await house.http.post(f"/{ORCHESTRATOR}/GetRun", json={"runId": "a"}, headers=headers)
    assert house.orchestrator.time_left is not None
    assert house.orchestrator.time_left <= 5
    assert house.orchestrator.metadata["traceparent"] == trace
    assert "cookie" not in house.orchestrator.metadata


async def test_connect_stream_of_json(house: House) -> None:
    body = json.dumps({"runId": "a"}).encode()
    headers = {"content-type": "application/connect+json"}
    content = struct.pack(">BI", 0, len(body)) + body
    answer = await house.http.post(f"/{ORCHESTRATOR}/WatchRun", content=content, headers=headers)
    envelopes = list(_envelopes(answer.content))
    assert [json.loads(data)["seenSeq"] for flags, data in envelopes if not flags & 2] == ["1", "2", "3"]
    assert envelopes[-1] == (2, b"{}")


async def test_grpc_web(house: House) -> None:
    body = GetRunRequest(run_id="w").SerializeToString()
    headers = {"content-type": "application/grpc-web+proto"}
    content = struct.pack(">BI", 0, len(body)) + body
    answer = await house.http.post(f"/{ORCHESTRATOR}/GetRun", content=content, headers=headers)
    (flags, data), (last, trailers) = _envelopes(answer.content)
    assert flags == 0
    assert GetRunResponse.FromString(data).run.run_id == "w"
    assert last & 0x80
    assert b"grpc-status: 0" in trailers


def _envelopes(content: bytes) -> Any:
    while content:
        flags, length = struct.unpack(">BI", content[:5])
        yield flags, content[5 : 5 + length]
        content = content[5 + length :]


async def test_client_that_hangs_up_ends_the_stream_behind(house: House) -> None:
    body = json.dumps({"runId": "endless"}).encode()
    headers = {"content-type": "application/connect+json"}
    content = struct.pack(">BI", 0, len(body)) + body
    async with house.http.stream("POST", f"/{ORCHESTRATOR}/WatchRun", content=content, headers=headers) as answer:
        async for _ in answer.aiter_raw():
            break
        assert house.orchestrator.watchers == 1
    for _ in range(100):
        if house.orchestrator.watchers == 0:
            break
        await asyncio.sleep(0.05)
    assert house.orchestrator.watchers == 0


def _suite(house: House) -> aio.Suite:
    address = house.grpc_address
    return aio.Suite(Addresses(**dict.fromkeys(set(PROCESS_OF.values()), address)))


async def test_one_grpc_address_serves_every_kind_of_call(house: House) -> None:
    async with _suite(house) as suite:
        assert (await suite.orchestrator.GetRun(GetRunRequest(run_id="g"))).run.run_id == "g"
        watched = [answer.seen_seq async for answer in suite.orchestrator.WatchRun(WatchRunRequest(run_id="g"))]
        assert watched == [1, 2, 3]
        messages = iter([PlayRequest(step=StepRequest()), PlayRequest(step=StepRequest())])
        played = [answer.WhichOneof("message") async for answer in suite.environment.Play(messages)]
        assert played == ["stepped", "stepped"]


async def test_failure_through_the_grpc_address_keeps_its_details(house: House) -> None:
    async with _suite(house) as suite:
        with pytest.raises(TinsmithError) as caught:
            await suite.orchestrator.GetRun(GetRunRequest(run_id="absent"))
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
    assert caught.value.metadata == {"run_id": "absent"}


async def test_health_pages_say_who_is_up(house: House) -> None:
    assert (await house.http.get("/healthz")).status_code == 200
    ready = await house.http.get("/readyz")
    assert ready.status_code == 503
    states = ready.json()["services"]
    assert (states["orchestrator"], states["grader"]) == ("SERVING", "UNREACHABLE")
    page = (await house.http.get("/")).text
    assert "not reachable" in page
    for method in methods():
        assert f"<code>{method.name}</code>" in page


async def test_buf_curl_speaks_all_three_protocols(house: House) -> None:
    for protocol in ("connect", "grpcweb", "grpc"):
        base = f"http://{house.grpc_address}" if protocol == "grpc" else house.url
        command = [ROOT / ".venv/bin/buf", "curl", "--schema", "proto", "--protocol", protocol, "-d", '{"run_id": "c"}']
        if protocol == "grpc":
            command.append("--http2-prior-knowledge")
        process = await asyncio.create_subprocess_exec(
            *command,
            f"{base}/{ORCHESTRATOR}/GetRun",
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert json.loads(out)["run"]["runId"] == "c", (protocol, err)


async def test_taken_http_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Exception, match=f"can't listen for HTTP on 127.0.0.1:{port}") as caught:
            async with serving(ROOM, tmp_path, http_address=f"127.0.0.1:{port}"):
                pass
    assert "TINSMITH_GATEWAY_HTTP_ADDRESS" in str(caught.value)
