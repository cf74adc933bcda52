"""The `local` backend: base models in this process, in memory once however many adapters are trained on them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from tinsmith_server.models import BaseModel, find_directory, load_causal_lm
from tinsmith_server.models.llama_family import is_plain_member
from tinsmith_server.serving.errors import NotFound
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.backend import BaseModelSummary
from tinsmith_server.trainer.llama.model import LlamaFamilyModel
from tinsmith_server.trainer.local.causal import CausalModel
from tinsmith_server.trainer.local.hugging_face import HuggingFaceModel
from tinsmith_server.trainer.local.torch_queue import TorchQueue
from tinsmith_server.trainer.local.trained_model import Limits, TrainedModel
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import AdamParams, Batch, ForwardResult, StepResult, TrainingCall


class LocalModel:
    """See `backend.TrainableModel`. What it writes has no use for a life time: the store keeps and deletes it."""

    def __init__(self, model: TrainedModel, queue: TorchQueue) -> None:
        self._model, self._queue = model, queue

    @property
    def base_model(self) -> str:
        return self._model.base_model

    @property
    def shape(self) -> LoraShape:
        return self._model.shape

    @property
    def step(self) -> int:
        return self._model.step

    @property
    def trainable_parameters(self) -> int:
        return self._model.trainable_parameters

    @property
    def is_at_rest(self) -> bool:
        return self._model.is_at_rest

    async def forward(self, call: TrainingCall) -> ForwardResult:
        return await self._queue.compute(lambda: self._model.prepare(call, trains=False))

    async def forward_backward(self, call: TrainingCall) -> ForwardResult:
        if call.parameter_grad_norms:
            return await self._queue.run_long(lambda: self._model.forward_backward(call))
        return await self._queue.compute(lambda: self._model.prepare(call, trains=True))

    async def optim_step(self, params: AdamParams) -> StepResult:
        return await self._queue.run(lambda: self._model.optim_step(params))

    async def adapter_files(self, *, lifetime: timedelta | None) -> dict[str, bytes]:
        return await self._queue.run(self._model.adapter_files)

    async def state_files(self, *, lifetime: timedelta | None) -> dict[str, bytes]:
        return await self._queue.run(self._model.state_files)

    async def load(self, files: Mapping[str, bytes], *, with_optimizer: bool) -> None:
        await self._queue.run(lambda: self._model.load(files, with_optimizer=with_optimizer))


class LocalBackend:
    """See `backend.Backend`."""

    name = "local"

    def __init__(
        self,
        base_models: Mapping[str, BaseModel],
        *,
        home: Path,
        device: str,
        dtype: str,
        limits: Limits,
        recompute: bool | None,
        queue: TorchQueue,
    ) -> None:
        self.device = f"{device} {dtype}"
        self._wanted, self._home, self._device, self._dtype = base_models, home, device, dtype
        self._limits, self._queue, self._recompute = limits, queue, recompute
        self._bases: dict[str, CausalModel] = {}

    async def start(self) -> None:
        """Loads the base models. Errors as `models.find_directory`, `load_causal_lm`."""
        await self._queue.run(self._load)

    def tell(self, changed: Callable[[], None]) -> None:
        """Has `changed` called, on the event loop that runs now, whenever `waiting` falls."""
        loop = asyncio.get_running_loop()
        self._queue.on_change = lambda: _call_soon(loop, changed)

    async def stop(self) -> None:
        await self._queue.stop()

    @property
    def waiting(self) -> int:
        return self._queue.waiting

    def base(self, name: str) -> CausalModel:
        """A base model in memory. NotFound with reason BASE_MODEL_NOT_FOUND."""
        if name not in self._bases:
            served = ", ".join(self._bases) or "none"
            raise NotFound(
                f"base model {name!r} is not served here; this trainer serves {served} (setting base_models)",
                reason="BASE_MODEL_NOT_FOUND",
                metadata={"base_model": name, "served": served},
            )
        return self._bases[name]

    def directory(self, name: str) -> Path:
        """Where a base model's files are. Blocks; errors as `base`."""
        return find_directory(self._wanted[self.base(name).name], self._home)

    def base_models(self) -> Sequence[BaseModelSummary]:
        return [
            BaseModelSummary(
                name=base.name,
                parameters=base.parameters,
                context_length=base.context,
                vocabulary_size=base.vocabulary,
                architecture=base.architecture,
            )
            for base in self._bases.values()
        ]

    async def create_model(self, base_model: str, shape: LoraShape) -> LocalModel:
        return LocalModel(await self._queue.run(lambda: self._make(base_model, shape)), self._queue)

    async def restore_model(
        self, base_model: str, shape: LoraShape, files: Mapping[str, bytes], *, with_optimizer: bool
    ) -> LocalModel:
        model = await self.create_model(base_model, shape)
        await model.load(files, with_optimizer=with_optimizer)
        return model

    def _load(self) -> None:
        for name, base_model in self._wanted.items():
            directory = find_directory(base_model, self._home)
            model = load_causal_lm(directory, device=self._device, dtype=self._dtype)
            base = causal_model(model, name=name, recompute=self._recompute)
            self._bases[name] = base
            _warm_up(self._make(name, LoraShape(rank=1, alpha=1.0, train_unembedding=False)))

    def _make(self, base_model: str, shape: LoraShape) -> TrainedModel:
        return TrainedModel(self.base(base_model), shape, limits=self._limits)


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(call)


def causal_model(model: PreTrainedModel, *, name: str, recompute: bool | None = None) -> CausalModel:
    """A `transformers` model with the fastest forward pass that computes what its own does. `recompute` as
    `LlamaFamilyModel`; others remember their layers."""
    if is_plain_member(model):
        return LlamaFamilyModel(model, name=name, recompute=recompute)
    return HuggingFaceModel(model, name=name)


def _warm_up(model: TrainedModel) -> None:
    """One small step, so that the first caller does not wait for what torch sets up at its first use."""
    tokens = Ragged(values=np.zeros(2, np.int64), offsets=np.array([0, 2]))
    weights = Ragged(values=np.ones(2, np.float32), offsets=tokens.offsets)
    batch = Batch(tokens=tokens, columns={"target_tokens": tokens, "weights": weights})
    model.forward_backward(TrainingCall(batch=batch, loss=CrossEntropy()))
    model.optim_step(AdamParams(learning_rate=0.0))
