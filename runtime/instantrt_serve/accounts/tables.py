"""The tables. `migrations/` makes them; a test holds the two against each other."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

ID_CHARACTERS = 64
NAME_CHARACTERS = 200
STATE_CHARACTERS = 16

metadata = MetaData()

keys = Table(
    "keys",
    metadata,
    Column("id", String(ID_CHARACTERS), primary_key=True),
    Column("name", String(NAME_CHARACTERS), nullable=False),
    Column("hash", String(ID_CHARACTERS), nullable=False),  # SHA-256 of the whole key, hexadecimal
    Column("credits", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),  # since 1970, as everywhere here
    Column("revoked_ms", BigInteger),
    CheckConstraint("credits >= 0", name="credits_are_never_negative"),
)

charges = Table(
    "charges",
    metadata,
    Column("job", String(ID_CHARACTERS), primary_key=True),  # so a job is charged once
    Column("key", String(ID_CHARACTERS), ForeignKey("keys.id"), nullable=False),
    Column("instance", String(ID_CHARACTERS), nullable=False),  # the server that has to settle it
    Column("credits", BigInteger, nullable=False),
    Column("state", String(STATE_CHARACTERS), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("settled_ms", BigInteger),
    CheckConstraint("credits >= 0", name="charges_are_never_negative"),
    Index("charges_by_state", "instance", "state"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(ID_CHARACTERS), primary_key=True),
    Column("key", String(ID_CHARACTERS), ForeignKey("keys.id"), nullable=False),
    Column("instance", String(ID_CHARACTERS), nullable=False),
    Column("idempotency_key", String(ID_CHARACTERS)),  # SHA-256 of what the client sent
    Column("fingerprint", String(ID_CHARACTERS), nullable=False),  # SHA-256 of all that was asked for
    Column("work", Text, nullable=False),  # JSON
    Column("state", String(STATE_CHARACTERS), nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("outcome", Text),  # JSON: the result, or the error
    Column("created_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("expires_ms", BigInteger),
    UniqueConstraint("key", "idempotency_key", name="one_job_per_idempotency_key"),
    Index("jobs_by_state", "instance", "state"),
    Index("jobs_by_expiry", "expires_ms"),
)

files = Table(
    "files",
    metadata,
    Column("job", String(ID_CHARACTERS), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(STATE_CHARACTERS), primary_key=True),  # face, pose, or the number of a picture
    Column("data", LargeBinary, nullable=False),
)
