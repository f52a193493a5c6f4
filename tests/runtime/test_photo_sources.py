"""What people have a photo in: every kind gives the same pixels, and none is changed."""

from __future__ import annotations

import io
import mmap
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from doubles.photos import encoded, picture
from instantrt.conditioning.photo import decode_photo, limits, source
from instantrt.errors import PhotoError

PIXELS = picture()
FILE = encoded(PIXELS, "PNG")


class OwnPath:
    """A path of a library of somebody's own, as text or as bytes."""

    def __init__(self, path: str | bytes) -> None:
        self._path = path

    def __fspath__(self) -> str | bytes:
        return self._path


class OnlyRead:
    """A response of a web server, say: it can be read once, and nothing else."""

    def __init__(self, data: bytes, step: int = 1000) -> None:
        self._data, self._step = io.BytesIO(data), step

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, self._step))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "photo of me.png"
    path.write_bytes(FILE)
    return path


# ---- paths


def test_paths_of_every_kind_give_the_same_photo(path):
    for given in (path, str(path), np.str_(path), OwnPath(str(path)), OwnPath(bytes(path))):
        np.testing.assert_array_equal(decode_photo(given).pixels, PIXELS)


def test_a_path_that_leads_nowhere_is_said_to(tmp_path):
    with pytest.raises(PhotoError, match=r"does not exist\nFound: .*absent.jpg\nTo do: check the path"):
        decode_photo(tmp_path / "absent.jpg")


@pytest.mark.parametrize("given", ["a\0b.jpg", "x" * 5000, "\udcff" * 300, OwnPath("\0")])
def test_a_path_that_cannot_be_one_is_named_shortly_and_printably(given):
    with pytest.raises(PhotoError, match="cannot be read") as error:
        decode_photo(given)
    assert len(str(error.value).encode()) < 2000


def test_a_folder_is_no_photo(tmp_path):
    with pytest.raises(PhotoError, match=rf"cannot be read\nFound: {tmp_path}: Is a directory"):
        decode_photo(tmp_path)


def test_an_address_is_to_be_downloaded_first():
    with pytest.raises(PhotoError, match=r"does not exist\nFound: https://example.com/me.jpg\nTo do: download it"):
        decode_photo("https://example.com/me.jpg")


def test_a_path_object_that_fails_is_the_callers_mistake():
    class Failing:
        def __fspath__(self) -> str:
            raise RuntimeError("no such thing")

    with pytest.raises(PhotoError, match="no such thing"):
        decode_photo(Failing())


# ---- bytes


def test_bytes_of_every_kind_give_the_same_photo(path):
    spread = memoryview(bytes(b for value in FILE for b in (value, 0)))[::2]  # every other byte
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for given in (FILE, np.bytes_(FILE), bytearray(FILE), memoryview(FILE), spread, mapped, memoryview(mapped)):
            np.testing.assert_array_equal(decode_photo(given).pixels, PIXELS)
            if isinstance(given, memoryview):
                given.release()


def test_a_bytearray_is_left_as_it_is_and_not_held():
    given = bytearray(FILE)
    decode_photo(given)
    assert given == FILE
    given.append(0)  # fails while somebody holds its buffer


def test_a_memoryview_with_several_axes_is_an_array():
    np.testing.assert_array_equal(decode_photo(memoryview(PIXELS)).pixels, PIXELS)


def test_a_released_memoryview_cannot_be_read():
    given = memoryview(FILE)
    given.release()
    with pytest.raises(PhotoError, match=r"bytes cannot be read\nFound: operation forbidden"):
        decode_photo(given)


# ---- files


@pytest.fixture(params=["file", "unbuffered", "BytesIO", "temporary", "spooled"])
def opened(request: pytest.FixtureRequest, path: Path) -> Iterator[object]:
    if request.param == "BytesIO":
        yield io.BytesIO(FILE)
    elif request.param in ("file", "unbuffered"):
        with path.open("rb", buffering=0 if request.param == "unbuffered" else -1) as file:
            yield file
    else:
        kind = tempfile.TemporaryFile if request.param == "temporary" else tempfile.SpooledTemporaryFile
        with kind() as file:
            file.write(FILE)
            yield file


@pytest.mark.parametrize("position", [0, 7, len(FILE)])
def test_an_open_file_is_read_from_its_beginning_and_put_back(opened, position):
    opened.seek(position)
    np.testing.assert_array_equal(decode_photo(opened).pixels, PIXELS)
    assert opened.tell() == position
    assert not opened.closed


def test_an_open_file_is_put_back_when_it_is_no_photo(tmp_path):
    file = io.BytesIO(b"no photo at all")
    file.seek(3)
    with pytest.raises(PhotoError):
        decode_photo(file)
    assert file.tell() == 3


def test_what_can_only_be_read_is_read_to_its_end():
    np.testing.assert_array_equal(decode_photo(OnlyRead(FILE)).pixels, PIXELS)


def test_a_file_opened_as_text_is_said_to_be(path):
    with (
        path.open(encoding="latin-1") as file,
        pytest.raises(PhotoError, match="whose read\\(\\) gives str\nTo do: open it with 'rb'"),
    ):
        decode_photo(file)


def test_a_closed_file_cannot_be_read(path):
    with path.open("rb") as file:
        pass
    with pytest.raises(PhotoError, match=r"file cannot be read\nFound: BufferedReader object: ValueError.*closed"):
        decode_photo(file)


def test_an_upload_whose_read_must_be_awaited_is_refused():
    class Upload:
        async def read(self, _size: int = -1) -> bytes:
            return FILE

    with pytest.raises(PhotoError, match="gives coroutine"):  # pytest would fail on "was never awaited", too
        decode_photo(Upload())


def test_a_file_without_end_is_left_off(monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 5_000_000)
    with pytest.raises(PhotoError, match=r"too large\nFound: /dev/zero"):
        decode_photo("/dev/zero")


@pytest.mark.parametrize("kind", ["path", "bytes", "file"])
def test_a_file_that_is_too_large_is_refused(kind, path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", len(FILE) - 1)
    given = {"path": path, "bytes": FILE, "file": io.BytesIO(FILE)}[kind]
    with pytest.raises(PhotoError, match=f"too large\nFound: .*: {len(FILE):,} bytes\nTo do: give a file of at most"):
        decode_photo(given)


# ---- PIL images


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
@pytest.mark.parametrize("size", [(80, 60), (3000, 2600)])
def test_an_image_that_is_not_decoded_yet_stays_so(kind, size, tmp_path):
    """The larger one is where decoding at a smaller size would change the image itself."""
    path = tmp_path / "photo"
    path.write_bytes(encoded(picture(*size), kind))
    for where in (path, io.BytesIO(path.read_bytes())):
        with Image.open(where) as image:
            expected = decode_photo(path).pixels
            before = _state(image)
            np.testing.assert_array_equal(decode_photo(image).pixels, expected)
            assert _state(image) == before
            np.testing.assert_array_equal(decode_photo(image).pixels, expected)
            assert image.load() is not None
            assert image.size == size


def _state(image: ImageFile.ImageFile) -> tuple[object, ...]:
    """All that decoding could change. An image in memory would have pixels instead of None."""
    return image.mode, image.size, list(image.tile), dict(image.info), image.tell(), image.fp.tell(), image._im


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"])
def test_an_image_in_memory_is_left_as_it_is(mode):
    image = Image.fromarray(PIXELS).convert("RGBA")
    image = image.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, mode)).convert(mode)
    image.info["comment"] = "mine"
    before = image.mode, image.size, dict(image.info), image.tobytes(), image.getpalette()
    decoded = decode_photo(image).pixels
    assert decoded.shape == (60, 80, 3)
    if mode not in ("1", "L", "LA", "La", "P", "PA"):
        assert np.abs(decoded.astype(int) - PIXELS).max() <= 3
    assert (image.mode, image.size, dict(image.info), image.tobytes(), image.getpalette()) == before


@pytest.mark.parametrize("mode", ["HSV", "LAB", "I", "I;16", "I;16B"])
def test_images_of_rare_modes_are_photos_too(mode):
    grey = PIXELS[..., 0]
    wide = {"I": np.int32, "I;16": "<u2", "I;16B": ">u2"}
    if mode in wide:
        numbers = (grey.astype(wide[mode]) * 257).tobytes()
        image = Image.frombytes(mode, (80, 60), numbers)
        expected = np.repeat(grey[..., None], 3, 2)
    else:
        image, expected = Image.fromarray(PIXELS).convert("HSV"), PIXELS
    if mode == "LAB":
        image, expected = Image.merge("LAB", [Image.new("L", (80, 60), value) for value in (255, 128, 128)]), 255
    assert np.abs(decode_photo(image).pixels.astype(int) - expected).max() <= 6


def test_the_frame_at_which_an_image_stands_is_used():
    red, blue = (Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))
    for kind in ("GIF", "TIFF", "WEBP"):
        with Image.open(io.BytesIO(encoded(red, kind, save_all=True, append_images=[blue]))) as image:
            assert decode_photo(image).pixels[20, 20].argmax() == 0
            image.seek(1)
            assert decode_photo(image).pixels[20, 20].argmax() == 2
            assert image.tell() == 1


def test_an_image_whose_file_is_closed_is_said_to_be(path):
    image = Image.open(path)
    image.close()
    with pytest.raises(PhotoError, match=r"the image is closed\nFound: PNG without pixels or file"):
        decode_photo(image)


def test_an_image_of_a_format_that_is_not_decoded_here_is_to_be_loaded_first():
    """Some of Pillow's formats run programs: only who opened one may decide to."""
    message = r"not decoded here\nFound: EPS\nTo do: call its load\(\) first"
    with Image.open(io.BytesIO(encoded(PIXELS, "EPS"))) as image, pytest.raises(PhotoError, match=message):
        decode_photo(image)
    with Image.open(io.BytesIO(encoded(PIXELS, "TGA"))) as image:
        image.load()
        np.testing.assert_array_equal(decode_photo(image).pixels, PIXELS)


def test_one_image_in_many_threads_is_read_by_each(path):
    """Its file has one position, which they share."""
    results: list[np.ndarray] = []
    with Image.open(path) as image:
        threads = [threading.Thread(target=lambda: results.append(decode_photo(image).pixels)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 16
    assert all((result == PIXELS).all() for result in results)


# ---- arrays


class OwnArray(np.ndarray):
    """A subclass whose operators do something else."""

    def __getitem__(self, _index: object) -> np.ndarray:
        raise AssertionError("asked for a part")


def test_arrays_in_every_layout_give_the_same_photo():
    read_only = PIXELS.copy()
    read_only.flags.writeable = False
    backwards = np.ascontiguousarray(PIXELS[::-1, ::-1, ::-1])[::-1, ::-1, ::-1]
    padded = np.zeros((60, 100, 3), np.uint8)
    padded[:, :80] = PIXELS
    layouts = [read_only, backwards, padded[:, :80], np.asfortranarray(PIXELS), PIXELS.view(OwnArray)]
    for given in (*layouts, np.ma.masked_array(PIXELS, mask=False)):
        before = np.asarray(given).copy()
        decoded = decode_photo(given).pixels
        np.testing.assert_array_equal(decoded, PIXELS)
        assert type(decoded) is np.ndarray
        assert decoded.flags.c_contiguous
        assert decoded.flags.writeable
        decoded[:] = 0
        np.testing.assert_array_equal(np.asarray(given), before)


@pytest.mark.parametrize("shape", [(2000, 2600), (2000, 2600, 1), (2000, 2600, 3), (2000, 2600, 4)])
def test_large_arrays_in_every_layout_are_shrunk_alike(shape):
    pixels = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    expected = decode_photo(pixels).pixels
    assert expected.shape == (985, 1280, 3)
    np.testing.assert_array_equal(decode_photo(np.asfortranarray(pixels)).pixels, expected)
    np.testing.assert_array_equal(decode_photo(np.repeat(pixels, 2, axis=1)[:, ::2]).pixels, expected)


# ---- anything else


class Hostile:
    """Fails whatever is asked of it."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError(name)

    __name__ = "hostile"  # which pytest asks for


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, "None"),
        (3, "a value of type int"),
        (2.5, "a value of type float"),
        ([[1, 2], [3, 4]], "a value of type list"),
        ({"photo": "me.jpg"}, "a value of type dict"),
        (np.uint8(3), "a value of type numpy.uint8"),
        (object, "a value of type type"),
        (iter([FILE]), "a value of type list_iterator"),
        (Hostile(), "a value of type .*Hostile"),
    ],
)
def test_anything_else_gets_one_message(given, kind):
    message = (
        f"the photo is not of a kind that can be read\nFound: {kind}\nTo do: give a path, the bytes of an image file, "
        "a file opened with 'rb', a PIL image or a uint8 array"
    )
    with pytest.raises(PhotoError, match=message):
        decode_photo(given)


def test_sources_are_read_in_parts():
    """A response is not asked for more than a chunk at a time, so one without end cannot fill the memory."""
    asked = []

    class Recording(OnlyRead):
        def read(self, size: int) -> bytes:
            asked.append(size)
            return super().read(size)

    decode_photo(Recording(FILE))
    assert max(asked) <= source.CHUNK_BYTES
