"""Adapters from checkpoint storage: which files a URI stands for now, and what is in them."""

import asyncio
from dataclasses import dataclass

from tinsmith_server.sampler.adapter import Adapter, read_adapter
from tinsmith_server.serving.errors import FailedPrecondition
from tinsmith_server.storage import CheckpointStore, CheckpointUri, Manifest

_CONFIG, _TENSORS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerCheckpoint:
    """A checkpoint, training or sampler, as far as sampling needs it."""

    manifest: Manifest

    @property
    def base_model(self) -> str:
        """The base model as the trainer's requests named it."""
        return self.manifest.base_model

    @property
    def checksum(self) -> str:
        """SHA-256 of the tensors, then of the configuration, which holds their scale."""
        sums = {file.name: file.sha256 for file in self.manifest.files}
        return "+".join(sums.get(name, "") for name in (_TENSORS, _CONFIG))


class CheckpointReader:
    """Reads checkpoints without blocking the event loop."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    async def open(self, uri: str) -> SamplerCheckpoint:
        """What is stored under `uri` now.

        InvalidArgument BAD_CHECKPOINT_URI, NotFound CHECKPOINT_NOT_FOUND, DataLoss CHECKPOINT_CORRUPT,
        FailedPrecondition ADAPTER_UNSUPPORTED for one whose weights are not in this storage.
        """
        manifest = await asyncio.to_thread(self._store.manifest, CheckpointUri.parse(uri))
        if _TENSORS not in {file.name for file in manifest.files}:
            raise FailedPrecondition(
                f"the weights of {manifest.uri} are at a Tinker service, not in this storage; use backend tinker",
                reason="ADAPTER_UNSUPPORTED",
                metadata={"uri": str(manifest.uri)},
            )
        return SamplerCheckpoint(manifest=manifest)

    async def read(self, checkpoint: SamplerCheckpoint) -> Adapter:
        """Its adapter, verified. Errors as `open` and `read_adapter`; NotFound, too, when it was replaced since."""
        return await asyncio.to_thread(self._read, checkpoint.manifest)

    def _read(self, manifest: Manifest) -> Adapter:
        return read_adapter(self._store.read(manifest, _CONFIG), self._store.read(manifest, _TENSORS))
