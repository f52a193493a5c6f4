"""Keys and credits: hashed, never negative, charged once; the tables are those that migrations make."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, create_mock_engine, select

from instantrt.errors import InstantRTError
from instantrt_serve.accounts import keys, ledger, tables
from instantrt_serve.accounts.database import Database, DatabaseError, StorageError
from instantrt_serve.accounts.ledger import ChargeState, price
from instantrt_serve.errors import ApiError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path}/a.db")
    opened.migrate()
    yield opened
    opened.close()


def test_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    with database.transaction() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    database.migrate()


def test_the_tables_can_be_made_in_postgresql() -> None:
    statements: list[str] = []
    engine = create_mock_engine("postgresql+psycopg://", lambda sql, *_: statements.append(str(sql.compile(engine))))
    tables.metadata.create_all(engine, checkfirst=False)
    assert len([statement for statement in statements if "CREATE TABLE" in statement]) == 4
    assert "BYTEA" in "".join(statements)


def test_a_database_of_a_later_version_is_refused(database: Database) -> None:
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DatabaseError, match="another version"):
        database.migrate()


@pytest.mark.parametrize("url", ["", "nothing", "oracle9://x", "sqlite:////nowhere/at/all.db"])
def test_a_database_that_cannot_be_opened(url: str) -> None:
    with pytest.raises(InstantRTError) as caught:
        Database(url).migrate()
    assert caught.value.hint


def test_the_database_keeps_a_hash_and_not_the_key(database: Database, tmp_path: Path) -> None:
    key, text = database.run(keys.create_key, "me", 3)
    assert database.run(keys.authenticate, text) == key
    with database.transaction() as connection:
        connection.exec_driver_sql("SELECT 1")
    secret = text.rpartition("_")[2].encode()
    assert not [path for path in tmp_path.iterdir() if secret in path.read_bytes()]


def test_other_texts_are_no_keys(database: Database) -> None:
    key, text = database.run(keys.create_key, "me", 3)
    other, _ = database.run(keys.create_key, "other", 3)
    for wrong in (
        "",
        text[:-1],
        text + "0",
        text.upper(),
        text.replace(key.id, other.id),
        f"irt_{'0' * 12}_{'0' * 64}",
    ):
        assert database.run(keys.authenticate, wrong) is None
    database.run(keys.revoke_key, key.id)
    database.run(keys.revoke_key, key.id)
    assert database.run(keys.authenticate, text) is None
    database.run(keys.local_key)
    assert database.run(keys.authenticate, "") is None


def test_keys_are_compared_in_constant_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    _, text = database.run(keys.create_key, "me", 3)
    for sent in (text, "", "irt_0", f"irt_{'0' * 12}_{'0' * 64}"):
        database.run(keys.authenticate, sent)
    assert compared == [(64, 64)] * 4


@pytest.mark.parametrize(
    ("name", "credits_"), [("", 1), (" ", 1), ("a\n", 1), ("a" * 201, 1), ("a", -1), ("a", 10**16)]
)
def test_keys_that_cannot_be_made(name: str, credits_: int, database: Database) -> None:
    with pytest.raises(keys.AccountError):
        database.run(keys.create_key, name, credits_)
    assert database.run(keys.list_keys) == []


def test_credits_are_granted_and_taken_away_and_never_negative(database: Database) -> None:
    key, _ = database.run(keys.create_key, "me", 3)
    assert database.run(keys.grant_credits, key.id, 4).credits == 7
    assert database.run(keys.grant_credits, key.id, -7).credits == 0
    for credits_ in (-1, 10**16):
        with pytest.raises(keys.AccountError):
            database.run(keys.grant_credits, key.id, credits_)
    with pytest.raises(keys.AccountError, match="no such key"):
        database.run(keys.grant_credits, "nobody", 1)


def test_prices() -> None:
    assert [price(1, steps, 3) for steps in (4, 10, 11, 20, 21, 100)] == [3, 3, 6, 6, 9, 30]
    assert price(4, 25, 2) == 24


def test_many_threads_cannot_spend_more_than_there_is(tmp_path: Path, database: Database) -> None:
    """Through connections of several databases' pools, as several processes would."""
    key, _ = database.run(keys.create_key, "me", 10)
    others = [Database(f"sqlite:///{tmp_path}/a.db") for _ in range(4)]

    def spend(number: int) -> bool:
        try:
            others[number % 4].run(ledger.reserve, f"job {number}", key.id, 1, "main")
        except ApiError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(spend, range(30))) == 10
    for other in others:
        other.close()
    assert database.run(ledger.remaining, key.id) == 0


class Ledger(RuleBasedStateMachine):
    """Any order of charges, repeated calls and crashes: credits add up, and none is charged twice or negative."""

    database: Database

    @initialize(credits_=st.integers(0, 20))
    def open(self, credits_: int) -> None:
        self.key = self.database.run(keys.create_key, "me", credits_)[0].id
        self.granted, self.states, self.costs = credits_, dict[str, str](), dict[str, int]()

    @rule(job=st.integers(0, 5), cost=st.integers(0, 8))
    def reserve(self, job: int, cost: int) -> None:
        name = f"{self.key} {job}"
        if name not in self.states and cost > self.left:
            with pytest.raises(ApiError, match="too few credits"):
                self.database.run(ledger.reserve, name, self.key, cost, self.key)
            return
        left = self.database.run(ledger.reserve, name, self.key, cost, self.key)
        if name not in self.states:
            self.states[name], self.costs[name] = "reserved", cost
        assert left == self.left

    @rule(job=st.integers(0, 5), state=st.sampled_from([ChargeState.COMMITTED, ChargeState.REFUNDED]))
    def settle(self, job: int, state: ChargeState) -> None:
        name = f"{self.key} {job}"
        if self.states.get(name) == "reserved":
            self.states[name] = state
        left = self.database.run(ledger.settle, name, state)
        assert left == (self.left if name in self.states else None)

    @rule(credits_=st.integers(-5, 5))
    def grant(self, credits_: int) -> None:
        if self.left + credits_ < 0:
            with pytest.raises(keys.AccountError):
                self.database.run(keys.grant_credits, self.key, credits_)
        else:
            self.granted += credits_
            self.database.run(keys.grant_credits, self.key, credits_)

    @rule()
    def crash(self) -> None:
        waiting = [name for name, state in self.states.items() if state == "reserved"]
        assert self.database.run(ledger.refund_orphans, self.key) == len(waiting)
        self.states |= dict.fromkeys(waiting, "refunded")

    @property
    def left(self) -> int:
        return self.granted - sum(self.costs[name] for name, state in self.states.items() if state != "refunded")

    @invariant()
    def credits_add_up(self) -> None:
        if hasattr(self, "key"):
            assert self.database.run(ledger.remaining, self.key) == self.left >= 0


def test_credits_add_up_whatever_happens(database: Database) -> None:
    machine = type("Machine", (Ledger,), {"database": database})
    run_state_machine_as_test(machine, settings=settings(max_examples=30, stateful_step_count=20, deadline=None))


def test_another_servers_charges_are_left_alone(database: Database) -> None:
    key, _ = database.run(keys.create_key, "me", 5)
    database.run(ledger.reserve, "job", key.id, 2, "other")
    assert database.run(ledger.refund_orphans, "main") == 0
    assert database.run(ledger.remaining, key.id) == 3


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    key, _ = database.run(keys.create_key, "me", 5)

    def reserve_and_break(connection: Connection) -> None:
        ledger.reserve(connection, "job", key.id, 2, "main")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.run(reserve_and_break)
    assert database.run(ledger.remaining, key.id) == 5
    with database.transaction() as connection:
        assert connection.execute(select(tables.charges)).all() == []


def test_what_the_database_says_shows_no_values(tmp_path: Path, database: Database) -> None:
    with sqlite3.connect(tmp_path / "a.db") as other:
        other.execute("DROP TABLE charges")
    other.close()
    key, _ = database.run(keys.create_key, "me", 5)
    with pytest.raises(StorageError) as caught:
        database.run(ledger.reserve, "a secret job", key.id, 2, "main")
    assert "secret" not in str(caught.value)
    assert database.run(ledger.remaining, key.id) == 5
