"""Settings of the trainer process."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from tinsmith_server.models import parse_base_models
from tinsmith_server.serving import CommaSeparated, ExpandedPath, RoomSettings
from tinsmith_server.tinker_client.settings import TinkerSettings


class TrainerSettings(TinkerSettings, RoomSettings):
    """What is trained and how much of it."""

    address: str = Field("127.0.0.1:50051", description="gRPC address: host:port, or unix:path")
    backend: Literal["local", "tinker"] = Field(
        "local", description="where training happens: local, or tinker: a Tinker service, whose names base_models has"
    )
    base_models: CommaSeparated = Field(
        ("tinsmith-tiny",),
        description="base models to load: embedded names, directories, hub ids, or ALIAS=one of them",
    )
    checkpoint_root: ExpandedPath | None = Field(None, description="where checkpoints live; default <home>/checkpoints")
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    dtype: str = Field("float32", description="element type of the base weights: float32, bfloat16 or float16")
    gradient_checkpointing: Literal["never", "always", "auto"] = Field(
        "auto",
        description="compute layers again in the backward pass instead of remembering them, which saves memory: never, "
        "always, or auto (where one pass would take 2 GiB); Llama family only",
    )
    torch_threads: int = Field(1, gt=0, description="CPU threads of a matrix product; results depend on it")
    micro_batch_tokens: int = Field(
        4096, gt=0, description="most tokens read at once, shared beginnings counted once; a longer datum is read alone"
    )
    max_batch_data: int = Field(8192, gt=0, description="most data of one call")
    max_models: int = Field(
        64, gt=0, description="most models in memory; those not used for longest are parked to make room"
    )
    max_parked: int = Field(1024, ge=0, description="most models beside those")
    max_rank: int = Field(512, gt=0, description="largest rank of an adapter")
    kept_ephemeral: int = Field(4, gt=0, description="ephemeral sampler weights kept of each model")
    max_waiting_calls: int = Field(
        4096, gt=0, description="most calls on models that are not yet answered; more are refused"
    )
    kept_answers: int = Field(64, gt=0, description="answers kept of each model for repeated calls")
    sequence_wait_s: float = Field(30.0, gt=0, description="how long a call waits for the seq_ids before its own")
    idle_timeout_s: float = Field(600.0, ge=0, description="park models that were not used for this long; 0: never")
    heartbeat_timeout_s: float = Field(
        0.0, ge=0, description="release models that were neither used nor kept alive for this long; 0: never"
    )
    export_root: ExpandedPath | None = Field(
        None, description="where merged models are written; default <home>/exports"
    )
    max_upload_bytes: int = Field(16 << 30, gt=0, description="largest checkpoint that is uploaded")

    @field_validator("base_models")
    @classmethod
    def _names_models(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        parse_base_models(entries)
        return entries

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.checkpoint_root or self.home / "checkpoints"

    @property
    def exports(self) -> Path:
        """The folder of merged models."""
        return self.export_root or self.home / "exports"
