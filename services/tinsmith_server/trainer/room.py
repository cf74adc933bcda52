"""The trainer as a process: base models and adapters at its backend, checkpoints in storage."""

import asyncio
import logging

import grpc.aio

from tinsmith.trainer.v1 import checkpoint_service_pb2_grpc, trainer_service_pb2_grpc
from tinsmith_server.models import parse_base_models
from tinsmith_server.serving import RoomDefinition
from tinsmith_server.storage import CheckpointStore
from tinsmith_server.tinker_client.required import require_sdk
from tinsmith_server.trainer.backend import Backend
from tinsmith_server.trainer.checkpoint_service import CheckpointService
from tinsmith_server.trainer.checkpoints.export import Exports
from tinsmith_server.trainer.hosting.call_queue import CallQueue
from tinsmith_server.trainer.hosting.parked_states import ParkedStates
from tinsmith_server.trainer.hosting.registry import ModelRegistry
from tinsmith_server.trainer.local.backend import LocalBackend
from tinsmith_server.trainer.local.torch_queue import TorchQueue
from tinsmith_server.trainer.local.trained_model import Limits
from tinsmith_server.trainer.service import TrainerService
from tinsmith_server.trainer.settings import TrainerSettings

_LOOK_EVERY_S = 1.0
_SWEEP_EVERY_S = 60.0
_log = logging.getLogger(__name__)


class TrainerRoom:
    """See `serving.Room`."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._store = CheckpointStore(settings.checkpoints)
        self._backend = _backend(settings)
        self._states = ParkedStates(settings.checkpoints / ".parked")
        self._calls = CallQueue(max_calls=settings.max_waiting_calls, behind=lambda: self._backend.waiting)
        self._registry = ModelRegistry(self._backend, self._store, self._states, settings, self._calls)
        self._chores: list[asyncio.Task[None]] = []

    def register(self, server: grpc.aio.Server) -> None:
        checkpoints = CheckpointService(
            self._store,
            Exports(self._settings.exports),
            self._backend if isinstance(self._backend, LocalBackend) else None,
            max_upload_bytes=self._settings.max_upload_bytes,
        )
        trainer = TrainerService(
            self._registry, self._backend, self._calls, max_batch_data=self._settings.max_batch_data
        )
        trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server(trainer, server)
        checkpoint_service_pb2_grpc.add_CheckpointServiceServicer_to_server(checkpoints, server)

    async def start(self) -> None:
        """Makes the base models ready. Errors as `CheckpointStore.prepare` and `Backend.start`."""
        await asyncio.to_thread(self._store.prepare)
        await asyncio.to_thread(self._states.open)
        await self._backend.start()
        if isinstance(self._backend, LocalBackend):
            self._backend.tell(self._calls.watch.changed)
        self._chores = [asyncio.create_task(self._sweep()), asyncio.create_task(self._look_after_models())]

    async def stop(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await self._registry.stop()
        await self._backend.stop()
        await asyncio.to_thread(self._states.close)

    async def _sweep(self) -> None:
        """Says which models live, and removes from storage what expired and what interrupted writes left."""
        while True:
            try:
                await asyncio.to_thread(self._store.mark_live, [model.model_id for model in self._registry.list()])
                removed = await asyncio.to_thread(self._store.sweep)
                _log.debug("swept %d checkpoints that expired or were never finished", removed)
            except Exception:  # whatever it was, storage must be swept
                _log.exception("could not sweep the checkpoint storage; trying again later")
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _look_after_models(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await self._registry.look_after()
            except Exception:  # whatever it was, models must be looked after
                _log.exception("could not park or release a model; trying again")


def _backend(settings: TrainerSettings) -> Backend:
    if settings.backend == "tinker":
        return _tinker_backend(settings)
    return LocalBackend(
        parse_base_models(settings.base_models),
        home=settings.home,
        device=settings.device,
        dtype=settings.dtype,
        limits=Limits(
            micro_batch_tokens=settings.micro_batch_tokens,
            max_batch_data=settings.max_batch_data,
            max_rank=settings.max_rank,
        ),
        recompute={"never": False, "always": True, "auto": None}[settings.gradient_checkpointing],
        queue=TorchQueue(torch_threads=settings.torch_threads, max_nodes=settings.micro_batch_tokens),
    )


def _tinker_backend(settings: TrainerSettings) -> Backend:
    require_sdk("trainer")
    # Here, because the SDK is an extra and takes a while to import.
    from tinsmith_server.tinker_client.connection import Connection
    from tinsmith_server.trainer.tinker import TinkerBackend

    base_models = parse_base_models(settings.base_models)
    return TinkerBackend(base_models, Connection(settings), max_data=settings.max_batch_data)


ROOM = RoomDefinition(
    name="trainer",
    default_port=50051,
    settings=TrainerSettings,
    services=("tinsmith.trainer.v1.TrainerService", "tinsmith.trainer.v1.CheckpointService"),
    open=TrainerRoom,
)
