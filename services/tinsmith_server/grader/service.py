"""The gRPC face of the grader."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import grpc.aio

from tinsmith.grader.v1 import grader_service_pb2 as pb
from tinsmith.grader.v1 import grader_service_pb2_grpc as pb_grpc
from tinsmith_server.grader import wire
from tinsmith_server.grader.catalogue import list_graders
from tinsmith_server.grader.grade import Grade
from tinsmith_server.grader.grading import Grading
from tinsmith_server.grader.request import RequestReader
from tinsmith_server.grader.stream import GradeStream

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]


class GraderService(pb_grpc.GraderServiceServicer):
    """See `grader_service.proto`."""

    def __init__(self, grading: Grading, reader: RequestReader, *, stream_window: int) -> None:
        self._grading = grading
        self._reader = reader
        self._stream_window = stream_window

    async def Grade(self, request: pb.GradeRequest, context: "Context") -> pb.GradeResponse:
        wanted = self._reader.batch(request)
        results: dict[int, pb.GradeResult] = {}

        def deliver(place: int, grade: Grade, milliseconds: float) -> None:
            results[place] = wire.grade_result(wanted.ids[place], grade, milliseconds)

        await self._grading.grade(wanted.items, wanted.timeout_s, deliver)
        return pb.GradeResponse(results=[results[place] for place in range(len(wanted.items))])

    async def GradeStream(
        self, request_iterator: AsyncIterator[pb.GradeStreamRequest], context: "Context"
    ) -> AsyncIterator[pb.GradeStreamResponse]:
        stream = GradeStream(self._grading, self._reader, window=self._stream_window)
        async with aclosing(stream.run(request_iterator)) as groups:
            async for results in groups:
                yield pb.GradeStreamResponse(results=results)

    async def ListGraders(self, request: pb.ListGradersRequest, context: "Context") -> pb.ListGradersResponse:
        return wire.graders(*list_graders(request.page_size, request.page_token))
