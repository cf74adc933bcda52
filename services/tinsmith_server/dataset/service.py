"""The gRPC face of the datasets."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio
import numpy as np

from tinsmith.dataset.v1 import dataset_service_pb2 as pb
from tinsmith.dataset.v1 import dataset_service_pb2_grpc as pb_grpc
from tinsmith.dataset.v1 import spec_pb2
from tinsmith.types.v1 import row_pb2
from tinsmith_server.dataset import wire
from tinsmith_server.dataset.cache import OpenDatasets
from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.datums import build_datums
from tinsmith_server.dataset.opened import OpenedDataset
from tinsmith_server.dataset.reading import BatchReader
from tinsmith_server.dataset.renderers import Shelf
from tinsmith_server.dataset.rows import Row
from tinsmith_server.dataset.sources.catalogue import CATALOGUE
from tinsmith_server.dataset.streaming import stream_batches
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.serving.paging import page

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class DatasetService(pb_grpc.DatasetServiceServicer):
    """See `dataset_service.proto`."""

    def __init__(self, datasets: OpenDatasets, shelf: Shelf) -> None:
        self._datasets = datasets
        self._shelf = shelf

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: "Context") -> pb.ListDatasetsResponse:
        entries, next_page_token = page(
            sorted(CATALOGUE.values(), key=lambda entry: entry.name),
            lambda entry: (entry.name,),
            request.page_size,
            request.page_token,
        )
        return pb.ListDatasetsResponse(datasets=map(wire.dataset_info, entries), next_page_token=next_page_token)

    async def DescribeDataset(
        self, request: pb.DescribeDatasetRequest, context: "Context"
    ) -> pb.DescribeDatasetResponse:
        dataset = await self._datasets.get(wire.dataset_spec(request.dataset))
        columns, fingerprint, examples = await asyncio.to_thread(_describe, dataset, request.examples)
        length = dataset.rows.length
        return pb.DescribeDatasetResponse(
            rows=-1 if length is None else length,
            columns=map(wire.column_info, columns),
            shape=dataset.shape.value,  # type: ignore[arg-type]  # the numbers are those of the contract
            examples=wire.rows(examples, dataset.shape),
            fingerprint=fingerprint,
            skipped_rows=dataset.skipped,
        )

    async def GetBatch(self, request: pb.GetBatchRequest, context: "Context") -> pb.GetBatchResponse:
        reader = await self._reader(request.dataset, request.batching)
        reader.check(request.cursor.fingerprint)
        found = await reader.read(request.cursor.batch)
        return pb.GetBatchResponse(batch=wire.batch(found, reader.dataset.shape, reader.fingerprint))

    async def StreamBatches(
        self, requests: AsyncIterator[pb.StreamBatchesRequest], context: "Context"
    ) -> AsyncIterator[pb.StreamBatchesResponse]:
        start = await _start(requests)
        reader = await self._reader(start.dataset, start.batching)
        reader.check(start.cursor.fingerprint)
        batches = stream_batches(reader, start=start.cursor.batch, credit=start.credit, grants=_grants(requests))
        async with aclosing(batches):
            async for found in batches:
                batch = wire.batch(found, reader.dataset.shape, reader.fingerprint)
                if not start.HasField("datums"):
                    yield pb.StreamBatchesResponse(batch=batch)
                    continue
                datums = await self._built(batch.rows, start.datums)
                batch.ClearField("rows")
                yield pb.StreamBatchesResponse(batch=batch, datums=datums)

    async def BuildDatums(self, request: pb.BuildDatumsRequest, context: "Context") -> pb.BuildDatumsResponse:
        return pb.BuildDatumsResponse(datums=await self._built(request.rows, request.format))

    async def _built(self, rows: Iterable[row_pb2.Row], wanted: pb.DatumFormat) -> pb.BuiltDatums:
        conversations = [wire.conversations_of(row, number) for number, row in enumerate(rows)]
        return wire.built_datums(await build_datums(self._shelf, conversations, wire.datum_format(wanted)))

    async def _reader(self, dataset: spec_pb2.DatasetSpec, batching: pb.Batching) -> BatchReader:
        cut = wire.batching(batching)
        opened = await self._datasets.get(wire.dataset_spec(dataset), batch_size=cut.batch_size)
        return BatchReader(dataset=opened, batching=cut)


def _describe(dataset: OpenedDataset, examples: int) -> tuple[tuple[Column, ...], str, list[Row]]:
    length = dataset.rows.length
    first = dataset.rows.read(np.arange(examples if length is None else min(examples, length)))
    return dataset.raw_columns(), dataset.fingerprint, first


async def _start(requests: AsyncIterator[pb.StreamBatchesRequest]) -> pb.StreamStart:
    async for request in requests:
        if request.HasField("start"):
            return request.start
        break
    raise InvalidArgument("the first message of a stream must be `start`", reason="START_REQUIRED")


async def _grants(requests: AsyncIterator[pb.StreamBatchesRequest]) -> AsyncIterator[int]:
    async for request in requests:
        if request.HasField("start"):
            raise InvalidArgument("a stream has one `start`; open another one for other data", reason="STARTED_TWICE")
        yield request.credit
