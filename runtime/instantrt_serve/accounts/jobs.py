"""Jobs of v2 in SQL: what was asked for until they end, what came of it until that expires."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update

from instantrt_serve.accounts import ledger, tables
from instantrt_serve.accounts.database import now_ms
from instantrt_serve.accounts.ledger import ChargeState
from instantrt_serve.errors import ApiError


class JobState(StrEnum):
    """How a job stands in the database. Whether a queued one runs just now only the server knows that runs it."""

    QUEUED = "queued"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Job:
    """A job.

    Args:
        id: unguessable.
        key: id of the key that asked for it.
        work: the fields of :class:`instantrt_serve.messages.Submit` that are plain data, and ``base64``.
        state: how it stands.
        attempts: how often it was begun.
        outcome: of a job that has ended: what the client is told of its pictures, or its error.
        created_ms: since 1970.
        expires_ms: likewise; then it is forgotten.
    """

    id: str
    key: str
    work: dict[str, Any]
    state: JobState
    attempts: int
    outcome: dict[str, Any] | None
    created_ms: int
    expires_ms: int | None


@dataclass(frozen=True)
class NewJob:
    """What :func:`submit` takes.

    Args:
        id: of the job.
        key: id of the key that asks.
        instance: name of the server that is to do it.
        idempotency_key: SHA-256 of the client's, or None.
        fingerprint: SHA-256 of all that is asked for.
        work: plain data.
        files: photos by name.
        credits: what it costs.
        most: jobs of this server that may be open at once.
    """

    id: str
    key: str
    instance: str
    idempotency_key: str | None
    fingerprint: str
    work: dict[str, Any]
    files: Mapping[str, bytes]
    credits: int
    most: int


def submit(connection: Connection, new: NewJob) -> tuple[Job, int, bool]:
    """Reserve the price and keep the job, or neither.

    Returns:
        The job, the key's credits, and whether the job is new: with an idempotency key that was used, it is the one
        of that time.

    Raises:
        ApiError: too few credits, too many open jobs, or an idempotency key that was used for something else.
    """
    earlier = _earlier(connection, new)
    if earlier is not None:
        return earlier, ledger.remaining(connection, new.key), False
    unended = select(func.count()).where(_unended(new.instance))
    if connection.execute(unended).scalar_one() >= new.most:
        hint = "wait until some of them have ended"
        raise ApiError("queue_full", "too many jobs are open", found=f"{new.most:,}", hint=hint)
    left = ledger.reserve(connection, new.id, new.key, new.credits, new.instance)
    values = {name: getattr(new, name) for name in ("id", "key", "instance", "idempotency_key", "fingerprint")}
    values |= {"work": json.dumps(new.work), "state": JobState.QUEUED, "attempts": 0, "created_ms": now_ms()}
    connection.execute(insert(tables.jobs).values(values))
    _keep_files(connection, new.id, new.files)
    return _required(connection, new.id), left, True


def find(connection: Connection, job: str, key: str | None = None) -> Job | None:
    """A job, of this key if one is given; those that have expired are not found."""
    query = select(tables.jobs).where(tables.jobs.c.id == job)
    row = connection.execute(query if key is None else query.where(tables.jobs.c.key == key)).first()
    return None if row is None or (row.expires_ms is not None and row.expires_ms <= now_ms()) else _job(row)


def open_ids(connection: Connection, instance: str) -> list[str]:
    """Jobs of a server that have not ended, oldest first."""
    query = select(tables.jobs.c.id).where(_unended(instance)).order_by(tables.jobs.c.created_ms, tables.jobs.c.id)
    return list(connection.execute(query).scalars())


def begin(connection: Connection, job: str) -> tuple[Job, dict[str, bytes]] | None:
    """Count an attempt, and give the job with its photos; None if it has ended."""
    counted = update(tables.jobs).where(_open(job)).values(attempts=tables.jobs.c.attempts + 1)
    if connection.execute(counted).rowcount == 0:
        return None
    return _required(connection, job), files_of(connection, job)


def end(
    connection: Connection,
    job: str,
    state: JobState,
    outcome: dict[str, Any],
    pictures: Mapping[str, bytes],
    expires_ms: int,
) -> int | None:
    """Keep what came of a job, forget its photos, and settle its charge; all or nothing.

    Returns:
        The key's credits; None if it had ended before, which stays as it is.
    """
    values = {"state": state, "outcome": json.dumps(outcome), "ended_ms": now_ms(), "expires_ms": expires_ms}
    # A prompt is not kept longer than it is needed.
    if connection.execute(update(tables.jobs).where(_open(job)).values(**values, work="{}")).rowcount == 0:
        return None
    connection.execute(delete(tables.files).where(tables.files.c.job == job))
    _keep_files(connection, job, pictures)
    return ledger.settle(connection, job, ChargeState.COMMITTED if state is JobState.DONE else ChargeState.REFUNDED)


def files_of(connection: Connection, job: str) -> dict[str, bytes]:
    """A job's files by name: photos of one that is open, pictures of one that is done."""
    query = select(tables.files.c.name, tables.files.c.data).where(tables.files.c.job == job)
    return {name: bytes(data) for name, data in connection.execute(query.order_by(tables.files.c.name))}


def forget_expired(connection: Connection) -> int:
    """Remove what has expired, and say how many jobs that were."""
    expired = select(tables.jobs.c.id).where(tables.jobs.c.expires_ms <= now_ms())
    connection.execute(delete(tables.files).where(tables.files.c.job.in_(expired)))
    return connection.execute(delete(tables.jobs).where(tables.jobs.c.expires_ms <= now_ms())).rowcount


def _unended(instance: str) -> ColumnElement[bool]:
    """A server's jobs that have not ended, in the columns of the index ``jobs_by_state``."""
    return (tables.jobs.c.instance == instance) & (tables.jobs.c.state == JobState.QUEUED)


def _open(job: str) -> ColumnElement[bool]:
    """The job with this id, unless it has ended."""
    return (tables.jobs.c.id == job) & (tables.jobs.c.state == JobState.QUEUED)


def _earlier(connection: Connection, new: NewJob) -> Job | None:
    if new.idempotency_key is None:
        return None
    same = (tables.jobs.c.key == new.key) & (tables.jobs.c.idempotency_key == new.idempotency_key)
    row = connection.execute(select(tables.jobs).where(same)).first()
    if row is not None and row.fingerprint != new.fingerprint:
        hint = "send the same body again, or another Idempotency-Key"
        raise ApiError("idempotency", "the Idempotency-Key was used for another request", found=row.id, hint=hint)
    return None if row is None else _job(row)


def _keep_files(connection: Connection, job: str, files: Mapping[str, bytes]) -> None:
    if files:
        rows = [{"job": job, "name": name, "data": data} for name, data in files.items()]
        connection.execute(insert(tables.files), rows)


def _required(connection: Connection, job: str) -> Job:
    return _job(connection.execute(select(tables.jobs).where(tables.jobs.c.id == job)).one())


def _job(row: Row[*tuple[object, ...]]) -> Job:
    outcome = None if row.outcome is None else json.loads(row.outcome)
    state = JobState(row.state)
    work = json.loads(row.work)
    return Job(row.id, row.key, work, state, row.attempts, outcome, row.created_ms, row.expires_ms)
