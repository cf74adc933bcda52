"""The base models of a Tinker service."""

from collections.abc import Mapping
from dataclasses import dataclass

from tinsmith_server.models import BaseModel
from tinsmith_server.serving.errors import NotFound
from tinsmith_server.tinker_client.connection import Connection

_UNKNOWN = (1 << 31) - 1
"""In the place of a bound that the service does not tell: it checks such requests itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A base model that the service has."""

    name: str
    """As requests to us name it."""
    remote: str
    """As the service names it."""
    context: int
    vocabulary: int = _UNKNOWN

    @property
    def known_context(self) -> int:
        """0 when the service does not tell."""
        return 0 if self.context == _UNKNOWN else self.context


async def served_models(connection: Connection, wanted: Mapping[str, BaseModel]) -> dict[str, ServedModel]:
    """What the service has of `wanted`, whose locations are its names.

    NotFound with reason BASE_MODEL_NOT_FOUND when it lacks one; errors as `Connection.result`.
    """
    offered = await connection.result(connection.capabilities())
    contexts = {model.model_name: model.max_context_length or _UNKNOWN for model in offered.supported_models}
    for model in wanted.values():
        if model.location not in contexts:
            served = ", ".join(sorted(name for name in contexts if name)) or "none"
            raise NotFound(
                f"the Tinker service has no base model {model.location!r}; it has {served} (setting base_models)",
                reason="BASE_MODEL_NOT_FOUND",
                metadata={"base_model": model.location, "served": served},
            )
    return {
        name: ServedModel(name=name, remote=model.location, context=contexts[model.location])
        for name, model in wanted.items()
    }
