"""Settings of the gateway."""

from pydantic import Field

from tinsmith_server.serving import RoomSettings


class GatewaySettings(RoomSettings):
    """Where the gateway listens, and where the services are that it speaks to."""

    address: str = Field("127.0.0.1:50057", description="gRPC address: every service behind one")
    http_address: str = Field("127.0.0.1:8080", description="HTTP address: host:port, port 0 takes a free one")
    trainer: str = Field("127.0.0.1:50051", description="address of the trainer")
    sampler: str = Field("127.0.0.1:50052", description="address of the sampler")
    dataset: str = Field("127.0.0.1:50053", description="address of the dataset and renderer service")
    grader: str = Field("127.0.0.1:50054", description="address of the grader")
    environment: str = Field("127.0.0.1:50055", description="address of the environment service")
    orchestrator: str = Field("127.0.0.1:50056", description="address of the orchestrator")
