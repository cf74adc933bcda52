"""What a training call asks for, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinsmith_server.trainer.losses import Loss
from tinsmith_server.trainer.objective import Objective, TermReport
from tinsmith_server.trainer.ragged import Ragged, SparseRagged
from tinsmith_server.trainer.regularizers import Term


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Examples as ragged columns."""

    tokens: Ragged
    """What the model reads: int64."""
    columns: Mapping[str, Ragged | SparseRagged]
    """What the objective reads, by name: int64 or float32, [tokens] or [tokens, K]; rows as those of `tokens`, but for
    columns with one value a datum."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ForwardResult:
    """Logprobs and metrics of one call."""

    logprobs: Ragged | None
    """float32 [tokens] or [tokens, K]; None when they were not asked for."""
    metrics: Mapping[str, float]
    """"loss:sum" and others as "name:reduction"."""
    regularizers: Sequence[TermReport] = ()
    """What each regularizer contributed, in the request's order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamParams:
    """AdamW's settings for one step; the defaults are those of the contract."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    """Largest global norm of the gradient; 0 does not clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """What an optimizer step did."""

    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingCall:
    """Forward or ForwardBackward."""

    batch: Batch
    loss: Loss
    terms: tuple[Term, ...] = ()
    """Regularizers that are added to the loss."""
    omit_logprobs: bool = False
    parameter_grad_norms: bool = False
    """Whether the answer shall have the norms of the gradients by the adapter's parameters."""

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        return Objective(loss=self.loss, terms=self.terms)
