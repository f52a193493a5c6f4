"""Mangled photos: an answer for each, no crash, no hang, bounded memory. `FakeWorker` decodes as a real worker does.

``python -m serve.test_photo_door 500`` in `tests/` sends 10 times as many.
"""

from __future__ import annotations

import asyncio
import base64
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doubles.photos import encoded, flat_png, noise, picture
from instantrt_serve.errors import ApiError
from instantrt_serve.photos import Photos, decode
from serve.conftest import Client, Serve
from serve.fake_worker import FakeWorker
from serve.live import new_app

FILES = [encoded(picture(), kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")]
FILES += [encoded(noise(64, 64), "JPEG"), flat_png(64, 64, bits=16), flat_png(40, 40, colour=6)]
EXAMPLES = 20
SOME = 10  # photos in an example
MORE_MEMORY_KB = 400_000


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """An image file with bytes changed, cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "double", "insert", "end"]))
        length = draw(st.integers(1, 40))
        if kind == "change":
            data[place : place + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del data[place : place + length]
        elif kind == "double":
            data[place:place] = data[place : place + length]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=length))
        else:
            del data[place:]
    return bytes(data)


def try_photos(folder: Path, examples: int) -> Counter[int]:
    """Send so many mangled photos, some at once; how many answers had which status."""
    app, key = new_app(folder, FakeWorker(decodes=True))
    statuses: Counter[int] = Counter()

    async def send(client: Client, photos: list[bytes]) -> None:
        texts = [base64.b64encode(photo).decode() for photo in photos if photo]
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(client.make(face_image=text) for text in texts))
        statuses.update(answer.status_code for answer in answers)

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(mangled(), min_size=SOME, max_size=SOME))
    def mangle(photos: list[bytes]) -> None:
        runner.run(send(client, photos))

    with asyncio.Runner() as runner:
        lifespan, client = app.router.lifespan_context(app), Client(app, FakeWorker(), key)
        runner.run(lifespan.__aenter__())
        mangle()
        runner.run(client.aclose())
        runner.run(lifespan.__aexit__(None, None, None))
    return statuses


def test_every_mangled_photo_has_an_answer(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    statuses = try_photos(tmp_path, EXAMPLES)
    assert set(statuses) == {200, 415}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MORE_MEMORY_KB


def test_a_decompression_bomb_is_refused(serve: Serve) -> None:
    async def send() -> int:
        async with serve(FakeWorker(decodes=True)) as client:
            answer = await client.make(face_image=base64.b64encode(flat_png(10_000, 9_000, colour=0)).decode())
            assert "too many pixels" in answer.text
            return answer.status_code

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bomb = asyncio.run(send())
    assert bomb == 415
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_200_000


def decoded(text: str) -> tuple[bytes | None, ApiError | None]:
    try:
        return decode("face_image", text), None
    except ApiError as error:
        return None, error


@settings(max_examples=500, deadline=None)
@given(
    st.one_of(st.text(max_size=300), st.text("abcd+/=-_ \n", max_size=50), st.text(max_size=50).map("data:{}".format))
)
def test_any_text_is_a_file_or_an_error_about_the_photo(text: str) -> None:
    data, error = decoded(text)
    assert data or (error is not None and error.field == "face_image" and error.hint)


@given(st.binary(min_size=1, max_size=300))
def test_what_is_encoded_comes_back(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    for sent in (text, text.rstrip("="), f"data:image/png;base64,{text}", f"data:;base64,{text}", "\n".join(text)):
        assert decode("face_image", sent) == data


def test_addresses_are_refused_where_nothing_is_fetched() -> None:
    for address in ("https://a.example/b.jpg", "HTTP://127.0.0.1/", "http://[::1]"):
        with pytest.raises(ApiError, match="switched off"):
            asyncio.run(Photos(None).file_of("face_image", address))


def test_nothing_of_a_photo_reaches_a_disk(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form with a photo larger than what is usually kept in memory."""
    photo = encoded(noise(1000, 1000), "PNG")
    assert len(photo) > 2_000_000
    opened: list[str] = []
    monkeypatch.setattr("tempfile._mkstemp_inner", lambda *a, **k: opened.append("file") or 1 / 0)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *a, **k: opened.append("file") or 1 / 0)

    async def send() -> int:
        async with serve() as client:
            files = {"face_image": photo}
            return (await client.post("/v1/instantid", data={"prompt": "a"}, files=files)).status_code

    assert asyncio.run(send()) == 200
    assert opened == []


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(dict(try_photos(Path(temporary), int(sys.argv[1]))))
        print("kB more:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began)
