"""Alembic's environment: runs the migrations on the connection of :func:`freshdb_service.migrations.upgrade`."""

from __future__ import annotations

from alembic import context

from freshdb_service.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
