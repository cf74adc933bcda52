"""A suite for programs without asyncio."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from tinsmith._addresses import Addresses
from tinsmith._channel import DEFAULT_TIMEOUT_S, channel_options
from tinsmith._credentials import api_key_of_environment, bearer
from tinsmith._errors import TinsmithError, error_of
from tinsmith._identity import prepared
from tinsmith._resume import Patience
from tinsmith._services import SERVICES
from tinsmith.orchestrator.v1 import WatchRunRequest, WatchRunResponse

if TYPE_CHECKING:
    from tinsmith.dataset.v1 import DatasetServiceStub
    from tinsmith.environment.v1 import EnvironmentServiceStub
    from tinsmith.grader.v1 import GraderServiceStub
    from tinsmith.numerics.v1 import NumericsServiceStub
    from tinsmith.orchestrator.v1 import OrchestratorServiceStub
    from tinsmith.renderer.v1 import RendererServiceStub
    from tinsmith.sampler.v1 import SamplerServiceStub
    from tinsmith.trainer.v1 import CheckpointServiceStub, TrainerServiceStub

Metadata = Sequence[tuple[str, str]]


class Suite:
    """Every service of a suite, as its stub: `suite.trainer.CreateModel(request, timeout=...)`.

    Calls raise TinsmithError. A unary call without `timeout` has a deadline of ten minutes; streams have none. A unary
    call that fails with UNAVAILABLE is tried up to four times.
    """

    trainer: "TrainerServiceStub"
    checkpoints: "CheckpointServiceStub"
    sampler: "SamplerServiceStub"
    datasets: "DatasetServiceStub"
    renderer: "RendererServiceStub"
    grader: "GraderServiceStub"
    environment: "EnvironmentServiceStub"
    orchestrator: "OrchestratorServiceStub"
    numerics: "NumericsServiceStub"

    def __init__(self, addresses: Addresses, *, api_key: str | None = None) -> None:
        """Connects lazily: a service is first contacted by the first call of it. `api_key` goes with every call."""
        self.addresses = addresses
        self._channels: dict[str, grpc.Channel] = {}
        for name, service in SERVICES.items():
            channel = self._channel(getattr(addresses, service.process))
            setattr(self, name, _Methods(service.stub(channel), bearer(api_key)))

    @classmethod
    def connect(cls, *, home: str | Path | None = None, api_key: str | None = None, **addresses: str | None) -> Self:
        """A suite at the addresses that `Addresses.find` finds; the key is `api_key` or TINSMITH_API_KEY, if any."""
        return cls(Addresses.find(home, **addresses), api_key=api_key or api_key_of_environment())

    def _channel(self, target: str) -> grpc.Channel:
        if target not in self._channels:
            self._channels[target] = grpc.insecure_channel(target, options=channel_options())
        return self._channels[target]

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Methods:
    """A stub whose calls have a deadline and raise TinsmithError."""

    def __init__(self, stub: object, credentials: Metadata) -> None:
        for name, method in vars(stub).items():
            is_unary = isinstance(method, grpc.UnaryUnaryMultiCallable | grpc.StreamUnaryMultiCallable)
            wrap = _unary if is_unary else _stream
            setattr(self, name, wrap(method, credentials))


def _unary(method: Callable[..., Any], credentials: Metadata) -> Callable[..., Any]:
    def call(request: Any, timeout: float | None = DEFAULT_TIMEOUT_S, metadata: Metadata = (), **options: Any) -> Any:
        try:
            return method(prepared(request), timeout=timeout, metadata=(*metadata, *credentials), **options)
        except grpc.RpcError as error:
            raise error_of(error) from None

    return call


def _stream(method: Callable[..., Any], credentials: Metadata) -> Callable[..., Any]:
    def call(request: Any, timeout: float | None = None, metadata: Metadata = (), **options: Any) -> Iterator[Any]:
        answers = method(request, timeout=timeout, metadata=(*metadata, *credentials), **options)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise error_of(error) from None
        finally:
            answers.cancel()

    return call


def watch_run(suite: Suite, run_id: str, *, after_seq: int = 0) -> Iterator[WatchRunResponse]:
    """The run's events until it has ended; a broken stream is resumed where it broke.

    Raises TinsmithError when the orchestrator stays away for a minute, or for any other failure.
    """
    patience = Patience()
    while True:
        try:
            for answer in suite.orchestrator.WatchRun(WatchRunRequest(run_id=run_id, after_seq=after_seq)):
                patience.renew()
                after_seq = max(after_seq, answer.seen_seq)
                yield answer
            return
        except TinsmithError as error:
            if not patience.allows(error):
                raise
            time.sleep(patience.pause_s)
