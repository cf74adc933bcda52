"""Settings of the grader process."""

import os

from pydantic import Field, model_validator

from tinsmith_server.serving import RoomSettings


class GraderSettings(RoomSettings):
    """How much work is taken, and what a worker process may use."""

    address: str = Field("127.0.0.1:50054", description="gRPC address: host:port, or unix:path")
    workers: int = Field(
        min(2, os.cpu_count() or 1), gt=0, description="processes for answers that take more than a comparison"
    )
    item_timeout_s: float = Field(2.0, gt=0, description="wall-clock limit of an item when a request sets none")
    max_item_timeout_s: float = Field(60.0, gt=0, description="largest limit of an item that a request may set")
    max_waiting: int = Field(65536, gt=0, description="items that may wait for a worker; calls beyond are refused")
    max_batch: int = Field(65536, gt=0, description="most items of one request")
    stream_window: int = Field(1024, gt=0, description="items of a stream at work before the server reads no further")
    max_answer_chars: int = Field(262_144, gt=0, description="longest answer in which an extraction is looked for")
    worker_memory_bytes: int = Field(1 << 30, gt=0, description="address space of a worker")
    worker_items: int = Field(2000, gt=0, description="items after which a worker is replaced")

    @model_validator(mode="after")
    def _default_within_maximum(self) -> "GraderSettings":
        if self.item_timeout_s > self.max_item_timeout_s:
            raise ValueError("item_timeout_s is above max_item_timeout_s")
        return self
