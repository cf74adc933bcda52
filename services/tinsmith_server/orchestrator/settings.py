"""Settings of the orchestrator process."""

from pydantic import Field

from tinsmith_server.serving import RoomSettings


class OrchestratorSettings(RoomSettings):
    """Where the services are that runs use, and how patient runs are with them."""

    address: str = Field("127.0.0.1:50056", description="gRPC address: host:port, or unix:path")
    trainer: str = Field("127.0.0.1:50051", description="address of the trainer")
    sampler: str = Field("127.0.0.1:50052", description="address of the sampler")
    dataset: str = Field("127.0.0.1:50053", description="address of the dataset and renderer service")
    grader: str = Field("127.0.0.1:50054", description="address of the grader")
    environment: str = Field("127.0.0.1:50055", description="address of the environment service")
    patience_s: float = Field(120.0, gt=0, description="how long a run waits for a service that is away")
    call_timeout_s: float = Field(600.0, gt=0, description="longest that one call of a run may take")
    max_recoveries: int = Field(5, ge=0, description="recoveries in a row that bring no new step before a run fails")
    max_running: int = Field(16, gt=0, description="runs that this process drives at once; more wait")
    lease_s: float = Field(5.0, gt=0, description="how long after its last sign another orchestrator may take a run")
    poll_s: float = Field(1.0, gt=0, description="how often leases are renewed and runs without a driver looked for")
    watch_heartbeat_s: float = Field(5.0, gt=0, description="longest silence of a watch")
