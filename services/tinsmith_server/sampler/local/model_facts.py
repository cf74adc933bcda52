"""What requests are checked against: facts of a base model, read from its configuration."""

from transformers import PreTrainedModel


class ModelFacts:
    """Facts of one base model in memory."""

    def __init__(self, model: PreTrainedModel, *, name: str) -> None:
        config = model.config
        self.name = name
        self.architecture = (config.architectures or [type(model).__name__])[0]
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.vocabulary: int = config.vocab_size
        self.context: int = config.max_position_embeddings
        self.eos_ids = _eos_ids(model)
        self.device = model.device


def _eos_ids(model: PreTrainedModel) -> frozenset[int]:
    """The generation configuration's ids where it has some, as `transformers` generate does it."""
    generation = None if model.generation_config is None else model.generation_config.eos_token_id
    ids = model.config.eos_token_id if generation is None else generation
    if ids is None:
        return frozenset()
    return frozenset([ids] if isinstance(ids, int) else ids)
