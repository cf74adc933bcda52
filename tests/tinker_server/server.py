"""A Tinker-compatible server on loopback: real HTTP, real numbers."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from tests.support import serving
from tests.tinker_server.app import TinkerApp
from tests.tinker_server.faults import Faults
from tinsmith.aio import Suite
from tinsmith_server.sampler import ROOM as SAMPLER
from tinsmith_server.trainer import ROOM as TRAINER

API_KEY = "tml-a-key-that-nobody-must-see"
_CONTEXT = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class TinkerServer:
    """A running server."""

    base_url: str
    base_model: str
    """Its name: the directory of the model, which the SDK takes for the tokenizer's too."""
    faults: Faults

    @property
    def settings(self) -> dict[str, object]:
        """Settings of a room whose backend it is to be."""
        return {"backend": "tinker", "tinker_base_url": self.base_url, "tinker_api_key": API_KEY}


@asynccontextmanager
async def tinker_server(home: Path, model_directory: Path) -> AsyncIterator[TinkerServer]:
    """A server of the model in a directory, over a trainer and a sampler of its own."""
    name = str(model_directory)
    async with (
        serving(TRAINER, home, base_models=name) as trainer,
        serving(SAMPLER, home, base_models=name) as sampler,
        Suite.connect(trainer=trainer, sampler=sampler) as suite,
    ):
        app = TinkerApp(suite, base_model=name, context=_CONTEXT, api_key=API_KEY)
        faults = Faults(app.starlette())
        async with _http(faults) as base_url:
            yield TinkerServer(base_url=base_url, base_model=name, faults=faults)
        app.futures.close()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the tests."""
        yield


@asynccontextmanager
async def _http(app: Faults) -> AsyncIterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
