"""Settings of the sampler process."""

from typing import Literal

from pydantic import Field, field_validator

from tinsmith_server.models import parse_base_models
from tinsmith_server.sampler.openai import OpenAISettings
from tinsmith_server.serving import CommaSeparated, ExpandedPath, RoomSettings
from tinsmith_server.tinker_client.settings import TinkerSettings


class SamplerSettings(RoomSettings, OpenAISettings, TinkerSettings):
    """What is served and how much of it."""

    address: str = Field("127.0.0.1:50052", description="gRPC address: host:port, or unix:path")
    base_models: CommaSeparated = Field(
        ("tinsmith-tiny",),
        description="base models to load at start: embedded names, directories or hub ids, each also as ALIAS=LOCATION",
    )
    backend: Literal["local", "openai", "tinker"] = Field(
        "local",
        description="where answers come from: local (this process), openai (a server such as vLLM or SGLang) or tinker "
        "(a Tinker service, whose names the locations of base_models are)",
    )
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="element type of the weights")
    torch_threads: int = Field(1, gt=0, description="CPU threads of a matrix product; results depend on it")
    checkpoint_root: ExpandedPath | None = Field(
        None, description="folder where checkpoint URIs live; <home>/checkpoints when not set"
    )
    adapter_cache_bytes: int = Field(1 << 30, ge=0, description="memory for adapters that were used lately")
    max_running: int = Field(256, gt=0, description="requests that are decoded together")
    max_alone: int = Field(
        8, gt=0, description="requests that take turns: scoring, and models that are decoded one request at a time"
    )
    max_waiting: int = Field(256, ge=0, description="requests that may wait; more are refused")
    kv_bytes: int = Field(1 << 30, gt=0, description="memory for keys and values of answers under way, per base model")
    prefix_cache_bytes: int = Field(
        1 << 28,
        ge=0,
        description="memory for keys and values of prompts and answers that were read lately, per base model",
    )
    max_answers: int = Field(16384, gt=0, description="most answers of one request")
    max_batch_rows: int = Field(512, gt=0, description="most answers decoded together")
    max_batch_prompt_tokens: int = Field(65536, gt=0, description="most prompt tokens scored together, padded")
    prefill_tokens: int = Field(1024, gt=0, description="prompt tokens read between two decoding steps, padded")
    stream_interval_ms: float = Field(20.0, ge=0, description="shortest time between two messages of a stream")

    @field_validator("base_models")
    @classmethod
    def _are_base_models(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        if not parse_base_models(entries):
            raise ValueError("a sampler needs at least one base model")
        return entries
