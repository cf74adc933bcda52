"""Settings of the trainer process."""

from pathlib import Path

from pydantic import Field, field_validator

from tinsmith_server.models import parse_base_models
from tinsmith_server.serving import CommaSeparated, ExpandedPath, RoomSettings


class TrainerSettings(RoomSettings):
    """What is trained and how much of it."""

    address: str = Field("127.0.0.1:50051", description="gRPC address: host:port, or unix:path")
    backend: str = Field("local", pattern="^local$", description="where training happens: local")
    base_models: CommaSeparated = Field(
        ("tinsmith-tiny",),
        description="base models to load: embedded names, directories, hub ids, or ALIAS=one of them",
    )
    checkpoint_root: ExpandedPath | None = Field(None, description="where checkpoints live; default <home>/checkpoints")
    device: str = Field("cpu", description="torch device, for example cpu or cuda:0")
    dtype: str = Field("float32", description="element type of the base weights: float32, bfloat16 or float16")
    torch_threads: int = Field(1, gt=0, description="CPU threads of a matrix product; results depend on it")
    micro_batch_tokens: int = Field(
        4096, gt=0, description="most tokens read at once, shared beginnings counted once; a longer datum is read alone"
    )
    max_batch_data: int = Field(8192, gt=0, description="most data of one call")
    max_models: int = Field(64, gt=0, description="most models in memory")
    max_rank: int = Field(512, gt=0, description="largest rank of an adapter")
    kept_ephemeral: int = Field(4, gt=0, description="ephemeral sampler weights kept of each model")
    kept_answers: int = Field(64, gt=0, description="answers kept of each model for repeated calls")
    sequence_wait_s: float = Field(30.0, gt=0, description="how long a call waits for the seq_ids before its own")
    idle_timeout_s: float = Field(0.0, ge=0, description="release models that were not used for this long; 0: never")

    @field_validator("base_models")
    @classmethod
    def _names_models(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        parse_base_models(entries)
        return entries

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints."""
        return self.checkpoint_root or self.home / "checkpoints"
