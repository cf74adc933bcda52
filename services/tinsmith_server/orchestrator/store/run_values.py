"""What is stored of runs and what changes them, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tinsmith.orchestrator.v1 import RecipeConfig, RunError, RunState

ENDED = frozenset({RunState.RUN_STATE_COMPLETED, RunState.RUN_STATE_FAILED, RunState.RUN_STATE_CANCELLED})
"""States that only ResumeRun leaves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NewRun:
    """A run to be accepted."""

    run_id: str
    request_id: str
    """Empty when the caller gave none."""
    recipe: str
    config: RecipeConfig
    total_steps: int
    display_name: str
    labels: Mapping[str, str]
    tenant: str = ""
    """Who starts it; empty where there are no API keys."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedCheckpoint:
    """A training checkpoint of a run and the sampler weights saved with it."""

    step: int
    """Steps done when it was saved."""
    checkpoint_uri: str
    sampler_uri: str
    adapter_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RunChange:
    """What events change in the row of their run; None leaves a value as it is."""

    state: "RunState.ValueType | None" = None
    step: int | None = None
    error: RunError | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Put over the latest values."""
    checkpoint: SavedCheckpoint | None = None
    """The run's newest checkpoint from now on."""
    forget_checkpoint: bool = False
    """The run has no checkpoint any more."""

    @property
    def must_be_durable(self) -> bool:
        """Whether a power failure may not undo it."""
        return self.state is not None or self.checkpoint is not None or self.forget_checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFilter:
    """Which runs a list shows; empty values show all, and so does no tenant."""

    state: int = 0
    recipe: str = ""
    tenant: str | None = None
