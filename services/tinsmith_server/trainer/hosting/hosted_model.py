"""A model as the room keeps it: its calls in order, its place in memory or storage, its checkpoints."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from tinsmith_server.serving import visible_owner
from tinsmith_server.serving.errors import ServiceError
from tinsmith_server.storage import (
    SAMPLER,
    TRAINING,
    CheckpointDraft,
    CheckpointStore,
    CheckpointUri,
    Manifest,
    Resolved,
    resolve,
)
from tinsmith_server.trainer.checkpoints.adapter_files import mismatch
from tinsmith_server.trainer.checkpoints.stored_state import read_state
from tinsmith_server.trainer.hosting.in_order import CallOrder
from tinsmith_server.trainer.hosting.residence import Facts, Residence
from tinsmith_server.trainer.request import AdamParams, ForwardResult, StepResult, TrainingCall

_EPHEMERAL_LIFETIME = timedelta(days=1)
"""How long ephemeral weights are asked for of a backend that keeps them itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SaveRequest:
    """How a checkpoint is to be stored."""

    name: str
    """Empty: the step as six digits for a training state, ephemeral for a sampler's weights."""
    ttl: timedelta | None
    overwrite: bool


@dataclass(kw_only=True, slots=True, eq=False)
class HostedModel:
    """One model. The coroutines, but for `park`, run inside `order`."""

    number: int
    """Counts the models of this process."""
    model_id: str
    residence: Residence
    order: CallOrder
    store: CheckpointStore
    kept_ephemeral: int
    user_metadata: Mapping[str, str]
    idle_timeout: timedelta | None
    """It is parked when it was not used for so long."""
    heartbeat_timeout: timedelta | None
    """It is released when its client gave no sign of life for so long."""
    create_time: datetime
    last_use_time: datetime
    owner: str = ""
    """The tenant whose it is; empty where no API keys are asked for."""
    ephemeral: deque[CheckpointUri] = field(default_factory=deque)
    """Ephemeral weights in storage, oldest first."""
    used_at: float = field(default_factory=time.monotonic)
    """When it was last used, on the clock that nobody sets."""
    seen_at: float = field(default_factory=time.monotonic)
    """When its client last gave a sign of life."""

    @property
    def facts(self) -> Facts:
        return self.residence.facts

    @property
    def is_visible(self) -> bool:
        """Whether the present caller may see and use it."""
        return visible_owner() in (None, self.owner)

    def touch(self) -> None:
        """Takes note that the model is used."""
        self.last_use_time = datetime.now(UTC)
        self.used_at = self.seen_at = time.monotonic()

    def keep_alive(self) -> None:
        """Takes note that its client lives."""
        self.seen_at = time.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether it is in memory and was left alone for longer than its time."""
        if self.residence.is_parked or self.order.is_busy:
            return False
        return _is_past(self.used_at, self.idle_timeout)

    @property
    def is_forsaken(self) -> bool:
        """Whether its client was silent for longer than its time; a call that only waits is no sign of life."""
        return not self.order.is_working and _is_past(self.seen_at, self.heartbeat_timeout)

    async def park(self) -> bool:
        """Leaves memory, if the model is at rest and nobody waits for it. A vain attempt counts as a use, so that the
        next one is not made at once."""
        if self.residence.is_parked or self.order.is_busy or self.order.is_closed:
            return False
        parked = await self.order.run(self.residence.leave)
        if not parked:
            self.used_at = time.monotonic()
        return parked

    def close(self, error: ServiceError, *, release: bool) -> "asyncio.Task[None]":
        """Refuses with `error` the calls that wait or come; when the running one has ended, removes what was parked,
        and to `release` ephemeral weights too."""

        async def clean_up() -> None:
            await self.residence.forget()
            await asyncio.to_thread(self.store.forget_live, self.model_id)
            while release and self.ephemeral:
                await asyncio.to_thread(self.store.delete, self.ephemeral.popleft())

        return self.order.close(error, last=clean_up)

    async def forward(self, call: TrainingCall) -> ForwardResult:
        return await (await self.residence.enter()).forward(call)

    async def forward_backward(self, call: TrainingCall) -> ForwardResult:
        return await (await self.residence.enter()).forward_backward(call)

    async def optim_step(self, params: AdamParams) -> StepResult:
        return await (await self.residence.enter()).optim_step(params)

    async def save_state(self, request: SaveRequest) -> Manifest:
        """Writes a durable training checkpoint."""
        model = await self.residence.enter()
        files = await model.state_files(lifetime=request.ttl)
        uri = CheckpointUri(model_id=self.model_id, kind=TRAINING, name=request.name or f"{model.step:06d}")
        return await self._publish(uri, files, request)

    async def save_for_sampler(self, request: SaveRequest) -> Manifest:
        """Writes the adapter: durable with a name, else ephemeral, and the oldest ephemeral ones go meanwhile."""
        model = await self.residence.enter()
        lifetime = request.ttl if request.name or request.ttl else _EPHEMERAL_LIFETIME
        files = await model.adapter_files(lifetime=lifetime)
        name = request.name or f"ephemeral-{model.step:06d}-{secrets.token_hex(4)}"
        uri = CheckpointUri(model_id=self.model_id, kind=SAMPLER, name=name)
        if request.name:
            return await self._publish(uri, files, request)
        writing = self._publish(uri, files, request, ephemeral=True)
        manifest, _ = await asyncio.gather(writing, self._drop_old_ephemeral())
        self.ephemeral.append(uri)
        return manifest

    async def load_state(self, uri: CheckpointUri, *, with_optimizer: bool) -> Resolved[Manifest]:
        """Replaces the adapter by a checkpoint's; without the optimizer's memory the optimizer begins anew. Says which
        checkpoint it was."""
        model = await self.residence.enter()
        load = partial(read_state, self.store, with_optimizer=with_optimizer)
        found = await asyncio.to_thread(resolve, self.store, uri, load)
        manifest = found.value.manifest
        if manifest.base_model != model.base_model:
            raise mismatch(f"the base model {manifest.base_model}, the model {model.base_model}")
        await model.load(found.value.files, with_optimizer=with_optimizer)
        return Resolved(value=manifest, skipped=found.skipped)

    async def _drop_old_ephemeral(self) -> None:
        """Makes place for one more; on a disk a removal takes as long as a write."""
        while len(self.ephemeral) >= self.kept_ephemeral:
            await asyncio.to_thread(self.store.delete, self.ephemeral.popleft())

    async def _publish(
        self, uri: CheckpointUri, files: Mapping[str, bytes], request: SaveRequest, *, ephemeral: bool = False
    ) -> Manifest:
        draft = CheckpointDraft(
            uri=uri,
            step=self.facts.step,
            base_model=self.facts.base_model,
            lora=self.facts.shape,
            expire_time=None if request.ttl is None else datetime.now(UTC) + request.ttl,
            ephemeral=ephemeral,
            user_metadata=self.user_metadata,
            owner=self.owner,
        )
        return await asyncio.to_thread(
            self.store.publish, draft, files, durable=not ephemeral, overwrite=request.overwrite
        )


def _is_past(moment: float, limit: timedelta | None) -> bool:
    return limit is not None and time.monotonic() - moment > limit.total_seconds()
