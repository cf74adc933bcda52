"""The models that need no download: built on this machine, the same every time, then cached."""

from tinsmith_server.models.embedded.cache import Progress, embedded_directory
from tinsmith_server.models.embedded.catalogue import EMBEDDED_MODELS, EmbeddedModel

__all__ = ["EMBEDDED_MODELS", "EmbeddedModel", "Progress", "embedded_directory"]
