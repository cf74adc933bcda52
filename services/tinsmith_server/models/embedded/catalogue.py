"""Which embedded models there are. No torch here: the command line and the dataset room only name them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

_RECIPE = 2
"""Counts changes of what a build makes that no field below shows: the conversations, the tokenizer's text, the chat
template, the optimizers. A cached model of an older count is not used again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddedModel:
    """Size and warm-up of one embedded model."""

    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int = 4
    num_kv_heads: int = 2
    context_length: int = 2048
    vocabulary_size: int = 512
    warm_up_steps: int = 600
    seed: int = 0

    @property
    def recipe_hash(self) -> str:
        """Twelve hexadecimal digits that change whenever a build would make something else."""
        recipe = json.dumps({"recipe": _RECIPE, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(recipe.encode()).hexdigest()[:12]


EMBEDDED_MODELS: Mapping[str, EmbeddedModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            EmbeddedModel(name="tinsmith-tiny", hidden_size=64, intermediate_size=192, num_layers=2),
            EmbeddedModel(name="tinsmith-small", hidden_size=96, intermediate_size=256, num_layers=3),
        )
    }
)
