"""The pages for people and probes: what is up, and how to call it."""

import asyncio
from itertools import groupby

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from tinsmith_server.gateway.upstream import Upstreams, methods

PROBE_TIMEOUT_S = 2.0
WORDS = {"SERVING": "ready", "NOT_SERVING": "starting or draining", "UNREACHABLE": "not reachable"}


class Pages:
    """Answers GET /, /healthz and /readyz."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        templates = Environment(loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined)
        self._front = templates.get_template("front.html.j2")
        self._services = {name: list(found) for name, found in groupby(methods(), lambda method: method.service)}

    async def alive(self, _: Request) -> Response:
        """200 as long as the gateway itself works."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """200 when every service behind the gateway is ready, else 503; the body says which is not."""
        states = await self._states()
        is_ready = set(states.values()) == {"SERVING"}
        return JSONResponse({"ready": is_ready, "services": states}, status_code=200 if is_ready else 503)

    async def front(self, request: Request) -> Response:
        """What is up, every method, and a line of curl to begin with."""
        states = await self._states()
        base_url = str(request.base_url)
        return HTMLResponse(self._front.render(states=states, words=WORDS, services=self._services, base_url=base_url))

    async def _states(self) -> dict[str, str]:
        """Each process -> SERVING, NOT_SERVING or UNREACHABLE."""
        processes = self._upstreams.processes
        states = await asyncio.gather(*(self._state(process) for process in processes))
        return dict(zip(processes, states, strict=True))

    async def _state(self, process: str) -> str:
        try:
            answer = await health_pb2_grpc.HealthStub(self._upstreams.channel(process)).Check(
                health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
