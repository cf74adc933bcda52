"""Runs, events, checkpoints, leases, models, services."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_runs()
    _create_what_belongs_to_runs()
    _create_models_and_services()


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String, primary_key=True),
        sa.Column("request_id", sa.String, unique=True),
        sa.Column("recipe", sa.String, nullable=False),
        sa.Column("config", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("total_steps", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("create_time_ns", sa.BigInteger, nullable=False),
        sa.Column("end_time_ns", sa.BigInteger),
        sa.Column("error_reason", sa.String, nullable=False),
        sa.Column("error_message", sa.Text, nullable=False),
        sa.Column("checkpoint_uri", sa.String, nullable=False),
        sa.Column("sampler_uri", sa.String, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("display_name", sa.String, nullable=False),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("last_event_seq", sa.BigInteger, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
    )
    op.create_index("runs_newest_first", "runs", ["create_time_ns", "run_id"])


def _create_what_belongs_to_runs() -> None:
    op.create_table(
        "events",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("event", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "checkpoints",
        sa.Column("checkpoint_uri", sa.String, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("sampler_uri", sa.String, nullable=False),
        sa.Column("adapter_sha256", sa.String, nullable=False),
        sa.Column("unusable", sa.Boolean, nullable=False),
    )
    op.create_index("checkpoints_of_a_run", "checkpoints", ["run_id", "step"])
    op.create_table(
        "leases",
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("expire_time_ns", sa.BigInteger, nullable=False),
    )


def _create_models_and_services() -> None:
    op.create_table(
        "models",
        sa.Column("model_id", sa.String, primary_key=True),
        sa.Column("run_id", sa.String, sa.ForeignKey("runs.run_id"), nullable=False),
        sa.Column("display_name", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("sampler_uri", sa.String, nullable=False),
        sa.Column("checkpoint_uri", sa.String, nullable=False),
        sa.Column("parents", sa.Text, nullable=False),
        sa.Column("dataset_fingerprint", sa.String, nullable=False),
        sa.Column("config_sha256", sa.String, nullable=False),
        sa.Column("metrics", sa.Text, nullable=False),
        sa.Column("create_time_ns", sa.BigInteger, nullable=False),
    )
    op.create_index("models_newest_first", "models", ["create_time_ns", "model_id"])
    op.create_table(
        "services",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("kind", sa.Integer, nullable=False),
        sa.Column("address", sa.String, nullable=False),
    )
