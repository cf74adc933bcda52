"""What requests are checked against: facts of a base model, read from its configuration."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.local.adapter import AdaptedMatrix
from tinsmith_server.trainer.local.matrices import adapted_matrices


class ModelFacts:
    """Facts of one base model in memory."""

    def __init__(self, model: PreTrainedModel, *, name: str) -> None:
        config = model.config
        self.name = name
        self.architecture: str = (config.architectures or [type(model).__name__])[0]
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.vocabulary: int = config.vocab_size
        self.context: int = config.max_position_embeddings
        self.device = model.device
        self._model = model

    def parameter(self, name: str) -> Tensor | None:
        """A weight of the base model by its name in it; None when it has none such."""
        return self._model.state_dict().get(name)

    def copy(self) -> PreTrainedModel:
        """The model once more, on the CPU. Unlike loading it, this changes nothing that other threads see:
        `transformers` loads with torch's default type of numbers, which is the whole process's, set to the model's."""
        own: dict[int, Tensor] = {id(each): each.detach().to("cpu", copy=True) for each in self._model.buffers()}
        for each in self._model.parameters():
            own[id(each)] = nn.Parameter(each.detach().to("cpu", copy=True), requires_grad=False)
        return copy.deepcopy(self._model, own)

    def matrices(self, shape: LoraShape) -> Sequence[AdaptedMatrix]:
        return adapted_matrices(self._model, shape)
