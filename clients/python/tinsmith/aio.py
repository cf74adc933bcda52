"""A suite for asyncio: what the services themselves use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc
import grpc.aio

from tinsmith._addresses import Addresses
from tinsmith._channel import DEFAULT_TIMEOUT_S, channel_options
from tinsmith._checkpoints_aio import download_checkpoint, upload_checkpoint
from tinsmith._credentials import api_key_of_environment, bearer
from tinsmith._errors import TinsmithError, error_of
from tinsmith._identity import prepared
from tinsmith._resume import Patience
from tinsmith._services import SERVICES
from tinsmith.orchestrator.v1 import WatchRunRequest, WatchRunResponse

if TYPE_CHECKING:
    from tinsmith.dataset.v1.dataset_service_pb2_grpc import DatasetServiceAsyncStub
    from tinsmith.environment.v1.environment_service_pb2_grpc import EnvironmentServiceAsyncStub
    from tinsmith.grader.v1.grader_service_pb2_grpc import GraderServiceAsyncStub
    from tinsmith.numerics.v1.numerics_service_pb2_grpc import NumericsServiceAsyncStub
    from tinsmith.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceAsyncStub
    from tinsmith.renderer.v1.renderer_service_pb2_grpc import RendererServiceAsyncStub
    from tinsmith.sampler.v1.sampler_service_pb2_grpc import SamplerServiceAsyncStub
    from tinsmith.trainer.v1.checkpoint_service_pb2_grpc import CheckpointServiceAsyncStub
    from tinsmith.trainer.v1.trainer_service_pb2_grpc import TrainerServiceAsyncStub

__all__ = ["Suite", "download_checkpoint", "upload_checkpoint", "watch_run"]

Metadata = Sequence[tuple[str, str]]


class Suite:
    """Every service of a suite, as its stub: `await suite.trainer.CreateModel(request, timeout=...)`.

    Calls raise TinsmithError; streams are async iterators. Unary calls without `timeout` get ten minutes, streams have
    none. A unary call that fails with UNAVAILABLE is tried up to four times; with `wait_for_ready` a service that is
    away is waited for until the deadline.
    """

    trainer: "TrainerServiceAsyncStub"
    checkpoints: "CheckpointServiceAsyncStub"
    sampler: "SamplerServiceAsyncStub"
    datasets: "DatasetServiceAsyncStub"
    renderer: "RendererServiceAsyncStub"
    grader: "GraderServiceAsyncStub"
    environment: "EnvironmentServiceAsyncStub"
    orchestrator: "OrchestratorServiceAsyncStub"
    numerics: "NumericsServiceAsyncStub"

    def __init__(
        self,
        addresses: Addresses,
        *,
        wait_for_ready: bool = False,
        metadata: Callable[[], Metadata] = tuple,
        api_key: str | None = None,
    ) -> None:
        """Connects lazily. `metadata` is asked for what to send with each call, for example a trace context; `api_key`
        goes with every call."""
        credentials = bearer(api_key)

        def sent() -> Metadata:
            return (*metadata(), *credentials)

        self.addresses = addresses
        self._channels: dict[str, grpc.aio.Channel] = {}
        for name, service in SERVICES.items():
            channel = self._channel(getattr(addresses, service.process))
            setattr(self, name, _Methods(service.stub(channel), wait_for_ready, sent))

    @classmethod
    def connect(
        cls,
        *,
        home: str | Path | None = None,
        wait_for_ready: bool = False,
        metadata: Callable[[], Metadata] = tuple,
        api_key: str | None = None,
        **addresses: str | None,
    ) -> Self:
        """A suite at the addresses that `Addresses.find` finds; the key is `api_key` or TINSMITH_API_KEY, if any."""
        return cls(
            Addresses.find(home, **addresses),
            wait_for_ready=wait_for_ready,
            metadata=metadata,
            api_key=api_key or api_key_of_environment(),
        )

    def _channel(self, target: str) -> grpc.aio.Channel:
        if target not in self._channels:
            self._channels[target] = grpc.aio.insecure_channel(target, options=channel_options())
        return self._channels[target]

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Methods:
    """A stub whose calls have a deadline and raise TinsmithError."""

    def __init__(self, stub: object, wait_for_ready: bool, metadata: Callable[[], Metadata]) -> None:
        for name, method in vars(stub).items():
            is_unary = isinstance(method, grpc.aio.UnaryUnaryMultiCallable | grpc.aio.StreamUnaryMultiCallable)
            wrap = _unary if is_unary else _stream
            setattr(self, name, wrap(method, wait_for_ready, metadata))


def _unary(method: Callable[..., Any], wait_for_ready: bool, metadata: Callable[[], Metadata]) -> Callable[..., Any]:
    async def call(request: Any, timeout: float | None = DEFAULT_TIMEOUT_S) -> Any:
        try:
            sent = prepared(request)
            return await method(sent, timeout=timeout, metadata=tuple(metadata()), wait_for_ready=wait_for_ready)
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None

    return call


def _stream(method: Callable[..., Any], wait_for_ready: bool, metadata: Callable[[], Metadata]) -> Callable[..., Any]:
    async def call(request: Any, timeout: float | None = None) -> AsyncIterator[Any]:
        answers = method(request, timeout=timeout, metadata=tuple(metadata()), wait_for_ready=wait_for_ready)
        try:
            async for answer in answers:
                yield answer
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            answers.cancel()

    return call


async def watch_run(suite: Suite, run_id: str, *, after_seq: int = 0) -> AsyncIterator[WatchRunResponse]:
    """The run's events until it has ended; a broken stream is resumed where it broke.

    Raises TinsmithError when the orchestrator stays away for a minute, or for any other failure.
    """
    patience = Patience()
    while True:
        try:
            async for answer in suite.orchestrator.WatchRun(WatchRunRequest(run_id=run_id, after_seq=after_seq)):
                patience.renew()
                after_seq = max(after_seq, answer.seen_seq)
                yield answer
            return
        except TinsmithError as error:
            if not patience.allows(error):
                raise
            await asyncio.sleep(patience.pause_s)
