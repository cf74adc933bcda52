"""Settings of the environment process."""

from pydantic import Field

from tinsmith_server.serving import RoomSettings


class EnvironmentSettings(RoomSettings):
    """How many episodes live here, for how long, and who grades them."""

    address: str = Field("127.0.0.1:50055", description="gRPC address: host:port, or unix:path")
    grader: str = Field("127.0.0.1:50054", description="address of the grader")
    max_episodes: int = Field(65536, gt=0, description="most episodes at a time")
    idle_timeout_s: float = Field(900.0, gt=0, description="life of an episode that nobody touches")
    done_timeout_s: float = Field(60.0, gt=0, description="how long an episode that is over is remembered")
    remembered_calls: int = Field(256, gt=0, description="answers kept for calls that are repeated")
