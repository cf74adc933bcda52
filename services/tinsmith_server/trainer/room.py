"""The trainer as a process: base models and adapters in memory, one torch thread, checkpoints in storage."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
import torch

from tinsmith.trainer.v1 import checkpoint_service_pb2_grpc, trainer_service_pb2_grpc
from tinsmith_server.models import parse_base_models
from tinsmith_server.serving import RoomDefinition
from tinsmith_server.serving.errors import ServiceError
from tinsmith_server.storage import CheckpointStore
from tinsmith_server.trainer.checkpoint_service import CheckpointService
from tinsmith_server.trainer.local import LocalBackend
from tinsmith_server.trainer.registry import ModelRegistry
from tinsmith_server.trainer.service import TrainerService
from tinsmith_server.trainer.settings import TrainerSettings
from tinsmith_server.trainer.trained_model import Limits

_IDLE_CHECK_S = 1.0
_SWEEP_EVERY_S = 600.0
_log = logging.getLogger(__name__)


class TrainerRoom:
    """See `serving.Room`."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._store = CheckpointStore(settings.checkpoints)
        self._torch_thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="torch",
            initializer=torch.set_num_threads,
            initargs=(settings.torch_threads,),
        )
        self._backend = LocalBackend(
            parse_base_models(settings.base_models),
            home=settings.home,
            device=settings.device,
            dtype=settings.dtype,
            limits=Limits(
                micro_batch_tokens=settings.micro_batch_tokens,
                max_batch_data=settings.max_batch_data,
                max_rank=settings.max_rank,
            ),
        )
        self._registry = ModelRegistry(self._backend, self._store, self._torch_thread, settings)
        self._chores: list[asyncio.Task[None]] = []

    def register(self, server: grpc.aio.Server) -> None:
        # Methods without code answer UNIMPLEMENTED.
        checkpoints = CheckpointService(self._store)  # type: ignore[abstract]
        trainer = TrainerService(  # type: ignore[abstract]
            self._registry, self._backend, max_batch_data=self._settings.max_batch_data
        )
        trainer_service_pb2_grpc.add_TrainerServiceServicer_to_server(trainer, server)
        checkpoint_service_pb2_grpc.add_CheckpointServiceServicer_to_server(checkpoints, server)

    async def start(self) -> None:
        """Loads the base models. Errors as `CheckpointStore.prepare`, `models.find_directory`, `load_causal_lm`."""
        await asyncio.to_thread(self._store.prepare)
        await asyncio.get_running_loop().run_in_executor(self._torch_thread, self._backend.load)
        self._chores = [asyncio.create_task(self._sweep()), asyncio.create_task(self._release_idle())]

    async def stop(self) -> None:
        for chore in self._chores:
            chore.cancel()
        await asyncio.to_thread(self._torch_thread.shutdown, cancel_futures=True)

    async def _sweep(self) -> None:
        """Removes from storage what expired, and what interrupted writes left."""
        while True:
            try:
                removed = await asyncio.to_thread(self._store.sweep)
                _log.debug("swept %d checkpoints that expired or were never finished", removed)
            except (ServiceError, OSError):
                _log.warning("could not sweep the checkpoint storage; trying again later", exc_info=True)
            await asyncio.sleep(_SWEEP_EVERY_S)

    async def _release_idle(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_CHECK_S)
            await self._registry.release_idle()


ROOM = RoomDefinition(
    name="trainer",
    default_port=50051,
    settings=TrainerSettings,
    services=("tinsmith.trainer.v1.TrainerService", "tinsmith.trainer.v1.CheckpointService"),
    open=TrainerRoom,
)
