"""The sampler as a process."""

import grpc.aio

from tinsmith.sampler.v1 import sampler_service_pb2_grpc as pb_grpc
from tinsmith_server.models import parse_base_models
from tinsmith_server.sampler.checkpoints import CheckpointReader
from tinsmith_server.sampler.loader import ModelLoader
from tinsmith_server.sampler.local import LocalBackend, LocalLimits
from tinsmith_server.sampler.plan import BatchLimits
from tinsmith_server.sampler.service import SamplerService
from tinsmith_server.sampler.settings import SamplerSettings
from tinsmith_server.sampler.weights_cache import WeightsCache
from tinsmith_server.sampler.worker import TorchWorker
from tinsmith_server.serving import RoomDefinition
from tinsmith_server.storage import CheckpointStore


class SamplerRoom:
    """The service over its backend."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._backend = _local_backend(settings)

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_SamplerServiceServicer_to_server(SamplerService(self._backend), server)

    async def start(self) -> None:
        """Loads the base models."""
        await self._backend.start()

    async def stop(self) -> None:
        await self._backend.stop()


def _local_backend(settings: SamplerSettings) -> LocalBackend:
    base_models = parse_base_models(settings.base_models)
    return LocalBackend(
        base_models,
        load=ModelLoader(
            base_models,
            home=settings.home,
            device=settings.device,
            dtype=settings.dtype,
            merge_limit_bytes=settings.merge_limit_bytes,
            prefill_tokens=settings.prefill_tokens,
        ),
        checkpoints=CheckpointReader(CheckpointStore(settings.checkpoint_root or settings.home / "checkpoints")),
        worker=TorchWorker(
            max_running=settings.max_running, max_waiting=settings.max_waiting, torch_threads=settings.torch_threads
        ),
        cache=WeightsCache(settings.adapter_cache_bytes),
        limits=LocalLimits(
            batch=BatchLimits(rows=settings.max_batch_rows, prompt_tokens=settings.max_batch_prompt_tokens),
            max_answers=settings.max_answers,
            stream_interval_s=settings.stream_interval_ms / 1000,
        ),
    )


ROOM = RoomDefinition(
    name="sampler",
    default_port=50052,
    settings=SamplerSettings,
    services=("tinsmith.sampler.v1.SamplerService",),
    open=SamplerRoom,
)
