"""The services of a suite: the name of each, its process and its stub."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tinsmith.dataset.v1 import DatasetServiceStub
from tinsmith.environment.v1 import EnvironmentServiceStub
from tinsmith.grader.v1 import GraderServiceStub
from tinsmith.numerics.v1 import NumericsServiceStub
from tinsmith.orchestrator.v1 import OrchestratorServiceStub
from tinsmith.renderer.v1 import RendererServiceStub
from tinsmith.sampler.v1 import SamplerServiceStub
from tinsmith.trainer.v1 import CheckpointServiceStub, TrainerServiceStub


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service."""

    full_name: str
    """As calls name it, for example "tinsmith.trainer.v1.TrainerService"."""
    process: str
    """The process that serves it, as `Addresses` names it."""
    stub: Callable[..., object]


SERVICES: Mapping[str, Service] = {
    "trainer": Service("tinsmith.trainer.v1.TrainerService", "trainer", TrainerServiceStub),
    "checkpoints": Service("tinsmith.trainer.v1.CheckpointService", "trainer", CheckpointServiceStub),
    "sampler": Service("tinsmith.sampler.v1.SamplerService", "sampler", SamplerServiceStub),
    "datasets": Service("tinsmith.dataset.v1.DatasetService", "dataset", DatasetServiceStub),
    "renderer": Service("tinsmith.renderer.v1.RendererService", "dataset", RendererServiceStub),
    "grader": Service("tinsmith.grader.v1.GraderService", "grader", GraderServiceStub),
    "environment": Service("tinsmith.environment.v1.EnvironmentService", "environment", EnvironmentServiceStub),
    "orchestrator": Service("tinsmith.orchestrator.v1.OrchestratorService", "orchestrator", OrchestratorServiceStub),
    "numerics": Service("tinsmith.numerics.v1.NumericsService", "orchestrator", NumericsServiceStub),
}
"""Attribute of a Suite -> the service behind it."""
