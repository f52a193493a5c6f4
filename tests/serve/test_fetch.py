"""Photos by address: nothing inside a network is reached, whatever names, redirects and DNS say."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantrt_serve.errors import ApiError
from instantrt_serve.fetch import Fetcher, is_public
from serve.conftest import PHOTO, Serve

LOCAL = ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::127.0.0.1"]
NETWORKS = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fc00::1", "fd12::1"]
LINKS = ["169.254.169.254", "fe80::1", "fe80::1%eth0"]
GROUPS = ["224.0.0.1", "240.0.0.1", "255.255.255.255", "ff02::1"]
MAPPED = [
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:8.8.8.8",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:0:7f00:1::1",
]
PRIVATE = [*LOCAL, *NETWORKS, *LINKS, *GROUPS, *MAPPED, "nonsense"]


@dataclass
class Reply:
    status: int = 200
    body: bytes = PHOTO
    location: str | None = None
    at: io.BytesIO = field(init=False)

    def __post_init__(self) -> None:
        self.at = io.BytesIO(self.body)

    def getheader(self, name: str, /) -> str | None:
        return self.location if name == "location" else None

    def read1(self, amount: int, /) -> bytes:
        return self.at.read(amount)


@dataclass
class Net:
    """Names, their addresses, and what is answered; notes whom it was asked to connect to."""

    names: dict[str, list[str]]
    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    def resolve(self, host: str) -> list[str]:
        if host not in self.names:
            raise OSError("no such name")
        return self.names[host]

    def ask(self, address: str, host: str, path: str, timeout_s: float) -> Reply:
        assert 0 < timeout_s <= 5
        self.asked.append((address, host, path))
        return self.replies.get(f"{host}{path}", Reply())

    def get(self, url: str, *hosts: str, **options: Any) -> bytes:
        settings = {"timeout_s": 5, "max_bytes": 10_000} | options
        fetcher = Fetcher(frozenset(hosts or self.names), resolve=self.resolve, ask=self.ask, **settings)
        return asyncio.run(fetcher.get("face_image", url))


PUBLIC = {"a.example": ["93.184.216.34"], "b.example": ["2606:4700::1111", "1.1.1.1"]}


def test_a_photo_is_fetched_from_the_address_that_was_checked() -> None:
    net = Net(PUBLIC)
    assert net.get("https://a.example/photo.jpg?size=1") == PHOTO
    assert net.asked == [("93.184.216.34", "a.example", "/photo.jpg?size=1")]


@pytest.mark.parametrize("address", PRIVATE)
def test_no_private_address_is_asked(address: str) -> None:
    assert not is_public(address)
    for addresses in ([address], ["93.184.216.34", address]):
        net = Net({"a.example": addresses})
        with pytest.raises(ApiError, match="no public address"):
            net.get("https://a.example/")
        assert net.asked == []


@given(st.ip_addresses())
def test_what_is_public_is_global(address: Any) -> None:
    assert address.is_global or not is_public(str(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example/",
        "https://c.example/",
        "https://a.example:22/",
        "https://a.example:99999/",
        "https://user@a.example/",
        "https://a.example@c.example/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://2130706433/",
        "https://a.example\\@c.example/",
        "https://a.example/\r\nX: y",
        "https://a.example/ b",
        "https://ä.example/",
        "https://[/",
        "https://",
    ],
)
def test_other_addresses_are_not_asked(url: str) -> None:
    net = Net(PUBLIC)
    with pytest.raises(ApiError) as caught:
        net.get(url)
    assert caught.value.code == "fetch"
    assert net.asked == []


@pytest.mark.parametrize(
    "target", ["https://169.254.169.254/latest", "http://a.example/", "https://inside.example/", "//127.0.0.1/"]
)
def test_redirects_are_checked_like_first_addresses(target: str) -> None:
    net = Net(PUBLIC | {"inside.example": ["10.0.0.5"]}, {"a.example/": Reply(302, b"", target)})
    with pytest.raises(ApiError):
        net.get("https://a.example/")
    assert net.asked == [("93.184.216.34", "a.example", "/")]


def test_redirects_are_followed_a_few_times() -> None:
    net = Net(PUBLIC, {"a.example/": Reply(301, b"", "https://b.example/x"), "b.example/x": Reply(308, b"", "/y")})
    assert net.get("https://a.example/") == PHOTO
    assert [host for _, host, _ in net.asked] == ["a.example", "b.example", "b.example"]
    circle = Net(PUBLIC, {"a.example/": Reply(302, b"", "/")})
    with pytest.raises(ApiError, match="on and on"):
        circle.get("https://a.example/")
    assert len(circle.asked) == 4


def test_a_name_that_changes_its_address_is_checked_again() -> None:
    net = Net({"a.example": ["93.184.216.34"]}, {"a.example/": Reply(302, b"", "/again")})
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    net.resolve = lambda host: next(answers)  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="no public address"):
        net.get("https://a.example/")
    assert len(net.asked) == 1


def test_size_and_time_are_bounded() -> None:
    net = Net(PUBLIC, {"a.example/": Reply(body=b"x" * 20_000)})
    with pytest.raises(ApiError) as caught:
        net.get("https://a.example/")
    assert (caught.value.code, caught.value.status) == ("too_large", 413)
    slow = Net(PUBLIC)
    slow.ask = lambda *_: (_ for _ in ()).throw(TimeoutError())  # type: ignore[method-assign]
    with pytest.raises(ApiError, match="cannot be reached"):
        slow.get("https://a.example/")


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(ApiError, match="no such photo"):
        Net(PUBLIC, {"a.example/": Reply(404)}).get("https://a.example/")


@pytest.mark.anyio
async def test_it_is_off_by_default(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.make(face_image="https://a.example/photo.jpg")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "fetch")
    async with serve(fetch_hosts=("a.example",)) as client:
        answer = await client.make(pose_image="https://c.example/photo.jpg")
        assert answer.json()["error"]["field"] == "pose_image"
