"""The `local` backend: base models in this process, in memory once however many adapters are trained on them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from tinsmith_server.models import BaseModel, find_directory, load_causal_lm
from tinsmith_server.models.llama_family import is_plain_member
from tinsmith_server.serving.errors import NotFound
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.backend import BaseModelSummary
from tinsmith_server.trainer.causal import CausalModel
from tinsmith_server.trainer.hugging_face import HuggingFaceModel
from tinsmith_server.trainer.llama_family import LlamaFamilyModel
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.ragged import Ragged
from tinsmith_server.trainer.request import AdamParams, Batch, TrainingCall
from tinsmith_server.trainer.trained_model import Limits, TrainedModel


class LocalBackend:
    """See `backend.Backend`."""

    name = "local"

    def __init__(
        self, base_models: Mapping[str, BaseModel], *, home: Path, device: str, dtype: str, limits: Limits
    ) -> None:
        self.device = f"{device} {dtype}"
        self._wanted, self._home, self._device, self._dtype = base_models, home, device, dtype
        self._limits = limits
        self._bases: dict[str, CausalModel] = {}

    def load(self) -> None:
        for name, base_model in self._wanted.items():
            directory = find_directory(base_model, self._home)
            base = causal_model(load_causal_lm(directory, device=self._device, dtype=self._dtype), name=name)
            self._bases[name] = base
            _warm_up(self.create_model(name, LoraShape(rank=1, alpha=1.0, train_unembedding=False)))

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

    def create_model(self, base_model: str, shape: LoraShape) -> TrainedModel:
        if base_model not in self._bases:
            served = ", ".join(self._bases) or "none"
            raise NotFound(
                f"base model {base_model!r} is not served here; this trainer serves {served} (setting base_models)",
                reason="BASE_MODEL_NOT_FOUND",
                metadata={"base_model": base_model, "served": served},
            )
        return TrainedModel(self._bases[base_model], shape, limits=self._limits)


def causal_model(model: PreTrainedModel, *, name: str) -> CausalModel:
    """A `transformers` model with the fastest forward pass that computes what its own does."""
    if is_plain_member(model):
        return LlamaFamilyModel(model, name=name)
    return HuggingFaceModel(model, name=name)


def _warm_up(model: TrainedModel) -> None:
    """One small step, so that the first caller does not wait for what torch sets up at its first use."""
    tokens = Ragged(values=np.zeros(2, np.int64), offsets=np.array([0, 2]))
    weights = Ragged(values=np.ones(2, np.float32), offsets=tokens.offsets)
    batch = Batch(tokens=tokens, columns={"target_tokens": tokens, "weights": weights})
    model.forward_backward(TrainingCall(batch=batch, loss=CrossEntropy()))
    model.optim_step(AdamParams(learning_rate=0.0))
