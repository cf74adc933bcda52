"""Base models: what their names mean, where their files are, how they are loaded.

Importing this package imports neither torch nor transformers; loading a model does.
"""

from tinsmith_server.models.base_models import BaseModel, find_directory, parse_base_models
from tinsmith_server.models.embedded import EMBEDDED_MODELS, EmbeddedModel
from tinsmith_server.models.loading import load_causal_lm, load_tokenizer

__all__ = [
    "EMBEDDED_MODELS",
    "BaseModel",
    "EmbeddedModel",
    "find_directory",
    "load_causal_lm",
    "load_tokenizer",
    "parse_base_models",
]
