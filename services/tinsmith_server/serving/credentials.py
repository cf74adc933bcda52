"""Whose key the calls of this process carry: that of the caller whose call is being answered, else the service key."""

from collections.abc import Mapping
from contextvars import ContextVar

from tinsmith_server.serving import telemetry
from tinsmith_server.serving.tenants import ON_BEHALF_OF

_CARRIED = ("authorization", "x-api-key", ON_BEHALF_OF)

Metadata = tuple[tuple[str, str], ...]

_credentials: ContextVar[Metadata] = ContextVar("credentials of outgoing calls", default=())


def outgoing_metadata() -> Metadata:
    """What to send with a call: the trace that it belongs to, and the key of whoever it is made for.

    For calls to the services that settings name, never to an address that a caller has given: a key is a secret.
    """
    return telemetry.trace_headers() + _credentials.get()


def service_credentials(service_key: str) -> Metadata:
    """The service key as metadata; nothing without one."""
    return (("authorization", f"Bearer {service_key}"),) if service_key else ()


def call_for(tenant: str) -> None:
    """From now on the present task's calls are made for this tenant, if there is a service key to say so by."""
    own = tuple(pair for pair in _credentials.get() if pair[0] != ON_BEHALF_OF)
    if own and tenant:
        carry((*own, (ON_BEHALF_OF, tenant)))


def credentials_in(metadata: Mapping[str, str]) -> Metadata:
    """The part of a call's metadata that says who calls."""
    return tuple((name, metadata[name]) for name in _CARRIED if name in metadata)


def carry(credentials: Metadata) -> None:
    """Says whose key the calls of the present task carry, and those of the tasks that it starts."""
    _credentials.set(credentials)
