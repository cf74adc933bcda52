"""Who calls: tenants, the keys by which they are known, and the limits that they have.

Tenants stand in a TOML file, which knows the keys by their hashes alone:

    [tenants.research]
    keys = ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
    weight = 2.0
    requests_per_s = 50.0

A key is a random word of at least 32 characters, for example of `openssl rand -hex 32`; its hash is what
`printf %s KEY | sha256sum` prints. The file is read once, when the process starts.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from tinsmith_server.serving.errors import Unauthenticated

_PREFIX = "sha256:"
_SCHEME = "bearer "

KeyHash = Annotated[str, StringConstraints(pattern=f"^{_PREFIX}[0-9a-f]{{64}}$")]
Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Tenant(BaseModel):
    """A tenant: its share of what is scarce, and its limits. What is None has no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weight: float = Field(default=1.0, gt=0, le=1000)
    """Share of a busy process, against the weights of the others that want it."""
    requests_per_s: float | None = Field(default=None, gt=0)
    tokens_per_s: float | None = Field(default=None, gt=0)
    """Tokens that the process reads and writes for this tenant, as its room counts them."""
    bytes_per_s: float | None = Field(default=None, gt=0)
    """Bytes of requests."""
    burst_s: float = Field(default=2.0, gt=0)
    """Seconds of unused allowance that may be saved up and spent at once."""
    concurrent: int | None = Field(default=None, gt=0)
    """Calls at work at once, streams too."""


ANYONE = Tenant(name="")
"""The caller where no keys are asked for."""

SERVICE = Tenant(name="(service)")
"""Another room of the suite that calls for nobody in particular; known by the service key. It has no limits."""

ON_BEHALF_OF = "x-tinsmith-tenant"
"""Metadata by which a room says for which tenant it calls, with the service key."""

_current: ContextVar[Tenant] = ContextVar("tenant of the present call", default=ANYONE)


def current_tenant() -> Tenant:
    """The tenant whose call is being answered; ANYONE outside of a call, and where no keys are asked for."""
    return _current.get()


def visible_owner() -> str | None:
    """Whose things the present caller may see and touch: those of the tenant of this name; None is everybody's."""
    tenant = current_tenant()
    return None if tenant is ANYONE or tenant is SERVICE else tenant.name


def set_current_tenant(tenant: Tenant) -> None:
    """Says whose call the present task answers."""
    _current.set(tenant)


class BadTenants(Exception):
    """The file of tenants can't be used; the message says why."""


class _Entry(Tenant):
    """A tenant with the hashes of its keys, as the file has it."""

    keys: list[KeyHash] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tenants: dict[Name, _Entry] = Field(min_length=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenants:
    """Who may call."""

    by_hash: Mapping[bytes, Tenant]
    """SHA-256 of each key -> its tenant."""
    by_name: Mapping[str, Tenant]

    def identify(self, metadata: Mapping[str, str]) -> Tenant:
        """The tenant of a call with this metadata.

        Unauthenticated with reason API_KEY_MISSING, API_KEY_UNKNOWN or TENANT_UNKNOWN. How long it takes says nothing
        about keys: what is looked up is a hash, of which a caller can choose no part.
        """
        key = key_in(metadata)
        if not key:
            message = "this service wants an API key: send `authorization: Bearer KEY` or `x-api-key: KEY`"
            raise Unauthenticated(message, reason="API_KEY_MISSING")
        tenant = self.by_hash.get(_hash(key))
        if tenant is None:
            raise Unauthenticated("this service does not know that API key", reason="API_KEY_UNKNOWN")
        return self._named(metadata[ON_BEHALF_OF]) if tenant is SERVICE and ON_BEHALF_OF in metadata else tenant

    def _named(self, name: str) -> Tenant:
        if name not in self.by_name:
            message = f"there is no tenant {name!r} to call for"
            raise Unauthenticated(message, reason="TENANT_UNKNOWN", metadata={"tenant": name})
        return self.by_name[name]


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def key_in(metadata: Mapping[str, str]) -> str:
    """The API key that a call carries; empty without one."""
    authorization = metadata.get("authorization", "")
    if authorization[: len(_SCHEME)].lower() == _SCHEME:
        return authorization[len(_SCHEME) :].strip()
    return metadata.get("x-api-key", "").strip()


def load_tenants(path: Path, service_key: str = "") -> Tenants:
    """The tenants of a file, and SERVICE if it has a key. BadTenants, naming the entry, when they can't be used."""
    entries = _entries(path)
    by_name = {name: Tenant.model_validate(entry.model_dump(exclude={"keys"})) for name, entry in entries.items()}
    by_hash = {_hash(service_key): SERVICE} if service_key else {}
    for name, entry in entries.items():
        for key in entry.keys:
            if by_hash.setdefault(bytes.fromhex(key.removeprefix(_PREFIX)), by_name[name]) is not by_name[name]:
                raise BadTenants(f"the file of API keys {path} does not do: a key of {name} is another's too")
    return Tenants(by_hash=by_hash, by_name=by_name)


def _entries(path: Path) -> Mapping[str, _Entry]:
    try:
        tables = tomllib.loads(path.read_text())
        named = {name: {**entry, "name": name} for name, entry in tables.get("tenants", {}).items()}
        return _File.model_validate({**tables, "tenants": named}).tenants
    except OSError as error:
        raise BadTenants(f"can't read the file of API keys {path}: {error.strerror}") from None
    except ValidationError as error:
        places = [".".join(map(str, item["loc"])) + ": " + item["msg"] for item in error.errors(include_input=False)]
        raise BadTenants(f"the file of API keys {path} does not do: {'; '.join(places)}") from None
    except (ValueError, AttributeError, TypeError) as error:  # not TOML, or "tenants" holds no tables
        raise BadTenants(f"the file of API keys {path} does not do: {error}") from None
