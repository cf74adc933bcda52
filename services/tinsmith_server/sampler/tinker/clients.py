"""Weights at the service, by the name that a request gives them."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import tinker

from tinsmith_server.sampler.request import ModelRef
from tinsmith_server.sampler.tinker.tokenizer import Tokenizer
from tinsmith_server.serving.errors import NotFound
from tinsmith_server.storage import CheckpointStore, CheckpointUri, Manifest
from tinsmith_server.tinker_client.connection import Connection
from tinsmith_server.tinker_client.models import ServedModel
from tinsmith_server.tinker_client.remote_checkpoint import FILE, RemoteCheckpoint

_KEPT = 64
"""Clients kept of weights that were used lately; making one is a request to the service."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What a request needs to be sent."""

    base: ServedModel
    client: tinker.SamplingClient
    version: str


class Clients:
    """Finds weights. Used on the event loop only."""

    def __init__(self, connection: Connection, store: CheckpointStore) -> None:
        self._connection, self._store = connection, store
        self._bases: Mapping[str, ServedModel] = {}
        self._clients: OrderedDict[str, asyncio.Task[tinker.SamplingClient]] = OrderedDict()
        self._tokenizers: dict[str, asyncio.Task[Tokenizer]] = {}

    def serve(self, bases: Mapping[str, ServedModel]) -> None:
        """Takes note of the base models that there are."""
        self._bases = bases

    def bases(self) -> Mapping[str, ServedModel]:
        """The base models by the names that requests give them."""
        return self._bases

    async def find(self, ref: ModelRef) -> Weights:
        """Weights by name.

        NotFound with reason BASE_MODEL_NOT_FOUND or CHECKPOINT_NOT_FOUND, InvalidArgument with reason
        BAD_CHECKPOINT_URI, DataLoss with reason CHECKPOINT_CORRUPT, FailedPrecondition with reason CHECKPOINT_MISMATCH
        for a checkpoint whose weights are not at the service; else as `Connection.result`.
        """
        if ref.checkpoint_uri is None:
            base = self._base(ref.base_model or "")
            return Weights(base=base, client=await self._client(base.remote, base), version=base.name)
        manifest, remote = await asyncio.to_thread(self._read, ref.checkpoint_uri)
        base = self._base(self._name_here(manifest.base_model))
        client = await self._client(remote.path, base)
        return Weights(base=base, client=client, version=f"{base.name}+{remote.path}")

    async def tokenizer(self, weights: Weights) -> Tokenizer:
        """The tokenizer of the base model, loaded once. Errors as `Tokenizer.of`."""
        name = weights.base.remote
        if name not in self._tokenizers or _failed(self._tokenizers[name]):
            self._tokenizers[name] = asyncio.create_task(asyncio.to_thread(Tokenizer.of, weights.client))
        return await asyncio.shield(self._tokenizers[name])

    def _read(self, uri: str) -> tuple[Manifest, RemoteCheckpoint]:
        manifest = self._store.manifest(CheckpointUri.parse(uri))
        names = {file.name for file in manifest.files}
        files = {name: self._store.read(manifest, name) if name == FILE else b"" for name in names}
        return manifest, RemoteCheckpoint.of(files)

    def _name_here(self, base_model: str) -> str:
        """The name under which this process serves what a checkpoint calls `base_model`: a trainer may name a model
        as the service does, a sampler by an alias."""
        if base_model in self._bases:
            return base_model
        names = [name for name, base in self._bases.items() if base.remote == base_model]
        return names[0] if names else base_model

    def _base(self, name: str) -> ServedModel:
        if name not in self._bases:
            served = ", ".join(sorted(self._bases))
            raise NotFound(
                f"base model {name!r} is not served here; this sampler serves {served} (setting base_models)",
                reason="BASE_MODEL_NOT_FOUND",
                metadata={"base_model": name, "served": served},
            )
        return self._bases[name]

    async def _client(self, name: str, base: ServedModel) -> tinker.SamplingClient:
        """The client of a path or a base model, made once however many ask for it at the same time."""
        if name not in self._clients or _failed(self._clients[name]):
            self._clients[name] = asyncio.create_task(self._make(name, base))
        self._clients.move_to_end(name)
        while len(self._clients) > _KEPT:
            self._clients.popitem(last=False)
        return await asyncio.shield(self._clients[name])

    async def _make(self, name: str, base: ServedModel) -> tinker.SamplingClient:
        service = self._connection.service
        is_path = name != base.remote
        # The base model's name keeps the SDK from asking for it.
        future = service.create_sampling_client(model_path=name if is_path else None, base_model=base.remote)
        return await self._connection.result(future, missing=_lost_weights if is_path else None)


def _failed(task: "asyncio.Task[object]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _lost_weights(said: str) -> NotFound:
    return NotFound(f"the Tinker service has these weights no more: {said}", reason="CHECKPOINT_NOT_FOUND")
