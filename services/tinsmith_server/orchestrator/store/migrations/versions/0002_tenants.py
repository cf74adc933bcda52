"""The tenant that started a run. Runs of before belong to none."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("tenant", sa.String, nullable=False, server_default=""))
