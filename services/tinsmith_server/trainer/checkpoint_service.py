"""The gRPC face of stored checkpoints."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc.aio

from tinsmith.trainer.v1 import checkpoint_service_pb2 as pb
from tinsmith.trainer.v1 import checkpoint_service_pb2_grpc as pb_grpc
from tinsmith_server.serving.paging import page
from tinsmith_server.storage import CheckpointStore, CheckpointUri, Manifest, resolve
from tinsmith_server.trainer import wire
from tinsmith_server.trainer.checkpoints.download import files_from, pieces_from
from tinsmith_server.trainer.checkpoints.export import Exports
from tinsmith_server.trainer.checkpoints.stored_state import verify
from tinsmith_server.trainer.checkpoints.upload import Upload
from tinsmith_server.trainer.hosting.in_order import CallOrder
from tinsmith_server.trainer.local.bases import LocalBases, needed

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class CheckpointService(pb_grpc.CheckpointServiceServicer):
    """See `checkpoint_service.proto`."""

    def __init__(
        self, store: CheckpointStore, exports: Exports, bases: LocalBases | None, *, max_upload_bytes: int
    ) -> None:
        self._store, self._exports, self._bases = store, exports, bases
        self._max_upload_bytes = max_upload_bytes
        self._exporting = CallOrder(gap_wait_s=0, kept_answers=1)
        """One after the other, for each has a copy of a base model in memory, whether or not its caller still waits."""

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, context: "Context") -> pb.GetCheckpointResponse:
        uri = CheckpointUri.parse(request.uri)
        load = partial(verify, self._store) if uri.is_latest else self._store.manifest
        found = await asyncio.to_thread(resolve, self._store, uri, load)
        skipped = map(wire.skipped_checkpoint, found.skipped)
        return pb.GetCheckpointResponse(checkpoint=wire.checkpoint(found.value), skipped=skipped)

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
        manifest = await asyncio.to_thread(verify, self._store, CheckpointUri.parse(request.uri))
        return pb.VerifyCheckpointResponse(checkpoint=wire.checkpoint(manifest))

    async def DeleteCheckpoint(
        self, request: pb.DeleteCheckpointRequest, context: "Context"
    ) -> pb.DeleteCheckpointResponse:
        deleted = await asyncio.to_thread(self._store.delete, CheckpointUri.parse(request.uri))
        return pb.DeleteCheckpointResponse(deleted=deleted)

    async def SetCheckpointTtl(
        self, request: pb.SetCheckpointTtlRequest, context: "Context"
    ) -> pb.SetCheckpointTtlResponse:
        uri = CheckpointUri.parse(request.uri)
        ends = datetime.now(UTC) + wire.duration("ttl", request.ttl) if request.HasField("ttl") else None
        changed = await asyncio.to_thread(self._store.set_expire_time, uri, ends)
        return pb.SetCheckpointTtlResponse(checkpoint=wire.checkpoint(changed))

    async def PublishCheckpoint(
        self, request: pb.PublishCheckpointRequest, context: "Context"
    ) -> pb.PublishCheckpointResponse:
        uri = CheckpointUri.parse(request.uri)
        changed = await asyncio.to_thread(self._store.set_published, uri, request.published)
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
        for file in files_from(manifest, request.file, request.offset):
            is_first = True
            async with aclosing(pieces_from(self._store, manifest, file, request.offset)) as pieces:
                async for offset, data in pieces:
                    entry = wire.checkpoint_file(file) if is_first else None
                    yield pb.DownloadCheckpointResponse(file=entry, offset=offset, data=data)
                    is_first = False

    async def UploadCheckpoint(
        self, request_iterator: AsyncIterator[pb.UploadCheckpointRequest], context: "Context"
    ) -> pb.UploadCheckpointResponse:
        bases = needed(self._bases)
        first = await anext(request_iterator, pb.UploadCheckpointRequest())
        new = wire.new_upload(first)
        new.check(self._max_upload_bytes)
        upload = await Upload.begin(new, self._store)
        try:
            async for message in request_iterator:
                await upload.take(message.piece.name, message.piece.offset, message.piece.data)
            manifest = await upload.finish(bases)
        except BaseException:
            await upload.discard()
            raise
        return pb.UploadCheckpointResponse(checkpoint=wire.checkpoint(manifest))

    async def ExportModel(self, request: pb.ExportModelRequest, context: "Context") -> pb.ExportModelResponse:
        uri = CheckpointUri.parse(request.uri)
        write = partial(self._exports.write, uri, request.name, self._store, needed(self._bases))
        files = await self._exporting.run(partial(asyncio.to_thread, write))
        return pb.ExportModelResponse(base_model=request.name, files=map(wire.checkpoint_file, files))

    async def _manifest(self, uri: str) -> Manifest:
        return await asyncio.to_thread(self._store.manifest, CheckpointUri.parse(uri))


def _age(manifest: Manifest) -> tuple[str, ...]:
    made = manifest.create_time.isoformat(timespec="microseconds")
    return manifest.uri.model_id, made, manifest.uri.kind, manifest.uri.name
