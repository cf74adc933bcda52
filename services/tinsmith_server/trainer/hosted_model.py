"""A model as the room keeps it: its calls in order, its work on the torch thread, its checkpoints in storage."""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from tinsmith_server.storage import SAMPLER, TRAINING, CheckpointDraft, CheckpointStore, CheckpointUri, Manifest
from tinsmith_server.trainer.adapter_files import CONFIG, OPTIMIZER, WEIGHTS, mismatch
from tinsmith_server.trainer.backend import TrainableModel
from tinsmith_server.trainer.in_order import CallOrder
from tinsmith_server.trainer.request import AdamParams, ForwardResult, StepResult, TrainingCall

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveRequest:
    """How a checkpoint is to be stored."""

    name: str
    """Empty: the step as six digits for a training state, ephemeral for a sampler's weights."""
    ttl: timedelta | None
    overwrite: bool


@dataclass(kw_only=True, slots=True, eq=False)
class HostedModel:
    """One model in memory. All methods but the properties run inside `order`."""

    number: int
    """Counts the models of this process."""
    model_id: str
    model: TrainableModel
    order: CallOrder
    torch_thread: ThreadPoolExecutor
    store: CheckpointStore
    kept_ephemeral: int
    user_metadata: Mapping[str, str]
    idle_timeout: timedelta | None
    create_time: datetime
    last_use_time: datetime
    ephemeral: deque[CheckpointUri] = field(default_factory=deque)
    """Ephemeral weights in storage, oldest first."""

    def touch(self) -> None:
        """Takes note that the model is used."""
        self.last_use_time = datetime.now(UTC)

    @property
    def is_idle(self) -> bool:
        """Whether it was left alone for longer than its time."""
        if self.idle_timeout is None or self.order.is_busy:
            return False
        return datetime.now(UTC) - self.last_use_time > self.idle_timeout

    async def forward(self, call: TrainingCall) -> ForwardResult:
        return await self._on_torch_thread(lambda: self.model.forward(call))

    async def forward_backward(self, call: TrainingCall) -> ForwardResult:
        return await self._on_torch_thread(lambda: self.model.forward_backward(call))

    async def optim_step(self, params: AdamParams) -> StepResult:
        return await self._on_torch_thread(lambda: self.model.optim_step(params))

    async def save_state(self, request: SaveRequest) -> Manifest:
        """Writes a durable training checkpoint."""
        files = await self._on_torch_thread(self.model.state_files)
        uri = CheckpointUri(model_id=self.model_id, kind=TRAINING, name=request.name or f"{self.model.step:06d}")
        return await self._publish(uri, files, request)

    async def save_for_sampler(self, request: SaveRequest) -> Manifest:
        """Writes the adapter: durable with a name, else ephemeral; then the oldest ephemeral ones go."""
        files = await self._on_torch_thread(self.model.adapter_files)
        name = request.name or f"ephemeral-{self.model.step:06d}-{secrets.token_hex(4)}"
        uri = CheckpointUri(model_id=self.model_id, kind=SAMPLER, name=name)
        manifest = await self._publish(uri, files, request, ephemeral=not request.name)
        if manifest.ephemeral:
            self.ephemeral.append(uri)
            while len(self.ephemeral) > self.kept_ephemeral:
                await asyncio.to_thread(self.store.delete, self.ephemeral.popleft())
        return manifest

    async def load_state(self, uri: CheckpointUri, *, with_optimizer: bool) -> None:
        """Replaces the adapter by a checkpoint's; without the optimizer's memory the optimizer begins anew."""
        manifest, files = await asyncio.to_thread(read_checkpoint, self.store, uri, with_optimizer=with_optimizer)
        if manifest.base_model != self.model.base_model:
            raise mismatch(f"the base model {manifest.base_model}, the model {self.model.base_model}")
        await self._on_torch_thread(lambda: self.model.load(files, with_optimizer=with_optimizer))

    async def _publish(
        self, uri: CheckpointUri, files: Mapping[str, bytes], request: SaveRequest, *, ephemeral: bool = False
    ) -> Manifest:
        draft = CheckpointDraft(
            uri=uri,
            step=self.model.step,
            base_model=self.model.base_model,
            lora=self.model.shape,
            expire_time=None if request.ttl is None else datetime.now(UTC) + request.ttl,
            ephemeral=ephemeral,
            user_metadata=self.user_metadata,
        )
        return await asyncio.to_thread(
            self.store.publish, draft, files, durable=not ephemeral, overwrite=request.overwrite
        )

    async def _on_torch_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.torch_thread, work)


def read_checkpoint(
    store: CheckpointStore, uri: CheckpointUri, *, with_optimizer: bool
) -> tuple[Manifest, dict[str, bytes]]:
    """A checkpoint's manifest and verified files; the optimizer's only when it is asked for. Blocks.

    Raises FailedPrecondition with reason CHECKPOINT_MISMATCH when it has no optimizer state that is asked for; else as
    `CheckpointStore.manifest` and `read`.
    """
    manifest = store.manifest(uri)
    listed = {file.name for file in manifest.files}
    wanted = {CONFIG, WEIGHTS} | ({OPTIMIZER} if with_optimizer else set())
    if with_optimizer and OPTIMIZER not in listed:
        raise mismatch("no optimizer state; load it without, or take a training checkpoint")
    return manifest, {name: store.read(manifest, name) for name in sorted(wanted)}
