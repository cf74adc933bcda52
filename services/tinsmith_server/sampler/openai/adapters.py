"""Adapters at the server: loaded when a request wants one, unloaded when others need the room.

The files of a checkpoint are verified and copied into a folder of ours that the server can read, because the server
may read them again at any time while the adapter is loaded, and a checkpoint may be replaced or deleted. Folder and
adapter are named after their content, so other weights are another adapter: requests in flight end on those they began
with.
"""

import asyncio
import logging
import os
import shutil
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import safetensors.torch

from tinsmith_server.sampler.adapter import read_adapter
from tinsmith_server.sampler.openai import failures
from tinsmith_server.sampler.openai.client import Client
from tinsmith_server.sampler.openai.messages import ModelCard
from tinsmith_server.serving.errors import FailedPrecondition
from tinsmith_server.storage import CheckpointStore, Manifest

_FILES = ("adapter_config.json", "adapter_model.safetensors")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFolder:
    """Where the server finds adapters."""

    here: Path
    there: str
    """The same folder as the server sees it; empty: by the same path."""

    def path_there(self, name: str) -> str:
        """What the server is told."""
        return f"{self.there.rstrip('/')}/{name}" if self.there else str(self.here / name)


class AdapterShelf:
    """The adapters of this process at the server, at most `limit`. Used on the event loop only."""

    def __init__(
        self, client: Client, store: CheckpointStore, folder: AdapterFolder, *, route: str | None, limit: int
    ) -> None:
        """`route` is where the server has load_lora_adapter, relative to the base URL; None: nowhere."""
        self._client, self._store, self._folder = client, store, folder
        self._route, self._limit = route, limit
        self._loaded: OrderedDict[str, None] = OrderedDict()
        """Names, the least recently used first."""
        self._wanted: Counter[str] = Counter()
        """Requests that use an adapter, or wait for it to be loaded: it is not unloaded before they have had it."""
        self._changing = asyncio.Lock()
        self._freed = asyncio.Event()
        self._loads: dict[str, asyncio.Task[None]] = {}
        owner = sha256(f"{os.uname().nodename}:{folder.here}".encode()).hexdigest()[:8]
        self._prefix = f"tinsmith-{owner}-"

    async def adopt(self, cards: Sequence[ModelCard]) -> None:
        """Takes over what a former process of this sampler left at the server, and removes files of no more use."""
        ours = {card.id for card in cards if card.id.startswith(self._prefix)}
        kept = await asyncio.to_thread(self._sweep, ours)
        self._loaded.update(dict.fromkeys(kept))

    @asynccontextmanager
    async def held(self, manifest: Manifest) -> AsyncIterator[str]:
        """The server's name of a checkpoint's adapter, which stays loaded inside of the context.

        FailedPrecondition with reason ADAPTER_UNSUPPORTED, WEIGHTS_NOT_FINITE or BACKEND_UNSUPPORTED, NotFound with
        reason CHECKPOINT_NOT_FOUND, DataLoss with reason CHECKPOINT_CORRUPT; else as `Client`.
        """
        if self._route is None:
            raise failures.unsupported("model.checkpoint_uri", "it can't load adapters; use a base model")
        name = self._name(manifest)
        self._wanted[name] += 1
        try:
            while name not in self._loaded:
                await self._load_whoever_waits(name, manifest)
            self._loaded.move_to_end(name)
            yield name
        finally:
            self._wanted[name] -= 1
            self._wanted += Counter()  # drops what is zero
            self._freed.set()

    def forget(self, name: str) -> None:
        """The server has lost an adapter: the next request loads it anew."""
        self._loaded.pop(name, None)

    async def close(self) -> None:
        """Ends loads that nobody waits for. What is loaded stays, for the next process to adopt."""
        for load in self._loads.values():
            load.cancel()

    async def _load_whoever_waits(self, name: str, manifest: Manifest) -> None:
        """One load for all who wait. Should they go, it goes on, lest server and shelf differ about what is loaded."""
        if name not in self._loads:
            self._loads[name] = asyncio.create_task(self._load(name, manifest))
            self._loads[name].add_done_callback(lambda load: self._load_ended(name, load))
        await asyncio.shield(self._loads[name])

    def _load_ended(self, name: str, load: "asyncio.Task[None]") -> None:
        del self._loads[name]
        if not load.cancelled():
            load.exception()  # its callers have it, if they still wait

    async def _load(self, name: str, manifest: Manifest) -> None:
        async with self._changing:
            while len(self._loaded) >= self._limit:
                await self._unload_one()
            await asyncio.to_thread(self._export, name, manifest)
            body = {"lora_name": name, "lora_path": self._folder.path_there(name)}
            _check_load(*await self._client.post_once(f"{self._route}load_lora_adapter", body))
            self._loaded[name] = None

    async def _unload_one(self) -> None:
        """The least recently used that nobody wants; waits for one."""
        idle = next((name for name in self._loaded if not self._wanted[name]), None)
        if idle is None:
            self._freed.clear()
            await self._freed.wait()
            return
        del self._loaded[idle]
        status, content = await self._client.post_once(f"{self._route}unload_lora_adapter", {"lora_name": idle})
        if status != 200:  # it has lost the adapter by itself, or will say so when it matters
            _log.warning("unloading %s: HTTP status %d, %s", idle, status, failures.words_of(content))
        await asyncio.to_thread(shutil.rmtree, self._folder.here / idle, ignore_errors=True)

    def _name(self, manifest: Manifest) -> str:
        sums = [f"{file.name}:{file.sha256}" for file in manifest.files if file.name in _FILES]
        content = "\n".join([manifest.base_model, *sorted(sums)])
        return self._prefix + sha256(content.encode()).hexdigest()[:24]

    def _export(self, name: str, manifest: Manifest) -> None:
        """Writes the folder whole or not at all."""
        files = {file: self._store.read(manifest, file) for file in _FILES}
        _check_adapter(files)
        folder = self._folder.here / name
        fresh = folder.with_name(f".{name}.{uuid4().hex}")
        fresh.mkdir(parents=True)
        try:
            for file, content in files.items():
                (fresh / file).write_bytes(content)
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _sweep(self, names: Set[str]) -> list[str]:
        """Removes the folders of adapters that are not loaded; which of `names` have theirs."""
        self._folder.here.mkdir(parents=True, exist_ok=True)
        for folder in self._folder.here.iterdir():
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)
        return [name for name in sorted(names) if (self._folder.here / name).is_dir()]


def _check_adapter(files: Mapping[str, bytes]) -> None:
    config, tensors = (files[name] for name in _FILES)
    read_adapter(config, tensors)
    if not all(tensor.isfinite().all() for tensor in safetensors.torch.load(tensors).values()):
        raise FailedPrecondition(
            "the checkpoint's weights are not finite, training has diverged; use an earlier one",
            reason="WEIGHTS_NOT_FINITE",
        )


def _check_load(status: int, content: bytes) -> None:
    """What the answer to load_lora_adapter means."""
    words = failures.words_of(content)
    if status == 200 or "already" in words:  # by a load whose answer was lost
        return
    if status in (404, 405) or "not enabled" in words:
        raise failures.unsupported(
            "model.checkpoint_uri",
            "it takes no adapters, or does not find their folder; start vLLM with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and set openai_adapter_directory to a folder "
            "that it reads",
        )
    if status in (400, 422, 500):
        raise FailedPrecondition(
            f"the model server does not take this adapter: {words or 'it does not say why'}",
            reason="ADAPTER_UNSUPPORTED",
        )
    raise failures.of_status(status, {}, content)
