"""The services of a suite: the name of each, its process and its stub."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tinsmith.dataset.v1 import DatasetServiceStub
from tinsmith.environment.v1 import EnvironmentServiceStub
from tinsmith.grader.v1 import GraderServiceStub
from tinsmith.orchestrator.v1 import OrchestratorServiceStub
from tinsmith.renderer.v1 import RendererServiceStub
from tinsmith.sampler.v1 import SamplerServiceStub
from tinsmith.trainer.v1 import CheckpointServiceStub, TrainerServiceStub


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service."""

    process: str
    """The process that serves it, as `Addresses` names it."""
    stub: Callable[..., object]


SERVICES: Mapping[str, Service] = {
    "trainer": Service("trainer", TrainerServiceStub),
    "checkpoints": Service("trainer", CheckpointServiceStub),
    "sampler": Service("sampler", SamplerServiceStub),
    "datasets": Service("dataset", DatasetServiceStub),
    "renderer": Service("dataset", RendererServiceStub),
    "grader": Service("grader", GraderServiceStub),
    "environment": Service("environment", EnvironmentServiceStub),
    "orchestrator": Service("orchestrator", OrchestratorServiceStub),
}
"""Attribute of a Suite -> the service behind it."""
