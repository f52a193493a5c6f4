"""Photos by address: only from hosts on a list, only over https, and never from an address inside somebody's network.

The name is resolved here, every address it has is checked, and the connection goes to an address that was checked: a
name that resolves to something else a moment later gains nothing. Redirects are checked like the first address.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import SplitResult, urljoin, urlsplit

from instantrt_serve.errors import ApiError

MAX_REDIRECTS = 3
PORT = 443
PIECE_BYTES = 65_536

_OTHER_ADDRESSES = tuple(map(ipaddress.ip_network, ("::ffff:0:0/96", "64:ff9b::/32", "2001::/32", "2002::/16")))
"""IPv6 addresses that stand for IPv4 ones, which may be private."""

Resolve = Callable[[str], list[str]]
"""A host's addresses, as texts."""


class Reply(Protocol):
    """The part of :class:`http.client.HTTPResponse` that is used."""

    status: int

    def getheader(self, name: str, /) -> str | None:
        """A header."""

    def read1(self, amount: int, /) -> bytes:
        """Some of the body; empty at its end."""


Ask = Callable[[str, str, str, float], Reply]
"""Ask (address, host, path, timeout in s) for a file: connects to the address, and says that it means the host."""


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to an address, and holds the certificate against the host's name."""

    def __init__(self, address: str, host: str, timeout_s: float) -> None:
        super().__init__(host, PORT, timeout=timeout_s)
        self._address, self._tls = address, ssl.create_default_context()

    def connect(self) -> None:
        plain = socket.create_connection((self._address, PORT), self.timeout)
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


def _resolve(host: str) -> list[str]:
    found = socket.getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def _ask(address: str, host: str, path: str, timeout_s: float) -> Reply:
    connection = _PinnedConnection(address, host, timeout_s)
    connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"})
    return connection.getresponse()


@dataclass(frozen=True)
class Fetcher:
    """Gets photos.

    Args:
        hosts: the only ones that are asked.
        timeout_s: for one photo, redirects included.
        max_bytes: of one photo.
        resolve: finds a host's addresses.
        ask: sends the request.
    """

    hosts: frozenset[str]
    timeout_s: float
    max_bytes: int
    resolve: Resolve = _resolve
    ask: Ask = _ask

    async def get(self, field: str, url: str) -> bytes:
        """The file at an address.

        Args:
            field: of the request, for messages.
            url: with https and one of the hosts.

        Raises:
            ApiError: the address is not allowed, or gives nothing usable in time.
        """
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asyncio.to_thread(self._get, field, url)
        except TimeoutError:
            raise _refused(field, "the photo's host took too long", f"{self.timeout_s:g} s") from None

    def _get(self, field: str, url: str) -> bytes:
        end = time.monotonic() + self.timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            parts = self._checked(field, url)
            host = parts.hostname or ""
            reply = self._reply(field, self._address(field, host), host, parts, end)
            if reply.status == 200:
                return self._body(field, reply, end)
            target = reply.getheader("location") if reply.status in (301, 302, 303, 307, 308) else None
            if target is None:
                raise _refused(field, "the photo's host has no such photo", f"status {reply.status}")
            url = urljoin(url, target)
        raise _refused(field, "the photo's address leads on and on", f"{MAX_REDIRECTS + 1} redirects")

    def _checked(self, field: str, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _refused(field, "the photo's address cannot be understood", None) from None
        if not url.isascii() or not url.isprintable() or " " in url:
            raise _refused(field, "the photo's address cannot be understood", None)
        if parts.scheme.lower() != "https" or port not in (None, PORT) or parts.username is not None:
            raise _refused(field, "only https addresses without a port or a user are fetched", parts.scheme)
        if parts.hostname not in self.hosts:
            raise _refused(field, "photos are not fetched from this host", parts.hostname)
        return parts

    def _address(self, field: str, host: str) -> str:
        try:
            found = self.resolve(host)
        except OSError:
            found = []
        if not found or not all(is_public(address) for address in found):
            raise _refused(field, "the photo's host has no public address", host)
        return found[0]

    def _reply(self, field: str, address: str, host: str, parts: SplitResult, end: float) -> Reply:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            return self.ask(address, host, path, max(0.1, end - time.monotonic()))
        except (OSError, http.client.HTTPException) as error:
            raise _refused(field, "the photo's host cannot be reached", type(error).__name__) from None

    def _body(self, field: str, reply: Reply, end: float) -> bytes:
        pieces, size = [], 0
        try:
            while piece := reply.read1(PIECE_BYTES):
                size += len(piece)
                if size > self.max_bytes:
                    hint = f"at most {self.max_bytes:,} bytes"
                    raise ApiError("too_large", "the photo is too large", found="more", hint=hint, field=field)
                if time.monotonic() > end:
                    raise _refused(field, "the photo's host took too long", f"{self.timeout_s:g} s")
                pieces.append(piece)
        except (OSError, http.client.HTTPException) as error:
            raise _refused(field, "the photo's host broke off", type(error).__name__) from None
        return b"".join(pieces)


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's: none of this machine, of a private network, of a link, no group."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # with a scope, for example
        return False
    if any(found in network for network in _OTHER_ADDRESSES if network.version == found.version):
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _refused(field: str, what: str, found: str | None) -> ApiError:
    hint = "send the photo itself, as base64, or ask the operator which hosts are allowed"
    return ApiError("fetch", what, found=found, hint=hint, field=field)
