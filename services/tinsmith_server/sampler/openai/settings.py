"""Settings of the `openai` backend, as a part of the sampler's. Imports nothing heavy: they are read whatever the
backend."""

from typing import Literal

from pydantic import BaseModel, Field, SecretStr, field_validator

from tinsmith_server.serving import CommaSeparated, ExpandedPath


class OpenAISettings(BaseModel):
    """Where the model server is, and what is asked of it."""

    openai_base_url: str = Field(
        "http://127.0.0.1:8000/v1",
        pattern="^https?://[^ @]+$",  # a password in it would get into logs
        description="backend openai: URL of the server's API",
    )
    openai_api_key: SecretStr = Field(SecretStr(""), description="backend openai: the server's key; empty: none")
    openai_kind: Literal["auto", "vllm", "sglang", "other"] = Field(
        "auto", description="backend openai: kind of the server; auto: as it says in /models"
    )
    openai_models: CommaSeparated = Field(
        (), description="backend openai: BASE_MODEL=NAME, where the server has another name for a base model"
    )
    openai_start_s: float = Field(
        300.0, ge=0, description="backend openai: how long to wait at the start for a server that is not there yet"
    )
    openai_timeout_s: float = Field(
        600.0, gt=0, description="backend openai: longest time for an answer; of a stream, longest silence"
    )
    openai_attempts: int = Field(
        4, gt=0, description="backend openai: how often a request is sent that fails with 429, 5xx or no answer"
    )
    openai_concurrency: int = Field(128, gt=0, description="backend openai: HTTP requests at a time")
    openai_max_adapters: int = Field(8, gt=0, description="backend openai: adapters kept loaded at the server")
    openai_adapter_directory: ExpandedPath | None = Field(
        None,
        description="backend openai: folder of this sampler alone, which the server can read, for adapters; "
        "<home>/openai-adapters when not set",
    )
    openai_adapter_directory_there: str = Field(
        "", description="backend openai: path of that folder as the server sees it; empty: the same"
    )

    @field_validator("openai_models")
    @classmethod
    def _are_pairs(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            name, equals, remote = entry.partition("=")
            if not (name.strip() and equals and remote.strip()):
                raise ValueError(f"{entry!r} is not BASE_MODEL=NAME")
        return entries
