"""One model in training: adapter, gradients, optimizer. Plain torch, no messages, no event loop.

Used on one thread at a time. The result of a call is a function of the calls before it and nothing else; `together.py`
runs calls of several models in one pass, with the same results.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.checkpoints import adapter_files
from tinsmith_server.trainer.local.adapter import Adapter
from tinsmith_server.trainer.local.causal import CausalModel
from tinsmith_server.trainer.local.gradient_norms import ParameterNorms, parameter_norms
from tinsmith_server.trainer.local.optimizer import AdamW
from tinsmith_server.trainer.local.together import Work, run_together
from tinsmith_server.trainer.request import AdamParams, ForwardResult, StepResult, TrainingCall
from tinsmith_server.trainer.validation import check_call


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one call may bring, and how much of it is computed at once."""

    micro_batch_tokens: int = 4096
    max_batch_data: int = 8192
    max_rank: int = 512


class TrainedModel:
    """An adapter on a base model that others share; see `backend.TrainableModel`."""

    def __init__(self, base: CausalModel, shape: LoraShape, *, limits: Limits) -> None:
        _check_shape(shape, limits)
        self._base = base
        self._limits = limits
        self._adapter = Adapter(base.matrices(shape), shape, base.device)
        self._optimizer = AdamW(self._adapter)
        self._adapter.initialise()

    @property
    def base_model(self) -> str:
        return self._base.name

    @property
    def shape(self) -> LoraShape:
        return self._adapter.shape

    @property
    def step(self) -> int:
        """Number of optimizer steps applied."""
        return self._optimizer.step

    @property
    def trainable_parameters(self) -> int:
        return self._adapter.size

    @property
    def is_at_rest(self) -> bool:
        """Whether no gradients wait for a step."""
        return not self._adapter.has_gradients

    def forward(self, call: TrainingCall) -> ForwardResult:
        return _alone(self.prepare(call, trains=False))

    def forward_backward(self, call: TrainingCall) -> ForwardResult:
        work = self.prepare(call, trains=True)
        norms = self._parameter_norms(work.call) if call.parameter_grad_norms else None
        result = _alone(work)
        return result if norms is None else norms.added_to(result)

    def prepare(self, call: TrainingCall, *, trains: bool) -> Work:
        """The call checked and laid out, for `run_together`. InvalidArgument as `validation.check_call`."""
        checked = check_call(call, self._base, max_data=self._limits.max_batch_data)
        return self._work(checked, trains=trains)

    def optim_step(self, params: AdamParams) -> StepResult:
        if not self._adapter.has_gradients:
            raise FailedPrecondition(
                "there are no gradients: call ForwardBackward before OptimStep", reason="NO_GRADIENTS"
            )
        norm = self._optimizer.apply(params)
        metrics = {"grad_norm:mean": norm, "learning_rate:mean": params.learning_rate}
        return StepResult(step=self.step, metrics=metrics)

    def adapter_files(self) -> dict[str, bytes]:
        return adapter_files.write_adapter(self._adapter, self._base.name)

    def state_files(self) -> dict[str, bytes]:
        return {**self.adapter_files(), **adapter_files.write_optimizer(self._adapter, self._optimizer)}

    def load(self, files: Mapping[str, bytes], *, with_optimizer: bool) -> None:
        """Takes over an adapter, and the optimizer's memory if asked; without it the optimizer begins anew.
        Accumulated gradients are dropped. Errors as `adapter_files.read_adapter`; nothing is changed then."""
        values = adapter_files.read_adapter(files, self._adapter)
        memory = adapter_files.read_optimizer(files, self._adapter) if with_optimizer else None
        self._adapter.values.copy_(values)
        self._adapter.clear_gradients()
        self._optimizer.reset()
        if memory is not None:
            self._optimizer.mean.copy_(memory.mean)
            self._optimizer.mean_square.copy_(memory.mean_square)
            self._optimizer.step = memory.step

    def _work(self, checked: TrainingCall, *, trains: bool, part: int | None = None) -> Work:
        nodes = checked.objective.tokens_at_once(self._limits.micro_batch_tokens, self._base.vocabulary)
        return Work(self._base, self._adapter, checked, trains=trains, max_nodes=nodes, part=part)

    def _parameter_norms(self, call: TrainingCall) -> ParameterNorms:
        def run(part: int) -> bool:
            work = self._work(call, trains=True, part=part)
            _alone(work)
            return work.evaluation.has_gradient

        had_gradients = self._adapter.has_gradients
        try:
            return parameter_norms(call.objective, self._adapter.gradients, run)
        finally:
            self._adapter.has_gradients = had_gradients


def _alone(work: Work) -> ForwardResult:
    (result,) = run_together([work])
    if isinstance(result, Exception):
        raise result
    return result


def _check_shape(shape: LoraShape, limits: Limits) -> None:
    if shape.rank > limits.max_rank:
        raise InvalidArgument(
            f"lora.rank is {shape.rank}, this trainer takes at most {limits.max_rank} (setting max_rank)",
            reason="RANK_TOO_LARGE",
            metadata={"rank": str(shape.rank), "max_rank": str(limits.max_rank)},
            violations=[("lora.rank", f"must be at most {limits.max_rank}")],
        )
    if not (shape.train_attention or shape.train_mlp or shape.train_unembedding):
        raise InvalidArgument(
            "lora leaves nothing to train: set one of train_attention, train_mlp, train_unembedding",
            reason="NOTHING_TO_TRAIN",
            violations=[("lora", "must train attention, mlp or unembedding")],
        )
