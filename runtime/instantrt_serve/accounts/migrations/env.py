"""Alembic's entry: migrations run in the transaction of the connection that :meth:`Database.migrate` hands over."""

from __future__ import annotations

from alembic import context

from instantrt_serve.accounts.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
