"""Photos as chance has them: every kind, format, mode, turn, cut and damage gives a photo or a message."""

from __future__ import annotations

import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from doubles.icc import cmyk_profile, grey_profile, rgb_profile
from doubles.photos import encoded, noise, odd_exif, picture
from instantrt.conditioning.photo import LONGEST_SIDE_PX, DecodedPhoto, decode_photo
from instantrt.errors import PhotoError

MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "GIF": ("P", "L"),
    "TIFF": ("RGB", "RGBA", "L", "CMYK", "I;16", "LAB", "F"),
    "BMP": ("RGB", "L", "P", "1"),
    "AVIF": ("RGB", "RGBA"),
}
PROFILES = (None, rgb_profile("Display P3"), grey_profile(1.8), cmyk_profile(), rgb_profile("sRGB")[:-1000], b"?" * 200)
WITH_PROFILE = {"JPEG", "PNG", "WEBP", "TIFF", "AVIF"}
WITH_EXIF = {"JPEG", "PNG", "WEBP"}

sides = st.integers(32, 90) | st.integers(32, 90) | st.integers(1, 40) | st.integers(1290, 1500)
sizes = st.tuples(sides, sides).filter(lambda size: size[0] * size[1] < 300_000)


@st.composite
def images(draw: st.DrawFn, mode: str) -> Image.Image:
    width, height = draw(sizes)
    rgb = Image.fromarray(draw(st.sampled_from([picture, noise]))(width, height))
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb)[..., 0].astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.merge("LAB", rgb.split())
    return rgb.convert(mode)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """An image file with whatever its format can carry, whole or not."""
    kind = draw(st.sampled_from(sorted(MODES)))
    image = draw(images(draw(st.sampled_from(MODES[kind]))))
    options: dict[str, object] = {}
    if kind in WITH_PROFILE and (profile := draw(st.sampled_from(PROFILES))):
        options["icc_profile"] = profile
    if kind == "AVIF":  # whose writer reads the EXIF first
        options["exif"] = draw(st.integers(0, 9).map(_exif))
    elif kind in WITH_EXIF:
        options["exif"] = draw(st.sampled_from([b"", b"Exif\0\0?"]) | st.integers(0, 9).map(odd_exif))
    if kind == "JPEG":
        options |= {"progressive": draw(st.booleans()), "quality": draw(st.sampled_from([1, 75, 100]))}
    return draw(damages(encoded(image, kind, **options)))


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@st.composite
def damages(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with nothing, or one or two things, done to it: bytes that differ, are missing or repeated; cut off."""
    damaged = bytearray(data)
    for damage in draw(st.lists(st.sampled_from(["bytes", "hole", "zeros", "repeat", "end", "cut"]), max_size=2)):
        at, length = (int(draw(st.floats(0, 1)) ** 3 * len(damaged)) for _ in range(2))  # mostly early, mostly short
        if damage == "bytes":
            for place in range(at, min(at + 4, len(damaged))):
                damaged[place] = draw(st.integers(0, 255))
        elif damage == "end":
            del damaged[len(damaged) - length // 4 :]
        elif damage == "cut":
            del damaged[at:]
        else:
            replacement = {"hole": b"", "zeros": bytes(length), "repeat": damaged[at : at + length] * 2}[damage]
            damaged[at : at + length] = replacement
    return bytes(damaged)


def _outcome(source: object, action: str) -> DecodedPhoto | PhotoError:
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        try:
            return decode_photo(source)
        except PhotoError as error:
            return error


def _checked(source: object) -> None:
    """Decode: a photo within bounds or a whole message, nothing else, and the filters of warnings do not matter."""
    first, second = (_outcome(source, action) for action in ("error", "ignore"))
    if isinstance(first, PhotoError):
        assert first.found
        assert first.hint
        assert 0 < len(str(first).encode()) < 2000
        assert str(first) == str(second)
        return
    assert first.pixels.dtype == np.uint8
    assert first.pixels.ndim == first.pixels.shape[2] == 3
    assert max(first.pixels.shape) <= LONGEST_SIDE_PX
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert first.warnings == second.warnings


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_any_file_in_any_kind_of_source(own_temporary_folder):
    @settings(max_examples=150, deadline=None)
    @given(files(), st.sampled_from(["bytes", "bytearray", "memoryview", "BytesIO", "file", "path", "lazy image"]))
    def check(data: bytes, kind: str) -> None:
        path = own_temporary_folder / "photo"
        if kind in ("path", "file"):
            path.write_bytes(data)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(len(data) // 3)
            buffer = bytearray(data)
            source = {"bytes": data, "bytearray": buffer, "memoryview": memoryview(buffer), "file": file, "path": path}
            given = source.get(kind)
            if kind == "BytesIO":
                given = io.BytesIO(data)
                given.seek(len(data) // 2)
            _checked(_lazy(data) if kind == "lazy image" else given)
            assert buffer == data
            assert file.tell() == len(data) // 3
            if kind == "BytesIO":
                assert given.tell() == len(data) // 2
        path.unlink(missing_ok=True)
        assert list(own_temporary_folder.iterdir()) == []

    check()


def _lazy(data: bytes) -> object:
    """An image that Pillow has opened, as far as it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Image.open(io.BytesIO(data))
        except Exception:
            return data


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_image_in_memory_stays_as_it_is(data):
    mode = data.draw(
        st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "LAB", "I", "F"])
    )
    image = data.draw(images(mode))
    image.info["icc_profile"] = data.draw(st.sampled_from(PROFILES))
    image.info["exif"] = data.draw(st.integers(0, 9).map(odd_exif))
    before = image.mode, image.size, image.tobytes(), dict(image.info)
    _checked(image)
    assert (image.mode, image.size, image.tobytes(), dict(image.info)) == before


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5) | st.integers(30, 50), max_size=4),
    dtype=st.sampled_from(["u1", "i1", "u2", "f2", "f4", "f8", "?", "O", "U3", "M8[s]", "c8"]),
    transposed=st.booleans(),
    step=st.sampled_from([-2, -1, 1, 2]),
)
def test_any_array_stays_as_it_is(shape, dtype, transposed, step):
    array = np.zeros(shape, dtype)
    view = array.T if transposed else array
    view = view[::step] if view.ndim else view
    before = view.copy()
    _checked(view)
    assert view.shape == before.shape
    assert (view == before).all()


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_value_of_python_gets_a_message(value):
    with pytest.raises(PhotoError):
        decode_photo(value)
    _checked(value)
