"""The services that runs use: those of the settings and those that users registered, with their health."""

import asyncio
from collections.abc import Mapping

from tinsmith.orchestrator.v1 import ServiceEntry, ServiceKind
from tinsmith_server.orchestrator.health import health
from tinsmith_server.orchestrator.store import Registry
from tinsmith_server.serving.errors import AlreadyExists

KINDS: Mapping[str, "ServiceKind.ValueType"] = {
    "trainer": ServiceKind.SERVICE_KIND_TRAINER,
    "sampler": ServiceKind.SERVICE_KIND_SAMPLER,
    "dataset": ServiceKind.SERVICE_KIND_DATASET,
    "grader": ServiceKind.SERVICE_KIND_GRADER,
    "environment": ServiceKind.SERVICE_KIND_ENVIRONMENT,
}
"""The processes that the settings name, and what each serves."""


class Directory:
    """Knows where services are."""

    def __init__(self, registry: Registry, addresses: Mapping[str, str]) -> None:
        self._registry = registry
        self._own = [ServiceEntry(name=name, kind=kind, address=addresses[name]) for name, kind in KINDS.items()]

    async def entries(self) -> list[ServiceEntry]:
        """All of them, with their health as it is now."""
        entries = [*self._own, *await self._registry.services()]
        return list(await asyncio.gather(*map(_with_health, entries)))

    async def register(self, entry: ServiceEntry, *, overwrite: bool) -> ServiceEntry:
        """Makes a service known. AlreadyExists with reason SERVICE_EXISTS; the settings' names are never free."""
        if entry.name in KINDS:
            message = f"{entry.name!r} is the service of the orchestrator's settings: choose another name"
            raise AlreadyExists(message, reason="SERVICE_EXISTS", metadata={"name": entry.name})
        await self._registry.register_service(entry, overwrite=overwrite)
        return await _with_health(entry)


async def _with_health(entry: ServiceEntry) -> ServiceEntry:
    problem = await health(entry.address)
    return ServiceEntry(
        name=entry.name, kind=entry.kind, address=entry.address, registered=entry.registered, healthy=not problem
    )
