"""Credits: reserved before the work, then taken or given back, exactly once whatever dies in between.

A charge belongs to a job by the job's id. Its state changes in the transaction that changes the key's credits, and only
from ``reserved``; so a repeated call changes nothing, and after a crash either both were written or neither.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Connection, insert, select, update

from instantrt_serve.accounts import tables
from instantrt_serve.accounts.database import now_ms
from instantrt_serve.errors import ApiError


class ChargeState(StrEnum):
    """What became of a charge."""

    RESERVED = "reserved"
    COMMITTED = "committed"
    REFUNDED = "refunded"


def price(samples: int, steps: int, credits_per_10_steps: int) -> int:
    """Credits for a request: pictures x price x started tens of steps."""
    return samples * credits_per_10_steps * -(-steps // 10)


def remaining(connection: Connection, key_id: str) -> int:
    """A key's credits, without those that are reserved."""
    found = connection.execute(select(tables.keys.c.credits).where(tables.keys.c.id == key_id)).scalar_one()
    return int(found)


def reserve(connection: Connection, job: str, key_id: str, credits_: int, instance: str) -> int:
    """Set credits aside for a job, and give what is left. A job that has a charge already gets no second one.

    Raises:
        ApiError: ``credits``: the key has too few of them; ``unauthorized``: it was revoked meanwhile.
    """
    if connection.execute(select(tables.charges.c.job).where(tables.charges.c.job == job)).first() is not None:
        return remaining(connection, key_id)
    enough = (tables.keys.c.id == key_id) & tables.keys.c.revoked_ms.is_(None) & (tables.keys.c.credits >= credits_)
    taken = update(tables.keys).where(enough).values(credits=tables.keys.c.credits - credits_)
    left = connection.execute(taken.returning(tables.keys.c.credits)).scalar()
    if left is None:
        raise _refusal(connection, key_id, credits_)
    values = {"job": job, "key": key_id, "instance": instance, "credits": credits_}
    values |= {"state": ChargeState.RESERVED, "created_ms": now_ms()}
    connection.execute(insert(tables.charges).values(values))
    return int(left)


def settle(connection: Connection, job: str, state: ChargeState) -> int | None:
    """Take a job's reserved credits, or give them back, and say what the key has then; None without such a charge.

    A charge that is settled stays as it is, whichever way.
    """
    this = tables.charges.c.job == job
    settled = update(tables.charges).where(this & (tables.charges.c.state == ChargeState.RESERVED))
    settled = settled.values(state=state, settled_ms=now_ms())
    charge = connection.execute(settled.returning(tables.charges.c.key, tables.charges.c.credits)).first()
    if charge is None:
        before = connection.execute(select(tables.charges.c.key).where(this)).first()
        return None if before is None else remaining(connection, before.key)
    if state == ChargeState.REFUNDED:
        back = update(tables.keys).where(tables.keys.c.id == charge.key)
        connection.execute(back.values(credits=tables.keys.c.credits + charge.credits))
    return remaining(connection, charge.key)


def refund_orphans(connection: Connection, instance: str) -> int:
    """After a crash: give back what is reserved for requests that nobody waits for any more, and say how many.

    Jobs of v2 that have not ended keep theirs: they are done again.
    """
    unended = select(tables.jobs.c.id).where(tables.jobs.c.ended_ms.is_(None))
    orphans = select(tables.charges.c.job).where(
        tables.charges.c.instance == instance,
        tables.charges.c.state == ChargeState.RESERVED,
        tables.charges.c.job.not_in(unended),
    )
    found = connection.execute(orphans).scalars().all()
    for job in found:
        settle(connection, job, ChargeState.REFUNDED)
    return len(found)


def _refusal(connection: Connection, key_id: str, credits_: int) -> ApiError:
    key = connection.execute(select(tables.keys).where(tables.keys.c.id == key_id)).one()
    if key.revoked_ms is not None:
        return ApiError("unauthorized", "the key was revoked", found=key_id, hint="ask the operator for a new one")
    found = f"{key.credits:,} left, {credits_:,} needed"
    hint = "ask for fewer pictures or steps, or have credits granted"
    return ApiError("credits", "the key has too few credits", found=found, hint=hint)
