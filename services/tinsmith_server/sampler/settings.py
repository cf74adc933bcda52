"""Settings of the sampler process."""

from typing import Literal

from pydantic import Field, field_validator

from tinsmith_server.models import parse_base_models
from tinsmith_server.serving import CommaSeparated, ExpandedPath, RoomSettings


class SamplerSettings(RoomSettings):
    """What is served and how much of it."""

    address: str = Field("127.0.0.1:50052", description="gRPC address: host:port, or unix:path")
    base_models: CommaSeparated = Field(
        ("tinsmith-tiny",),
        description="base models to load at start: embedded names, directories or hub ids, each also as ALIAS=LOCATION",
    )
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="element type of the weights")
    torch_threads: int = Field(1, gt=0, description="CPU threads of a matrix product; results depend on it")
    checkpoint_root: ExpandedPath | None = Field(
        None, description="folder where checkpoint URIs live; <home>/checkpoints when not set"
    )
    adapter_cache_bytes: int = Field(1 << 30, ge=0, description="memory for adapters that were used lately")
    merge_limit_bytes: int = Field(
        1 << 28, ge=0, description="adapters that touch at most this much of the base model are merged when loaded"
    )
    max_running: int = Field(8, gt=0, description="requests that take turns")
    max_waiting: int = Field(256, ge=0, description="requests that may wait; more are refused")
    max_answers: int = Field(16384, gt=0, description="most answers of one request")
    max_batch_rows: int = Field(512, gt=0, description="most answers decoded together")
    max_batch_prompt_tokens: int = Field(65536, gt=0, description="most prompt tokens held by one batch, padded")
    prefill_tokens: int = Field(4096, gt=0, description="most prompt tokens read in one step, padded")
    stream_interval_ms: float = Field(20.0, ge=0, description="shortest time between two messages of a stream")

    @field_validator("base_models")
    @classmethod
    def _are_base_models(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        if not parse_base_models(entries):
            raise ValueError("a sampler needs at least one base model")
        return entries
