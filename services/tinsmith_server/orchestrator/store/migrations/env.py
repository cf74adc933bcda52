"""Alembic's entry: migrates the connection that `database.py` hands over."""

from alembic import context

from tinsmith_server.orchestrator.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
