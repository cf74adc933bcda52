"""Where answers come from: the seam between the gRPC service and what does the work.

`local` (this package) runs models in the process. Others, such as an OpenAI-compatible server, fit behind the same
protocol.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from tinsmith_server.sampler.request import Answers, LogprobsRequest, SampleRequest, Scores, Usage
from tinsmith_server.serving import QueueStatus

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSummary:
    """A base model that can be sampled."""

    name: str
    parameters: int
    context_length: int
    vocabulary_size: int
    architecture: str
    loaded: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Versioned(Generic[T]):
    """A result and the name of the weights that gave it."""

    result: T
    weights_version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """What has come to one answer since its last delta."""

    row: int
    tokens: Sequence[int]
    logprobs: Sequence[float]
    text: str
    stop_reason: int


class Backend(Protocol):
    """Samples and scores."""

    async def start(self) -> None:
        """Loads what must be there before the first request."""
        ...

    async def stop(self) -> None:
        """Ends all work."""
        ...

    async def sample(self, request: SampleRequest) -> Versioned[Answers]:
        """Whole answers."""
        ...

    def stream(self, request: SampleRequest) -> AsyncGenerator[Sequence[Delta] | Versioned[Usage], None]:
        """Pieces of answers as they come; the last item is the usage."""
        ...

    async def logprobs(self, request: LogprobsRequest) -> Versioned[Scores]:
        """Scores of given sequences."""
        ...

    def models(self) -> Sequence[ModelSummary]:
        """The base models, by name."""
        ...

    def watch(self) -> AsyncGenerator[QueueStatus, None]:
        """The queue now, and again at each change."""
        ...
