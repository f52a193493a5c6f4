"""What `instantrt keys` does, also while a server runs on the same database."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import TypeVar

from sqlalchemy import Connection

from instantrt.cli.command import ExitStatus, print_json
from instantrt_serve.accounts import keys
from instantrt_serve.accounts.database import Database
from instantrt_serve.accounts.keys import Key
from instantrt_serve.options import CreateOptions, GrantOptions, KeysOptions, RevokeOptions

Result = TypeVar("Result")


def run_create(options: CreateOptions) -> ExitStatus:
    """Make a key. Its text is shown now and never again.

    Raises:
        AccountError: a name or a number of credits that cannot be.
        StorageError: the database cannot be written.
    """
    key, text = _in_database(options, lambda connection: keys.create_key(connection, options.name, options.credits))
    if options.json:
        print_json(asdict(key) | {"text": text})
    else:
        sys.stdout.write(f"{text}\n")
        sys.stderr.write(f"Keep it: it is not shown again. Its id is {key.id}.\n")
    return ExitStatus.DONE


def run_list(options: KeysOptions) -> ExitStatus:
    """Show all keys.

    Raises:
        StorageError: the database cannot be read.
    """
    found = _in_database(options, keys.list_keys)
    if options.json:
        print_json({"keys": [asdict(key) for key in found]})
    else:
        sys.stdout.write("".join(_line(key) for key in found))
    return ExitStatus.DONE


def run_revoke(options: RevokeOptions) -> ExitStatus:
    """Take no more requests with a key.

    Raises:
        AccountError: there is none of this id.
        StorageError: the database cannot be written.
    """
    return _show(options, _in_database(options, lambda connection: keys.revoke_key(connection, options.key)))


def run_grant(options: GrantOptions) -> ExitStatus:
    """Add credits to a key.

    Raises:
        AccountError: there is none of this id, or it cannot have so many.
        StorageError: the database cannot be written.
    """
    key = _in_database(options, lambda connection: keys.grant_credits(connection, options.key, options.credits))
    return _show(options, key)


def _in_database(options: KeysOptions, act: Callable[[Connection], Result]) -> Result:
    with closing(Database(options.database_url)) as database:
        database.migrate()
        return database.run(act)


def _show(options: KeysOptions, key: Key) -> ExitStatus:
    if options.json:
        print_json(asdict(key))
    else:
        sys.stdout.write(_line(key))
    return ExitStatus.DONE


def _line(key: Key) -> str:
    return f"{key.id}  {key.credits:>12,} credits  {'revoked' if key.revoked else 'valid':<7}  {key.name}\n"
