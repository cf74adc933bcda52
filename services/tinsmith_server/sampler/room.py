"""The sampler as a process."""

from collections.abc import Mapping

import grpc.aio

from tinsmith.sampler.v1 import sampler_service_pb2_grpc as pb_grpc
from tinsmith_server.models import BaseModel, parse_base_models
from tinsmith_server.sampler.backend import Backend
from tinsmith_server.sampler.checkpoints import CheckpointReader
from tinsmith_server.sampler.engine.budget import EngineLimits
from tinsmith_server.sampler.local.backend import LocalBackend, LocalLimits
from tinsmith_server.sampler.local.loader import ModelLoader
from tinsmith_server.sampler.local.plan import BatchLimits
from tinsmith_server.sampler.local.weights_cache import WeightsCache
from tinsmith_server.sampler.local.worker import TorchWorker
from tinsmith_server.sampler.openai import open_backend as open_openai_backend
from tinsmith_server.sampler.service import SamplerService
from tinsmith_server.sampler.settings import SamplerSettings
from tinsmith_server.serving import RoomDefinition
from tinsmith_server.storage import CheckpointStore
from tinsmith_server.tinker_client.required import require_sdk


class SamplerRoom:
    """The service over its backend."""

    def __init__(self, settings: SamplerSettings) -> None:
        self._backend = _open_backend(settings)

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_SamplerServiceServicer_to_server(SamplerService(self._backend), server)

    async def start(self) -> None:
        """Loads the base models."""
        await self._backend.start()

    async def stop(self) -> None:
        await self._backend.stop()


def _open_backend(settings: SamplerSettings) -> Backend:
    """The backend that the settings name."""
    store = CheckpointStore(settings.checkpoint_root or settings.home / "checkpoints")
    base_models = parse_base_models(settings.base_models)
    match settings.backend:
        case "local":
            return _local_backend(settings, base_models, store)
        case "openai":
            return open_openai_backend(settings, base_models, store)
        case "tinker":
            return _tinker_backend(settings, base_models, store)


def _local_backend(
    settings: SamplerSettings, base_models: Mapping[str, BaseModel], store: CheckpointStore
) -> LocalBackend:
    return LocalBackend(
        base_models,
        load=ModelLoader(
            base_models,
            home=settings.home,
            device=settings.device,
            dtype=settings.dtype,
            prefill_tokens=settings.prefill_tokens,
        ),
        checkpoints=CheckpointReader(store),
        worker=TorchWorker(
            max_running=settings.max_alone, max_waiting=settings.max_waiting, torch_threads=settings.torch_threads
        ),
        cache=WeightsCache(settings.adapter_cache_bytes),
        limits=LocalLimits(
            batch=BatchLimits(rows=settings.max_batch_rows, prompt_tokens=settings.max_batch_prompt_tokens),
            engine=EngineLimits(
                jobs=settings.max_running,
                rows=settings.max_batch_rows,
                kv_bytes=settings.kv_bytes,
                cache_bytes=settings.prefix_cache_bytes,
                prefill_tokens=settings.prefill_tokens,
                stream_interval_s=settings.stream_interval_ms / 1000,
            ),
            max_answers=settings.max_answers,
            stream_interval_s=settings.stream_interval_ms / 1000,
        ),
    )


def _tinker_backend(settings: SamplerSettings, base_models: Mapping[str, BaseModel], store: CheckpointStore) -> Backend:
    require_sdk("sampler")
    # Here, because the SDK is an extra and takes a while to import.
    from tinsmith_server.sampler.tinker import TinkerBackend
    from tinsmith_server.tinker_client.connection import Connection

    return TinkerBackend(
        base_models,
        Connection(settings),
        store=store,
        max_answers=settings.max_answers,
        max_requests=settings.max_running + settings.max_waiting,
    )


ROOM = RoomDefinition(
    name="sampler",
    default_port=50052,
    settings=SamplerSettings,
    services=("tinsmith.sampler.v1.SamplerService",),
    open=SamplerRoom,
)
