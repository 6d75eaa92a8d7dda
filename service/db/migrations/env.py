"""Run by alembic: applies the steps on the connection that :func:`service.db.migrate.upgrade` opened, in its transaction."""

from __future__ import annotations

from alembic import context

from service.db.tables import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
context.run_migrations()
