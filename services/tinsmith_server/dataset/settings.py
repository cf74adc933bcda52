"""Settings of the dataset process."""

from pathlib import Path

from pydantic import Field

from tinsmith_server.serving import CommaSeparated, RoomSettings


class DatasetSettings(RoomSettings):
    """Where data may come from, and how much of them is kept."""

    address: str = Field("127.0.0.1:50053", description="gRPC address: host:port, or unix:path")
    base_models: CommaSeparated = Field(
        ("tinsmith-tiny",), description="models whose tokenizers are served: embedded names, directories or hub ids"
    )
    data_root: str = Field("", description="folder below which files may be read; empty means <home>/data")
    mirror_root: str = Field("", description="folder that has organisation/name in the place of the hub; empty: none")
    cached_datasets: int = Field(64, gt=0, description="opened datasets that are kept")
    cache_bytes: int = Field(1 << 30, ge=0, description="memory for the rows of opened datasets, about")
    max_file_bytes: int = Field(1 << 31, gt=0, description="largest text file that is read, uncompressed")
    filter_timeout_s: float = Field(60.0, gt=0, description="longest time that one filter may take")

    @property
    def data_directory(self) -> Path:
        return Path(self.data_root).expanduser() if self.data_root else self.home / "data"

    @property
    def mirror_directory(self) -> Path | None:
        return Path(self.mirror_root).expanduser() if self.mirror_root else None

    @property
    def hub_cache(self) -> Path:
        return self.home / "datasets"
