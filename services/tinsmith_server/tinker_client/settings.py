"""Settings that every room with a `tinker` backend has. Imports no SDK: the rooms read them whatever their backend."""

from pydantic import BaseModel, Field, SecretStr


class TinkerSettings(BaseModel):
    """Where the Tinker service is, and how long it may take."""

    tinker_base_url: str = Field(
        "", description="backend tinker: address of the service; empty: TINKER_BASE_URL, else the hosted one"
    )
    tinker_api_key: SecretStr | None = Field(
        None, description="backend tinker: its API key; not set: TINKER_API_KEY, else what `tinker auth login` stored"
    )
    tinker_timeout_s: float = Field(
        900.0, gt=0, description="backend tinker: longest time for a call, waiting in the service's queue included"
    )
    tinker_patience_s: float = Field(
        60.0, gt=0, description="backend tinker: how long a service that fails or is full is tried again"
    )
