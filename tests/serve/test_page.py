"""The page at `/`, in a real browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.chromium import Page, chromium, find_chromium
from instantrt_serve.messages import Failed
from serve.conftest import PHOTO, Serve
from serve.fake_worker import FakeWorker
from serve.live import Live, live_server

CHROMIUM = find_chromium()
browser = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
WAIT_S = 20


def mark(test: object) -> object:
    for one in browser:
        test = one(test)
    return test


@pytest.mark.anyio
async def test_the_page_is_static_and_may_load_nothing_from_elsewhere(serve: Serve) -> None:
    async with serve() as client:
        page = await client.get("/")
        files = [await client.get(f"/page/{name}") for name in ("style.css", "app.js", "icon.svg")]
        assert (await client.get("/page/..%2fapp.py")).status_code == 404
        assert (await client.get("/page/index.htm")).status_code == 404
    assert page.headers["content-type"].startswith("text/html")
    assert [file.headers["content-type"].partition(";")[0] for file in files] == [
        "text/css",
        "text/javascript",
        "image/svg+xml",
    ]
    for answer in (page, *files):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
    assert "<style" not in page.text
    assert "style=" not in page.text
    assert "onclick" not in page.text


@pytest.mark.anyio
async def test_the_page_can_be_switched_off(serve: Serve) -> None:
    async with serve(page=False, metrics=False) as client:
        assert [(await client.get(path)).status_code for path in ("/", "/page/app.js", "/metrics")] == [404] * 3


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    return path


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Page, Live]]:
    """The page with a key typed in, and its server."""
    assert CHROMIUM
    with live_server(tmp_path, FakeWorker(delay_s=0.02)) as live, chromium(CHROMIUM, tmp_path / "profile") as started:
        page = started.page()
        page.size(1200)
        page.visit(live.url)
        until(page, "document.querySelector('#style').length > 3")
        yield page, live


def until(page: Page, condition: str) -> None:
    end = time.monotonic() + WAIT_S
    while not page.value(condition):
        assert time.monotonic() < end, (condition, page.value("document.body.innerText"), page.complaints)
        time.sleep(0.03)


def give_photo_and_key(page: Page, live: Live, photo: Path) -> None:
    page.value("document.querySelector('#key').focus()")
    page.type(live.key)
    page.choose_file("#photo", photo)
    until(page, "!document.querySelector('#chosen').hidden && document.querySelector('#chosen').complete")


@mark
def test_a_picture_is_made_shown_kept_and_offered(opened: tuple[Page, Live], photo: Path, tmp_path: Path) -> None:
    page, live = opened
    give_photo_and_key(page, live, photo)
    page.value("document.querySelector('#make').focus()")
    page.value(
        "window.seen = []; new MutationObserver(() => seen.push(document.querySelector('#status').textContent))"
        ".observe(document.querySelector('#status'), {childList: true, characterData: true, subtree: true})"
    )
    page.value("document.querySelector('#make').click()")
    until(page, "document.querySelector('#status').textContent.startsWith('Done')")
    assert page.value("document.querySelector('#picture').naturalWidth") == 64
    assert page.value("document.querySelector('#download').download").endswith(".jpg")
    assert page.value("seen.some(text => text.startsWith('Step'))")
    assert "999999 credits" in page.value("document.querySelector('#credits').textContent")
    until(page, "document.querySelectorAll('#pictures img').length == 1")
    assert page.complaints == []
    assert all(url.startswith((live.url, "data:", "blob:")) for url in page.requests)
    work = live.worker.seen[0]
    assert work.face == PHOTO
    assert work.fields["style"] == "(No style)"
    for scheme in ("light", "dark"):
        page.colour_scheme(scheme)
        page.screenshot(tmp_path / f"{scheme}.png")
    page.size(390, 844)
    page.value("document.querySelector('details').open = true")
    page.screenshot(tmp_path / "phone.png")
    assert page.value("document.documentElement.scrollWidth") <= 390
    page.visit(live.url)
    until(page, "document.querySelectorAll('#pictures img').length == 1")
    page.value("document.querySelector('#forget').click()")
    until(page, "document.querySelector('#last').hidden")


@mark
def test_mistakes_are_told_where_screen_readers_hear_them(opened: tuple[Page, Live], photo: Path) -> None:
    page, live = opened
    page.value("document.querySelector('#make').click()")
    until(page, "document.querySelector('[role=alert]').textContent.includes('photo')")
    assert page.value("document.activeElement.id") == "photo"
    page.choose_file("#photo", photo)
    until(page, "!document.querySelector('#chosen').hidden")
    page.value("document.querySelector('#make').click()")
    until(page, "document.querySelector('[role=alert]').textContent.includes('valid key')")
    give_photo_and_key(page, live, photo)
    live.worker.fail = Failed("", "no_face", "no face was found", "a photo", "show a face")
    page.value("document.querySelector('#make').click()")
    until(page, "document.querySelector('[role=alert]').textContent.includes('show a face')")
    assert page.value("document.querySelector('#make').disabled") is False


@mark
def test_a_picture_can_be_cancelled(opened: tuple[Page, Live], photo: Path) -> None:
    page, live = opened
    live.worker.delay_s = 0.5
    give_photo_and_key(page, live, photo)
    page.value("document.querySelector('#make').click()")
    until(page, "document.querySelector('#status').textContent.startsWith('Step')")
    page.value("document.querySelector('#cancel').click()")
    until(page, "document.querySelector('#status').textContent.startsWith('Cancelled')")
    assert len(live.worker.cancelled) == 1


@mark
def test_every_field_has_a_label_and_can_be_reached_by_keyboard(opened: tuple[Page, Live]) -> None:
    page, _ = opened
    page.value("document.querySelector('details').open = true")
    fields = "[...document.querySelectorAll('input, select, textarea')]"
    assert page.value(f"{fields}.every(field => field.labels.length == 1)")
    reached = []
    for _ in range(20):
        page.key("Tab")
        reached.append(page.value("document.activeElement.id"))
    for name in page.value(f"{fields}.map(field => field.id)"):
        assert name in reached
    assert "make" in reached
    assert page.value("document.documentElement.lang") == "en"
    assert page.value("[...document.images].every(image => image.hasAttribute('alt'))")
