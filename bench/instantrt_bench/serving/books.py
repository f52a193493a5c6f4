"""A server's books after a load test: whether every credit is where it belongs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import create_engine, select

from instantrt_bench.serving.outcome import CANCELLED, DONE, Answer
from instantrt_serve.accounts import tables
from instantrt_serve.accounts.ledger import ChargeState


@dataclass(frozen=True)
class Charge:
    """What a request was charged, and what became of that."""

    credits: int
    state: str


def read_charges(database: str) -> dict[str, Charge]:
    """All charges by the id of the request or job."""
    engine = create_engine(database)
    try:
        with engine.connect() as connection:
            rows = connection.execute(select(tables.charges)).all()
    finally:
        engine.dispose()
    return {row.job: Charge(row.credits, row.state) for row in rows}


def credit_error(answers: Iterable[Answer], charges: dict[str, Charge], granted: int, left: int) -> int:
    """Credits that are not where they belong, all together; 0 if every one is.

    What was done is charged once; what failed or was refused is not charged. A client that goes away may do so before
    or after its pictures were made, so what it was charged is taken as the books have it, but has to be settled too.

    Args:
        answers: what clients saw.
        charges: the books, all of them of these answers.
        granted: credits of all accounts at the beginning.
        left: likewise at the end.
    """
    taken = sum(charge.credits for charge in charges.values() if charge.state == ChargeState.COMMITTED)
    unsettled = sum(charge.credits for charge in charges.values() if charge.state == ChargeState.RESERVED)
    wrong = sum(_wrong(answer, charges) for answer in answers if answer.outcome != CANCELLED)
    return abs(granted - left - taken) + unsettled + wrong


def _wrong(answer: Answer, charges: dict[str, Charge]) -> int:
    own = [charges[job] for job in answer.charges if job in charges]
    taken = [charge for charge in own if charge.state == ChargeState.COMMITTED]
    if answer.outcome != DONE:
        return sum(charge.credits for charge in taken)
    return abs(len(taken) - 1) * max([1, *(charge.credits for charge in own)])
