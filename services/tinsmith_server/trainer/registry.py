"""The models in memory: made, found, kept alive, released."""

import asyncio
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from tinsmith_server.serving.errors import AlreadyExists, NotFound, ResourceExhausted
from tinsmith_server.storage import SAMPLER, CheckpointStore, CheckpointUri, LoraShape
from tinsmith_server.trainer.adapter_files import mismatch
from tinsmith_server.trainer.backend import Backend, TrainableModel
from tinsmith_server.trainer.hosted_model import HostedModel, read_checkpoint
from tinsmith_server.trainer.in_order import CallOrder
from tinsmith_server.trainer.settings import TrainerSettings


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


class ModelRegistry:
    """Models by id. Used on the event loop only."""

    def __init__(
        self, backend: Backend, store: CheckpointStore, torch_thread: ThreadPoolExecutor, settings: TrainerSettings
    ) -> None:
        self._backend, self._store, self._torch_thread, self._settings = backend, store, torch_thread, settings
        self._models: dict[str, HostedModel] = {}
        self._made = 0
        self.order = self._call_order()
        """Creations and deletions, one after the other."""

    def get(self, model_id: str) -> HostedModel:
        """The model, which counts as used. NotFound with reason MODEL_NOT_FOUND."""
        if model_id not in self._models:
            raise _not_found(model_id)
        self._models[model_id].touch()
        return self._models[model_id]

    def list(self) -> Sequence[HostedModel]:
        """All models, oldest first."""
        return list(self._models.values())

    def keep_alive(self, model_ids: Sequence[str]) -> Sequence[str]:
        """Counts the models as used; returns the ids that are not there."""
        for model_id in model_ids:
            if model_id in self._models:
                self._models[model_id].touch()
        return [model_id for model_id in model_ids if model_id not in self._models]

    async def create(self, wanted: NewModel) -> HostedModel:
        """Makes a model. Runs inside `order`.

        Raises AlreadyExists with reason MODEL_EXISTS, ResourceExhausted with reason TOO_MANY_MODELS, NotFound with
        reason BASE_MODEL_NOT_FOUND or CHECKPOINT_NOT_FOUND, and as `TrainableModel.load`.
        """
        model_id = wanted.model_id or f"model-{uuid.uuid4().hex}"
        self._refuse_if_full_or_taken(model_id)
        model = await asyncio.get_running_loop().run_in_executor(self._torch_thread, self._make, wanted)
        stored = await asyncio.to_thread(self._store.list, model_id=model_id, kind=SAMPLER)
        now = datetime.now(UTC)
        self._made += 1
        self._models[model_id] = HostedModel(
            number=self._made,
            model_id=model_id,
            model=model,
            order=self._call_order(),
            torch_thread=self._torch_thread,
            store=self._store,
            kept_ephemeral=self._settings.kept_ephemeral,
            user_metadata=dict(wanted.user_metadata),
            idle_timeout=wanted.idle_timeout or self._default_idle_timeout(),
            create_time=now,
            last_use_time=now,
            ephemeral=deque(manifest.uri for manifest in stored if manifest.ephemeral),
        )
        return self._models[model_id]

    async def delete(self, model_id: str) -> bool:
        """Takes a model out of memory; False when there was none. Calls that wait are refused."""
        model = self._models.pop(model_id, None)
        if model is not None:
            model.order.close(_not_found(model_id))
        return model is not None

    async def release_idle(self) -> None:
        """Takes out of memory what was left alone for longer than its time."""
        for model in [model for model in self._models.values() if model.is_idle]:
            await self.delete(model.model_id)

    def _call_order(self) -> CallOrder:
        return CallOrder(gap_wait_s=self._settings.sequence_wait_s, kept_answers=self._settings.kept_answers)

    def _default_idle_timeout(self) -> timedelta | None:
        return timedelta(seconds=self._settings.idle_timeout_s) if self._settings.idle_timeout_s else None

    def _refuse_if_full_or_taken(self, model_id: str) -> None:
        if model_id in self._models:
            raise AlreadyExists(
                f"there is a model {model_id!r}; delete it or choose another model_id",
                reason="MODEL_EXISTS",
                metadata={"model_id": model_id},
            )
        if len(self._models) >= self._settings.max_models:
            raise ResourceExhausted(
                f"{len(self._models)} models are in memory, as many as this trainer takes; delete one",
                reason="TOO_MANY_MODELS",
                metadata={"models": str(len(self._models))},
            )

    def _make(self, wanted: NewModel) -> TrainableModel:
        if not wanted.checkpoint_uri:
            return self._backend.create_model(wanted.base_model, wanted.shape)
        uri = CheckpointUri.parse(wanted.checkpoint_uri)
        manifest, files = read_checkpoint(self._store, uri, with_optimizer=wanted.load_optimizer)
        if wanted.base_model and wanted.base_model != manifest.base_model:
            raise mismatch(f"the base model {manifest.base_model}, the request {wanted.base_model}")
        model = self._backend.create_model(manifest.base_model, manifest.lora)
        model.load(files, with_optimizer=wanted.load_optimizer)
        return model


def _not_found(model_id: str) -> NotFound:
    return NotFound(
        f"there is no model {model_id!r} in memory; create it, after a restart from its last checkpoint",
        reason="MODEL_NOT_FOUND",
        metadata={"model_id": model_id},
    )
