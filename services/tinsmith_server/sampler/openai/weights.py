"""What a request names, as what the server is asked for."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tinsmith_server.models import BaseModel
from tinsmith_server.sampler.checkpoints import CheckpointReader
from tinsmith_server.sampler.openai.adapters import AdapterShelf
from tinsmith_server.sampler.openai.dialect import Dialect
from tinsmith_server.sampler.openai.served_model import ServedModel
from tinsmith_server.sampler.request import ModelRef
from tinsmith_server.serving.errors import NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """A base model, with an adapter or without."""

    model: ServedModel
    remote: str
    """What `model` says to the server."""
    adapter: str | None
    """The adapter's name on the shelf."""
    version: str


class WeightsFinder:
    """Finds weights, and has the server load adapters."""

    def __init__(
        self,
        base_models: Mapping[str, BaseModel],
        served: Mapping[str, ServedModel],
        *,
        dialect: Dialect,
        checkpoints: CheckpointReader,
        shelf: AdapterShelf,
    ) -> None:
        self._base_models, self.served = base_models, served
        self.dialect, self._checkpoints, self._shelf = dialect, checkpoints, shelf

    @asynccontextmanager
    async def find(self, ref: ModelRef, check: Callable[[ServedModel], None]) -> AsyncIterator[Weights]:
        """The weights, which stay at the server inside of the context. `check` looks at the request before an adapter
        is loaded for it.

        NotFound with reason BASE_MODEL_NOT_FOUND; else as `CheckpointReader.open` and `AdapterShelf.held`.
        """
        if ref.checkpoint_uri is None:
            model = self._base(ref.base_model or "")
            check(model)
            yield Weights(model=model, remote=model.remote, adapter=None, version=model.name)
            return
        async with AsyncExitStack() as stack:
            try:
                weights = await self._adapted(ref.checkpoint_uri, check, stack)
            except NotFound:  # replaced after its manifest was read? Then the new one is there now.
                weights = await self._adapted(ref.checkpoint_uri, check, stack)
            yield weights

    def forget(self, adapter: str) -> None:
        """The server has lost an adapter."""
        self._shelf.forget(adapter)

    async def close(self) -> None:
        """Ends what is going on at the server for us."""
        await self._shelf.close()

    async def _adapted(self, uri: str, check: Callable[[ServedModel], None], stack: AsyncExitStack) -> Weights:
        checkpoint = await self._checkpoints.open(uri)
        model = self._base(self._name_here(checkpoint.base_model))
        check(model)
        adapter = await stack.enter_async_context(self._shelf.held(checkpoint.manifest))
        return Weights(
            model=model,
            remote=self.dialect.adapter_name(model.remote, adapter),
            adapter=adapter,
            version=f"{model.name}+{checkpoint.checksum}",
        )

    def _name_here(self, base_model: str) -> str:
        """The name under which this process serves what a checkpoint calls `base_model`, which may be a location."""
        if base_model in self._base_models:
            return base_model
        names = [model.name for model in self._base_models.values() if model.location == base_model]
        return names[0] if names else base_model

    def _base(self, name: str) -> ServedModel:
        if name not in self.served:
            served = ", ".join(sorted(self.served))
            raise NotFound(
                f"base model {name!r} is not served here; this sampler serves {served} (setting base_models)",
                reason="BASE_MODEL_NOT_FOUND",
                metadata={"base_model": name, "served": served},
            )
        return self.served[name]
