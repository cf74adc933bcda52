"""The models: made, found, parked, kept alive, released."""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from tinsmith_server.serving import visible_owner
from tinsmith_server.serving.errors import AlreadyExists, NotFound, ResourceExhausted, ServiceError
from tinsmith_server.storage import (
    SAMPLER,
    CheckpointStore,
    CheckpointUri,
    LoraShape,
    Manifest,
    Resolved,
    Skipped,
    resolve,
)
from tinsmith_server.trainer.backend import Backend, TrainableModel
from tinsmith_server.trainer.checkpoints.adapter_files import mismatch
from tinsmith_server.trainer.checkpoints.stored_state import StoredState, read_state
from tinsmith_server.trainer.hosting.call_queue import CallQueue
from tinsmith_server.trainer.hosting.hosted_model import HostedModel
from tinsmith_server.trainer.hosting.in_order import CallOrder
from tinsmith_server.trainer.hosting.parked_states import ParkedStates
from tinsmith_server.trainer.hosting.residence import Facts, Residence
from tinsmith_server.trainer.settings import TrainerSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewModel:
    """A model that is asked for."""

    model_id: str
    """Empty lets the registry choose."""
    base_model: str
    """May be empty when the checkpoint names it."""
    shape: LoraShape
    """Ignored with a checkpoint."""
    checkpoint_uri: str
    """Empty starts fresh."""
    load_optimizer: bool
    user_metadata: Mapping[str, str]
    idle_timeout: timedelta | None
    """None: the room's setting."""
    heartbeat_timeout: timedelta | None
    """None: the room's setting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedModel:
    """A model, and where it starts from."""

    model: HostedModel
    restored_from: Manifest | None = None
    """None when it starts fresh."""
    skipped: tuple[Skipped, ...] = ()


class ModelRegistry:
    """Models by id. Used on the event loop only."""

    def __init__(
        self,
        backend: Backend,
        store: CheckpointStore,
        states: ParkedStates,
        settings: TrainerSettings,
        calls: CallQueue,
    ) -> None:
        self._calls = calls
        self._backend, self._store, self._states, self._settings = backend, store, states, settings
        self._models: dict[str, HostedModel] = {}
        self._made = 0
        self._coming = asyncio.Lock()
        """Held by whoever brings a model into memory, so that two never take the same room."""
        self._farewells: set[asyncio.Task[None]] = set()
        self.order = self._call_order()
        """Creations and deletions, one after the other."""

    def get(self, model_id: str) -> HostedModel:
        """The model, if it is the caller's. NotFound with reason MODEL_NOT_FOUND."""
        model = self._models.get(model_id)
        if model is None or not model.is_visible:
            raise _not_found(model_id)
        return model

    def use(self, model_id: str) -> HostedModel:
        """The model, which counts as used. NotFound with reason MODEL_NOT_FOUND."""
        model = self.get(model_id)
        model.touch()
        return model

    def list(self) -> Sequence[HostedModel]:
        """The caller's models, oldest first; all of them outside of a call."""
        return [model for model in self._models.values() if model.is_visible]

    def keep_alive(self, model_ids: Sequence[str]) -> Sequence[str]:
        """Their client lives; returns the ids that are not there."""
        visible = {model.model_id: model for model in self.list()}
        for model_id in model_ids:
            if model_id in visible:
                visible[model_id].keep_alive()
        return [model_id for model_id in model_ids if model_id not in visible]

    async def create(self, wanted: NewModel) -> CreatedModel:
        """Makes a model. Runs inside `order`.

        Raises AlreadyExists with reason MODEL_EXISTS, ResourceExhausted with reason TOO_MANY_MODELS, NotFound with
        reason BASE_MODEL_NOT_FOUND or CHECKPOINT_NOT_FOUND, and as `resolve`, `read_state` and `TrainableModel.load`.
        """
        model_id = wanted.model_id or f"model-{uuid.uuid4().hex}"
        self._refuse_if_full_or_taken(model_id)
        found = await self._stored_state(wanted) if wanted.checkpoint_uri else None
        make = partial(self._make, wanted, None if found is None else found.value)
        model = await self._with_room(make, must_fit=True)
        hosted = await self._hosted(model_id, model, wanted)
        self._models[model_id] = hosted
        await asyncio.to_thread(self._store.mark_live, [model_id])
        if found is None:
            return CreatedModel(model=hosted)
        return CreatedModel(model=hosted, restored_from=found.value.manifest, skipped=found.skipped)

    async def delete(self, model_id: str) -> bool:
        """Forgets a model; False when there was none. Calls that wait are refused."""
        if model_id in self._models and not self._models[model_id].is_visible:
            return False
        return self._close(model_id, _not_found(model_id), release=False)

    async def look_after(self) -> None:
        """Releases models whose clients are silent for longer than their time, and parks those that are left alone."""
        for model in self.list():
            if model.order.is_closed:  # while another one was parked
                continue
            if model.is_forsaken:
                _log.info("model %s is released: no call and no heartbeat in its time", model.model_id)
                self._close(model.model_id, _released(model.model_id), release=True)
            elif model.is_idle:
                await model.park()

    async def restore(self, facts: Facts, state: Manifest) -> TrainableModel:
        """A parked model in memory, whether or not others could be parked for it: its caller waits, and a refusal would
        break its order."""
        files = await asyncio.to_thread(self._states.take, state)
        load = partial(self._backend.restore_model, facts.base_model, facts.shape, files, with_optimizer=True)
        return await self._with_room(load, must_fit=False)

    async def stop(self) -> None:
        """Waits until what deleted models left is removed."""
        await asyncio.gather(*self._farewells, return_exceptions=True)

    async def _stored_state(self, wanted: NewModel) -> Resolved[StoredState]:
        load = partial(read_state, self._store, with_optimizer=wanted.load_optimizer)
        found = await asyncio.to_thread(resolve, self._store, CheckpointUri.parse(wanted.checkpoint_uri), load)
        manifest = found.value.manifest
        if wanted.base_model and wanted.base_model != manifest.base_model:
            raise mismatch(f"the base model {manifest.base_model}, the request {wanted.base_model}")
        return found

    async def _make(self, wanted: NewModel, stored: StoredState | None) -> TrainableModel:
        if stored is None:
            return await self._backend.create_model(wanted.base_model, wanted.shape)
        manifest, with_optimizer = stored.manifest, wanted.load_optimizer
        return await self._backend.restore_model(
            manifest.base_model, manifest.lora, stored.files, with_optimizer=with_optimizer
        )

    async def _hosted(self, model_id: str, model: TrainableModel, wanted: NewModel) -> HostedModel:
        stored = await asyncio.to_thread(self._store.list, model_id=model_id, kind=SAMPLER)
        settings, now, owner = self._settings, datetime.now(UTC), visible_owner() or ""
        self._made += 1
        return HostedModel(
            number=self._made,
            model_id=model_id,
            residence=Residence(model_id, model, memory=self, states=self._states),
            order=self._call_order(),
            store=self._store,
            kept_ephemeral=settings.kept_ephemeral,
            user_metadata=dict(wanted.user_metadata),
            idle_timeout=wanted.idle_timeout or _timeout(settings.idle_timeout_s),
            heartbeat_timeout=wanted.heartbeat_timeout or _timeout(settings.heartbeat_timeout_s),
            create_time=now,
            last_use_time=now,
            owner=owner,
            ephemeral=deque(manifest.uri for manifest in stored if manifest.ephemeral and manifest.owner == owner),
        )

    async def _with_room(self, load: Callable[[], Awaitable[TrainableModel]], *, must_fit: bool) -> TrainableModel:
        """What `load` brings into memory, after others have left if need be."""
        async with self._coming:
            fits = await self._make_room()
            if must_fit and not fits:
                raise _full(len(self._models))
            return await load()

    async def _make_room(self) -> bool:
        """Parks the models that were not used for longest until there is room for one more; whether there is."""
        resident = sorted((m for m in self._models.values() if not m.residence.is_parked), key=_last_use)
        excess = len(resident) + 1 - self._settings.max_models
        for model in resident:
            if excess <= 0:
                break
            excess -= await model.park()
        return excess <= 0

    def _close(self, model_id: str, error: ServiceError, *, release: bool) -> bool:
        model = self._models.pop(model_id, None)
        if model is None:
            return False
        farewell = model.close(error, release=release)
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)
        return True

    def _call_order(self) -> CallOrder:
        settings = self._settings
        return CallOrder(
            gap_wait_s=settings.sequence_wait_s, kept_answers=settings.kept_answers, count=self._calls.count
        )

    def _refuse_if_full_or_taken(self, model_id: str) -> None:
        if model_id in self._models:
            raise AlreadyExists(
                f"there is a model {model_id!r}; delete it or choose another model_id",
                reason="MODEL_EXISTS",
                metadata={"model_id": model_id},
            )
        if len(self._models) >= self._settings.max_models + self._settings.max_parked:
            raise _full(len(self._models))


def _last_use(model: HostedModel) -> float:
    return model.used_at


def _timeout(seconds: float) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds else None


def _full(models: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"there are {models} models: this trainer takes no more, or those in memory are at work or hold gradients, so "
        "that none of them can be parked; delete one (settings max_models, max_parked)",
        reason="TOO_MANY_MODELS",
        metadata={"models": str(models)},
    )


def _not_found(model_id: str) -> NotFound:
    return NotFound(
        f"there is no model {model_id!r}; create it, after a restart from its last checkpoint",
        reason="MODEL_NOT_FOUND",
        metadata={"model_id": model_id},
    )


def _released(model_id: str) -> NotFound:
    return NotFound(
        f"model {model_id!r} was released, because its client sent neither a call nor a heartbeat in its time; create "
        "it again from its last checkpoint",
        reason="MODEL_RELEASED",
        metadata={"model_id": model_id},
    )
