"""Trainer and sampler over each backend, with the same model behind.

To put another backend to the test, add a function that opens its world to `TRAINERS` or `SAMPLERS`.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.sampler.openai.server import model_server, sampler_settings
from tests.support import serving
from tests.tinker_server.server import tinker_server
from tinsmith.aio import Suite
from tinsmith_server.sampler import ROOM as SAMPLER
from tinsmith_server.trainer import ROOM as TRAINER

BASE_MODEL = "random"


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A trainer and a sampler that share their checkpoints, both serving `BASE_MODEL`."""

    backend: str
    suite: Suite
    lacks: frozenset[str] = frozenset()
    """What the backend refuses as BACKEND_UNSUPPORTED: fields of SamplingParams and of requests."""
    checks_vocabulary: bool = True
    """Whether it knows the vocabulary itself; else a token outside is found by the server behind it."""


Open = Callable[[Path, Path], AbstractAsyncContextManager[World]]
"""Opens a world in a home, of the model in a directory."""


@asynccontextmanager
async def local(home: Path, model_directory: Path) -> AsyncIterator[World]:
    """Everything in the room's own process."""
    async with _rooms(home, base_models=f"{BASE_MODEL}={model_directory}") as suite:
        yield World(backend="local", suite=suite)


@asynccontextmanager
async def tinker(home: Path, model_directory: Path) -> AsyncIterator[World]:
    """A Tinker service, through its SDK."""
    async with (
        tinker_server(home / "service", model_directory) as server,
        _rooms(home, base_models=f"{BASE_MODEL}={server.base_model}", **server.settings) as suite,
    ):
        yield World(
            backend="tinker",
            suite=suite,
            lacks=frozenset({"min_p", "frequency_penalty", "presence_penalty", "logit_bias", "allowed_token_ids"}),
            checks_vocabulary=False,
        )


@asynccontextmanager
async def openai(home: Path, model_directory: Path) -> AsyncIterator[World]:
    """A local trainer, and a sampler over a server that speaks vLLM's dialect."""
    async with model_server(model_directory) as server:
        settings = sampler_settings(server)
        async with _rooms(home, base_models=settings.pop("base_models"), sampler_settings=settings) as suite:
            yield World(backend="openai", suite=suite, lacks=frozenset({"targets"}))


TRAINERS: Mapping[str, Open] = {"local": local, "tinker": tinker}
SAMPLERS: Mapping[str, Open] = {"local": local, "tinker": tinker, "openai": openai}


@asynccontextmanager
async def open_worlds(
    openers: Mapping[str, Open], home: Path, model_directory: Path
) -> AsyncIterator[Mapping[str, World]]:
    """All of them at once, each in a home of its own."""
    async with AsyncExitStack() as stack:
        yield {
            name: await stack.enter_async_context(opener(home / name, model_directory))
            for name, opener in openers.items()
        }


@asynccontextmanager
async def _rooms(
    home: Path, sampler_settings: Mapping[str, object] = MappingProxyType({}), **settings: object
) -> AsyncIterator[Suite]:
    """`sampler_settings` are for the sampler alone."""
    async with (
        serving(TRAINER, home, sequence_wait_s=0.5, **settings) as trainer,
        serving(SAMPLER, home, **settings, **sampler_settings) as sampler,
        Suite.connect(trainer=trainer, sampler=sampler) as suite,
    ):
        yield suite
