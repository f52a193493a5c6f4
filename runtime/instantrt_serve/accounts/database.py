"""The database, and the threads in which it is asked: the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from instantrt.errors import InstantRTError, MissingExtraError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_TIMEOUT_S = 10  # for other processes that write, such as `instantrt keys`
POSTGRESQL_THREADS = 8


class StorageError(InstantRTError):
    """The database cannot be read or written: a full disk, missing rights, no connection."""

    code = "storage"


class DatabaseError(InstantRTError):
    """What was given as database is none of ours."""

    code = "database"


class Database:
    """Keys, credits and jobs.

    Args:
        url: as SQLAlchemy writes it, e.g. ``sqlite:///instantrt.db`` or ``postgresql+psycopg://user@host/name``.

    Raises:
        DatabaseError: the address cannot be understood.
        MissingExtraError: the database's driver is not installed.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        is_sqlite = self._engine.dialect.name == "sqlite"
        # SQLite has one writer at a time: waiting in line is quicker than its polling for the lock.
        self._threads = ThreadPoolExecutor(1 if is_sqlite else POSTGRESQL_THREADS, thread_name_prefix="database")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction: all of it, or nothing if it is left with an error.

        Raises:
            StorageError: the database refuses.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            # Drivers put values into their messages, so the kind of error is all that is said.
            found = str(getattr(error.orig, "sqlite_errorname", type(error.orig).__name__))
            hint = "make room on the disk, or see to the database and its permissions"
            raise StorageError("the server cannot read or write its records", found=found, hint=hint) from None

    def run(
        self,
        act: Callable[Concatenate[Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """``act(connection, ...)`` in a transaction of its own."""
        with self.transaction() as connection:
            return act(connection, *args, **kwargs)

    async def arun(
        self,
        act: Callable[Concatenate[Connection, Parameters], Result],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Result:
        """:meth:`run` beside the event loop. A transaction whose caller is cancelled ends as if he were not."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self.run(act, *args, **kwargs))

    def migrate(self) -> None:
        """Bring the tables to this version's form; makes them in an empty database.

        Raises:
            StorageError: the database cannot be opened or written.
            DatabaseError: it was written by a later version.
        """
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.transaction() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                hint = "use the version of InstantRT that wrote it, or a later one"
                raise DatabaseError("the database is of another version", found=str(error), hint=hint) from error

    def close(self) -> None:
        """Let what is begun end, then close all connections; may be called more than once."""
        self._threads.shutdown()
        self._engine.dispose()


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def _engine(url: str) -> Engine:
    try:
        engine = create_engine(make_url(url), hide_parameters=True)
    except (ArgumentError, NoSuchModuleError) as error:
        hint = "for example sqlite:///instantrt.db"
        what = "the database's address cannot be understood"
        raise DatabaseError(what, found=type(error).__name__, hint=hint) from None
    except ModuleNotFoundError as error:
        raise MissingExtraError("This database", "postgresql", str(error)) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin below, not where sqlite3 sees a write
    cursor = connection.cursor()
    # With WAL, NORMAL survives every death of a process; a power cut may undo the last transactions, as a whole each.
    pragmas = ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_S * 1000}")
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")  # a read that becomes a write cannot be refused half-way
