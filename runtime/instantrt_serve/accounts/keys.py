"""API keys: made once, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, Row, bindparam, insert, select, update

from instantrt.errors import InstantRTError
from instantrt.plain import shown
from instantrt_serve.accounts import tables
from instantrt_serve.accounts.database import now_ms

PATTERN = re.compile(r"irt_([0-9a-f]{12})_[0-9a-f]{64}")
LOCAL_KEY = "local"
LOCAL_CREDITS = 1_000_000
_NOBODY = hashlib.sha256(secrets.token_bytes()).hexdigest()
MAX_CREDITS = 10**15
_BY_ID = select(tables.keys).where(tables.keys.c.id == bindparam("key_"))  # made once: that takes longer than asking


class AccountError(InstantRTError):
    """A key, a name or a number of credits that there is not or that cannot be."""

    code = "key"


@dataclass(frozen=True)
class Key:
    """Who asks.

    Args:
        id: names the key without giving it away; in logs and on the command line.
        name: given by the operator.
        credits: left.
        created_ms: since 1970.
        revoked: takes no more requests.
    """

    id: str
    name: str
    credits: int
    created_ms: int
    revoked: bool


def create_key(connection: Connection, name: str, credits_: int) -> tuple[Key, str]:
    """A new key, and the text that clients send. The text is not kept, only its hash.

    The text holds 256 random bits, so nobody finds it by trying, however quick the hash is: one round of SHA-256 is as
    good here as a slow hash, which is for passwords that people choose.
    """
    key_id = secrets.token_hex(6)
    text = f"irt_{key_id}_{secrets.token_hex(32)}"
    _insert(connection, key_id, name, _hash(text), credits_)
    return find_key(connection, key_id), text


def local_key(connection: Connection) -> Key:
    """The account of a server without keys, which no text opens."""
    if connection.execute(select(tables.keys.c.id).where(tables.keys.c.id == LOCAL_KEY)).first() is None:
        _insert(connection, LOCAL_KEY, "server without keys", "", LOCAL_CREDITS)
    return find_key(connection, LOCAL_KEY)


def authenticate(connection: Connection, text: str) -> Key | None:
    """The key with this text; None if there is none or it is revoked. The hashes are compared in constant time."""
    match = PATTERN.fullmatch(text)
    row = None if match is None else _row(connection, match[1])
    same = hmac.compare_digest(_hash(text), _NOBODY if row is None else row.hash)
    return _key(row) if row is not None and same and row.revoked_ms is None else None


def list_keys(connection: Connection) -> list[Key]:
    """All, oldest first."""
    return [_key(row) for row in connection.execute(select(tables.keys).order_by(tables.keys.c.created_ms))]


def find_key(connection: Connection, key_id: str) -> Key:
    """By id.

    Raises:
        AccountError: there is none.
    """
    row = _row(connection, key_id)
    if row is None:
        raise AccountError("there is no such key", found=shown(key_id), hint="`instantrt keys list` shows their ids")
    return _key(row)


def revoke_key(connection: Connection, key_id: str) -> Key:
    """Take no more requests with it; those in work end as they would. Doing it again changes nothing.

    Raises:
        AccountError: there is none.
    """
    unrevoked = (tables.keys.c.id == key_id) & tables.keys.c.revoked_ms.is_(None)
    connection.execute(update(tables.keys).where(unrevoked).values(revoked_ms=now_ms()))
    return find_key(connection, key_id)


def grant_credits(connection: Connection, key_id: str, credits_: int) -> Key:
    """Add credits, or take some away if the number is negative.

    Raises:
        AccountError: there is no such key, or it would have less than none or too many.
    """
    column = tables.keys.c.credits
    total = column + credits_
    change = update(tables.keys).where(tables.keys.c.id == key_id, total >= 0, total <= MAX_CREDITS)
    if connection.execute(change.values(credits=total)).rowcount == 0:
        key = find_key(connection, key_id)
        hint = f"a key has from 0 to {MAX_CREDITS:,} credits"
        raise AccountError("so many credits cannot be", found=f"{key.credits:,} and {credits_:+,}", hint=hint)
    return find_key(connection, key_id)


def _insert(connection: Connection, key_id: str, name: str, hashed: str, credits_: int) -> None:
    if not name.strip() or len(name) > tables.NAME_CHARACTERS or not name.isprintable():
        hint = f"give 1 to {tables.NAME_CHARACTERS} printable characters"
        raise AccountError("a key needs a name", found=shown(name), hint=hint)
    if not 0 <= credits_ <= MAX_CREDITS:
        raise AccountError("so many credits cannot be", found=f"{credits_:,}", hint=f"give 0 to {MAX_CREDITS:,}")
    values = {"id": key_id, "name": name, "hash": hashed, "credits": credits_, "created_ms": now_ms()}
    connection.execute(insert(tables.keys).values(values))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _row(connection: Connection, key_id: str) -> Row[*tuple[object, ...]] | None:
    return connection.execute(_BY_ID, {"key_": key_id}).first()


def _key(row: Row[*tuple[object, ...]]) -> Key:
    return Key(row.id, row.name, row.credits, row.created_ms, row.revoked_ms is not None)
