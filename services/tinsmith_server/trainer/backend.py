"""The seam between the trainer's calls and what computes them. `local/` computes in this process."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
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
    """One adapter in training. Its calls come one after the other; those of other models may come meanwhile."""

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

    @property
    def is_at_rest(self) -> bool:
        """Whether `state_files` holds all that there is to it, no gradients beside, so that it may leave memory. False
        for ever where the memory is not this process's own."""
        ...

    async def forward(self, call: TrainingCall) -> ForwardResult:
        """Logprobs and the loss; no gradients. InvalidArgument as `validation.check_call`."""
        ...

    async def forward_backward(self, call: TrainingCall) -> ForwardResult:
        """The same, and accumulates the gradients. Nothing is accumulated when it raises InvalidArgument."""
        ...

    async def optim_step(self, params: AdamParams) -> StepResult:
        """Applies and clears the gradients. FailedPrecondition NO_GRADIENTS, Internal NON_FINITE_GRADIENT."""
        ...

    async def adapter_files(self, *, lifetime: timedelta | None) -> dict[str, bytes]:
        """The files of a sampler checkpoint, which is needed for `lifetime` (None: for good)."""
        ...

    async def state_files(self, *, lifetime: timedelta | None) -> dict[str, bytes]:
        """The same of a training checkpoint, with the optimizer's memory."""
        ...

    async def load(self, files: Mapping[str, bytes], *, with_optimizer: bool) -> None:
        """Takes over an adapter. FailedPrecondition CHECKPOINT_MISMATCH or ADAPTER_UNSUPPORTED, DataLoss
        CHECKPOINT_CORRUPT; the model is unchanged then."""
        ...


class Backend(Protocol):
    """Base models, and adapters made on them."""

    name: str
    """As `GetCapabilities` says it."""
    device: str
    """Device and number type, for example "cpu float32"."""

    @property
    def waiting(self) -> int:
        """Calls that it has taken in and not begun to compute."""
        ...

    async def start(self) -> None:
        """Makes the base models ready to train without a first slow call."""
        ...

    async def stop(self) -> None:
        """Ends all work."""
        ...

    def base_models(self) -> Sequence[BaseModelSummary]: ...

    async def create_model(self, base_model: str, shape: LoraShape) -> TrainableModel:
        """A fresh adapter. NotFound with reason BASE_MODEL_NOT_FOUND, FailedPrecondition with reason
        BASE_MODEL_UNSUPPORTED."""
        ...

    async def restore_model(
        self, base_model: str, shape: LoraShape, files: Mapping[str, bytes], *, with_optimizer: bool
    ) -> TrainableModel:
        """An adapter from a checkpoint. Errors as `create_model` and `TrainableModel.load`."""
        ...
