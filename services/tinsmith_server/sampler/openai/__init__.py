"""The `openai` backend: sampling from vLLM, SGLang or another OpenAI-compatible server."""

from tinsmith_server.sampler.openai.open import open_backend
from tinsmith_server.sampler.openai.settings import OpenAISettings

__all__ = ["OpenAISettings", "open_backend"]
