"""The tables. `migrations/` brings a database to this shape; a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("request_id", String, unique=True),
    Column("recipe", String, nullable=False),
    Column("config", LargeBinary, nullable=False),  # RecipeConfig with every default filled in
    Column("state", Integer, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("total_steps", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),  # how often driving has begun
    Column("create_time_ns", BigInteger, nullable=False),
    Column("end_time_ns", BigInteger),
    Column("error_reason", String, nullable=False),
    Column("error_message", Text, nullable=False),
    Column("checkpoint_uri", String, nullable=False),
    Column("sampler_uri", String, nullable=False),
    Column("metrics", Text, nullable=False),  # JSON object
    Column("display_name", String, nullable=False),
    Column("labels", Text, nullable=False),  # JSON object
    Column("last_event_seq", BigInteger, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("tenant", String, nullable=False, server_default=""),  # that started it; empty where there are no keys
    Index("runs_newest_first", "create_time_ns", "run_id"),
)

events = Table(
    "events",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("event", LargeBinary, nullable=False),  # RunEvent
    sqlite_with_rowid=False,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("checkpoint_uri", String, primary_key=True),
    Column("run_id", String, ForeignKey("runs.run_id"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("sampler_uri", String, nullable=False),
    Column("adapter_sha256", String, nullable=False),
    Column("unusable", Boolean, nullable=False),
    Index("checkpoints_of_a_run", "run_id", "step"),
)

leases = Table(
    "leases",
    metadata,
    Column("run_id", String, ForeignKey("runs.run_id"), primary_key=True),
    Column("owner", String, nullable=False),
    Column("expire_time_ns", BigInteger, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("model_id", String, primary_key=True),
    Column("run_id", String, ForeignKey("runs.run_id"), nullable=False),
    Column("display_name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("sampler_uri", String, nullable=False),
    Column("checkpoint_uri", String, nullable=False),
    Column("parents", Text, nullable=False),  # JSON array
    Column("dataset_fingerprint", String, nullable=False),
    Column("config_sha256", String, nullable=False),
    Column("metrics", Text, nullable=False),  # JSON object
    Column("create_time_ns", BigInteger, nullable=False),
    Index("models_newest_first", "create_time_ns", "model_id"),
)

services = Table(
    "services",
    metadata,
    Column("name", String, primary_key=True),
    Column("kind", Integer, nullable=False),
    Column("address", String, nullable=False),
)
