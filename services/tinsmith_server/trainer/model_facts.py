"""What requests are checked against: facts of a base model, read from its configuration."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.adapter import AdaptedMatrix
from tinsmith_server.trainer.matrices import adapted_matrices


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

    def matrices(self, shape: LoraShape) -> Sequence[AdaptedMatrix]:
        return adapted_matrices(self._model, shape)
