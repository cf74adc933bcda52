"""The seam between the trainer's calls and what computes them. `local.py` computes in this process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.request import AdamParams, ForwardResult, StepResult, TrainingCall


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseModelSummary:
    """What a client may know of a base model."""

    name: str
    parameters: int
    context_length: int
    vocabulary_size: int
    architecture: str


class TrainableModel(Protocol):
    """One adapter in training. All methods block; they run on one thread at a time."""

    @property
    def base_model(self) -> str: ...

    @property
    def shape(self) -> LoraShape: ...

    @property
    def step(self) -> int:
        """Number of optimizer steps applied."""
        ...

    @property
    def trainable_parameters(self) -> int: ...

    def forward(self, call: TrainingCall) -> ForwardResult:
        """Logprobs and the loss; no gradients. InvalidArgument as `validation.check_call`."""
        ...

    def forward_backward(self, call: TrainingCall) -> ForwardResult:
        """The same, and accumulates the gradients. Nothing is accumulated when it raises InvalidArgument."""
        ...

    def optim_step(self, params: AdamParams) -> StepResult:
        """Applies and clears the gradients. FailedPrecondition NO_GRADIENTS, Internal NON_FINITE_GRADIENT."""
        ...

    def adapter_files(self) -> dict[str, bytes]:
        """The adapter as PEFT stores it."""
        ...

    def state_files(self) -> dict[str, bytes]:
        """The same with the optimizer's memory."""
        ...

    def load(self, files: Mapping[str, bytes], *, with_optimizer: bool) -> None:
        """Takes over an adapter. FailedPrecondition CHECKPOINT_MISMATCH or ADAPTER_UNSUPPORTED, DataLoss
        CHECKPOINT_CORRUPT; the model is unchanged then."""
        ...


class Backend(Protocol):
    """Base models, and adapters made on them. All methods block."""

    name: str
    """As `GetCapabilities` says it."""
    device: str
    """Device and number type, for example "cpu float32"."""

    def load(self) -> None:
        """Brings the base models into memory, ready to train without a first slow call."""
        ...

    def base_models(self) -> Sequence[BaseModelSummary]: ...

    def create_model(self, base_model: str, shape: LoraShape) -> TrainableModel:
        """A fresh adapter. NotFound with reason BASE_MODEL_NOT_FOUND, FailedPrecondition with reason
        BASE_MODEL_UNSUPPORTED."""
        ...
