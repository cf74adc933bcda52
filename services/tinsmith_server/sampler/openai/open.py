"""The backend, of the sampler's settings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tinsmith_server.models import BaseModel
from tinsmith_server.sampler.openai.adapters import AdapterFolder
from tinsmith_server.sampler.openai.backend import Limits, OpenAIBackend
from tinsmith_server.sampler.openai.client import Client, Server
from tinsmith_server.sampler.openai.discovery import Wanted
from tinsmith_server.sampler.openai.failures import speaks_against_server
from tinsmith_server.sampler.openai.queue import RequestQueue
from tinsmith_server.serving.circuit_breaker import CircuitBreaker
from tinsmith_server.storage import CheckpointStore

if TYPE_CHECKING:
    from tinsmith_server.sampler.settings import SamplerSettings

_BACKEND = "openai"
_ADAPTERS = "openai-adapters"


def open_backend(
    settings: "SamplerSettings", base_models: Mapping[str, BaseModel], store: CheckpointStore
) -> OpenAIBackend:
    """The backend; talks to the server only when it is started."""
    server = Server(
        base_url=settings.openai_base_url,
        api_key=settings.openai_api_key.get_secret_value(),
        timeout_s=settings.openai_timeout_s,
        attempts=settings.openai_attempts,
        connections=settings.openai_concurrency,
    )
    return OpenAIBackend(
        Client(server, CircuitBreaker(_BACKEND, is_failure=speaks_against_server)),
        Wanted(
            base_models=base_models,
            aliases=_pairs(settings.openai_models),
            kind=settings.openai_kind,
            home=settings.home,
            patience_s=settings.openai_start_s,
        ),
        store=store,
        adapters=AdapterFolder(
            here=settings.openai_adapter_directory or settings.home / _ADAPTERS,
            there=settings.openai_adapter_directory_there,
        ),
        queue=RequestQueue(places=settings.openai_concurrency, max_waiting=settings.max_waiting),
        limits=Limits(
            max_answers=settings.max_answers,
            max_adapters=settings.openai_max_adapters,
            stream_interval_s=settings.stream_interval_ms / 1000,
        ),
    )


def _pairs(entries: tuple[str, ...]) -> Mapping[str, str]:
    return {name.strip(): remote.strip() for name, _, remote in (entry.partition("=") for entry in entries)}
