"""Keys, charges, jobs and their files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "keys",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("credits", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("revoked_ms", sa.BigInteger),
        sa.CheckConstraint("credits >= 0", name="credits_are_never_negative"),
    )
    op.create_table(
        "charges",
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(64), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("credits", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("settled_ms", sa.BigInteger),
        sa.CheckConstraint("credits >= 0", name="charges_are_never_negative"),
    )
    op.create_index("charges_by_state", "charges", ["instance", "state"])
    _create_jobs()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("key", sa.String(64), sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(64)),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("work", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger),
        sa.Column("expires_ms", sa.BigInteger),
        sa.UniqueConstraint("key", "idempotency_key", name="one_job_per_idempotency_key"),
    )
    op.create_index("jobs_by_state", "jobs", ["instance", "state"])
    op.create_index("jobs_by_expiry", "jobs", ["expires_ms"])
    op.create_table(
        "files",
        sa.Column("job", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("files", "jobs", "charges", "keys"):
        op.drop_table(table)
