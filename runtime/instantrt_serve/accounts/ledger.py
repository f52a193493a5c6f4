"""Credits: reserved before the work, then taken or given back, exactly once whatever dies in between.

A charge belongs to a job by the job's id. Its state changes in the transaction that changes the key's credits, and only
from ``reserved``; so a repeated call changes nothing, and after a crash either both were written or neither.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Connection, bindparam, insert, select, update

from instantrt_serve.accounts import tables
from instantrt_serve.accounts.database import now_ms
from instantrt_serve.errors import ApiError


class ChargeState(StrEnum):
    """What became of a charge."""

    RESERVED = "reserved"
    COMMITTED = "committed"
    REFUNDED = "refunded"


# Statements are made once: making them takes SQLAlchemy longer than SQLite needs to carry them out.
_KEYS, _CHARGES = tables.keys.c, tables.charges.c
_ENOUGH = (_KEYS.id == bindparam("key_")) & _KEYS.revoked_ms.is_(None) & (_KEYS.credits >= bindparam("price"))
_REMAINING = select(_KEYS.credits).where(_KEYS.id == bindparam("key_"))
_CHARGED_KEY = select(_CHARGES.key).where(_CHARGES.job == bindparam("job_"))
_TAKE = update(tables.keys).where(_ENOUGH).values(credits=_KEYS.credits - bindparam("price")).returning(_KEYS.credits)
_CHARGE = insert(tables.charges)
_SETTLE = (
    update(tables.charges)
    .where((_CHARGES.job == bindparam("job_")) & (_CHARGES.state == ChargeState.RESERVED))
    .values(state=bindparam("state_"), settled_ms=bindparam("now_ms"))
    .returning(_CHARGES.key, _CHARGES.credits)
)
_GIVE_BACK = (
    update(tables.keys)
    .where(_KEYS.id == bindparam("key_"))
    .values(credits=_KEYS.credits + bindparam("price"))
    .returning(_KEYS.credits)
)


def price(samples: int, steps: int, credits_per_10_steps: int) -> int:
    """Credits for a request: pictures x price x started tens of steps."""
    return samples * credits_per_10_steps * -(-steps // 10)


def remaining(connection: Connection, key_id: str) -> int:
    """A key's credits, without those that are reserved."""
    return int(connection.execute(_REMAINING, {"key_": key_id}).scalar_one())


def reserve(connection: Connection, job: str, key_id: str, credits_: int, instance: str) -> int:
    """Set credits aside for a job, and give what is left. A job that has a charge already gets no second one.

    Raises:
        ApiError: ``credits``: the key has too few of them; ``unauthorized``: it was revoked meanwhile.
    """
    if connection.execute(_CHARGED_KEY, {"job_": job}).first() is not None:
        return remaining(connection, key_id)
    left = connection.execute(_TAKE, {"key_": key_id, "price": credits_}).scalar()
    if left is None:
        raise _refusal(connection, key_id, credits_)
    values = {"job": job, "key": key_id, "instance": instance, "credits": credits_}
    values |= {"state": ChargeState.RESERVED, "created_ms": now_ms()}
    connection.execute(_CHARGE, values)
    return int(left)


def settle(connection: Connection, job: str, state: ChargeState) -> int | None:
    """Take a job's reserved credits, or give them back, and say what the key has then; None without such a charge.

    A charge that is settled stays as it is, whichever way.
    """
    charge = connection.execute(_SETTLE, {"job_": job, "state_": state, "now_ms": now_ms()}).first()
    if charge is None:
        before = connection.execute(_CHARGED_KEY, {"job_": job}).first()
        return None if before is None else remaining(connection, before.key)
    if state == ChargeState.REFUNDED:
        return int(connection.execute(_GIVE_BACK, {"key_": charge.key, "price": charge.credits}).scalar_one())
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
