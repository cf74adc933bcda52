"""The dataset room as a process: datasets, and the renderer beside them, which shares their tokenizers."""

import grpc.aio

from tinsmith.dataset.v1 import dataset_service_pb2_grpc
from tinsmith.renderer.v1 import renderer_service_pb2_grpc
from tinsmith_server.dataset.cache import OpenDatasets
from tinsmith_server.dataset.opening import Opener
from tinsmith_server.dataset.renderers import RendererService, Shelf
from tinsmith_server.dataset.service import DatasetService
from tinsmith_server.dataset.settings import DatasetSettings
from tinsmith_server.serving import RoomDefinition


class DatasetRoom:
    """Keeps nothing that could not be made again."""

    def __init__(self, settings: DatasetSettings) -> None:
        self._shelf = Shelf(settings.base_models, settings.home)
        self._datasets = OpenDatasets(Opener(settings), most=settings.cached_datasets, most_bytes=settings.cache_bytes)

    def register(self, server: grpc.aio.Server) -> None:
        datasets = DatasetService(self._datasets, self._shelf)  # type: ignore[abstract]  # UploadRows is to come
        dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server(datasets, server)
        renderer_service_pb2_grpc.add_RendererServiceServicer_to_server(RendererService(self._shelf), server)

    async def start(self) -> None:
        """Loads the tokenizers."""
        await self._shelf.load()

    async def stop(self) -> None:
        self._shelf.close()


ROOM = RoomDefinition(
    name="dataset",
    default_port=50053,
    settings=DatasetSettings,
    services=("tinsmith.dataset.v1.DatasetService", "tinsmith.renderer.v1.RendererService"),
    open=DatasetRoom,
)
