"""The gRPC face of stored checkpoints."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc.aio

from tinsmith.trainer.v1 import checkpoint_service_pb2 as pb
from tinsmith.trainer.v1 import checkpoint_service_pb2_grpc as pb_grpc
from tinsmith_server.serving.paging import page
from tinsmith_server.storage import CheckpointStore, CheckpointUri, Manifest
from tinsmith_server.trainer import wire

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

_PIECE_BYTES = 1 << 20


class CheckpointService(pb_grpc.CheckpointServiceServicer):
    """See `checkpoint_service.proto`."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: "Context") -> pb.GetCheckpointResponse:
        return pb.GetCheckpointResponse(checkpoint=wire.checkpoint(await self._manifest(request.uri)))

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: "Context"
    ) -> pb.ListCheckpointsResponse:
        kind = wire.checkpoint_kind(request.kind)
        stored = await asyncio.to_thread(self._store.list, model_id=request.model_id, kind=kind)
        found, token = page(stored, _age, request.page_size, request.page_token)
        return pb.ListCheckpointsResponse(checkpoints=map(wire.checkpoint, found), next_page_token=token)

    async def VerifyCheckpoint(
        self, request: pb.VerifyCheckpointRequest, context: "Context"
    ) -> pb.VerifyCheckpointResponse:
        manifest = await self._manifest(request.uri)
        for file in manifest.files:
            await asyncio.to_thread(self._store.read, manifest, file.name)
        return pb.VerifyCheckpointResponse(checkpoint=wire.checkpoint(manifest))

    async def DeleteCheckpoint(
        self, request: pb.DeleteCheckpointRequest, context: "Context"
    ) -> pb.DeleteCheckpointResponse:
        deleted = await asyncio.to_thread(self._store.delete, CheckpointUri.parse(request.uri))
        return pb.DeleteCheckpointResponse(deleted=deleted)

    async def SetCheckpointTtl(
        self, request: pb.SetCheckpointTtlRequest, context: "Context"
    ) -> pb.SetCheckpointTtlResponse:
        manifest = await self._manifest(request.uri)
        ends = datetime.now(UTC) + wire.duration("ttl", request.ttl) if request.HasField("ttl") else None
        changed = await asyncio.to_thread(
            self._store.update, manifest.uri, expire_time=ends, published=manifest.published
        )
        return pb.SetCheckpointTtlResponse(checkpoint=wire.checkpoint(changed))

    async def PublishCheckpoint(
        self, request: pb.PublishCheckpointRequest, context: "Context"
    ) -> pb.PublishCheckpointResponse:
        manifest = await self._manifest(request.uri)
        changed = await asyncio.to_thread(
            self._store.update, manifest.uri, expire_time=manifest.expire_time, published=request.published
        )
        return pb.PublishCheckpointResponse(checkpoint=wire.checkpoint(changed))

    async def CopyCheckpoint(self, request: pb.CopyCheckpointRequest, context: "Context") -> pb.CopyCheckpointResponse:
        source, target = CheckpointUri.parse(request.source_uri), CheckpointUri.parse(request.target_uri)
        return pb.CopyCheckpointResponse(
            checkpoint=wire.checkpoint(await asyncio.to_thread(self._store.copy, source, target))
        )

    async def DownloadCheckpoint(
        self, request: pb.DownloadCheckpointRequest, context: "Context"
    ) -> AsyncIterator[pb.DownloadCheckpointResponse]:
        manifest = await self._manifest(request.uri)
        for file in manifest.files:
            content = await asyncio.to_thread(self._store.read, manifest, file.name)
            for offset in range(0, max(len(content), 1), _PIECE_BYTES):
                yield pb.DownloadCheckpointResponse(
                    file=None if offset else wire.checkpoint_file(file),
                    offset=offset,
                    data=content[offset : offset + _PIECE_BYTES],
                )

    async def _manifest(self, uri: str) -> Manifest:
        return await asyncio.to_thread(self._store.manifest, CheckpointUri.parse(uri))


def _age(manifest: Manifest) -> tuple[str, ...]:
    made = manifest.create_time.isoformat(timespec="microseconds")
    return manifest.uri.model_id, made, manifest.uri.kind, manifest.uri.name
