"""Photos of every kind users have, good and bad."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from instantrt.conditioning import photo as photo_module
from instantrt.conditioning.photo import LONGEST_SIDE_PX, decode_photo
from instantrt.errors import PhotoError
from randomness import fresh_rng


def _picture(width: int = 80, height: int = 60) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and different in every quarter."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_the_same_photo_from_path_bytes_image_and_array(tmp_path):
    pixels = _picture()
    data = _encoded(Image.fromarray(pixels), "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for source in (path, str(path), data, Image.fromarray(pixels), pixels):
        decoded = decode_photo(source)
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, pixels)


def test_an_array_is_copied():
    pixels = _picture()
    decode_photo(pixels)[:] = 0
    np.testing.assert_array_equal(pixels, _picture())


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(kind):
    decoded = decode_photo(_encoded(Image.fromarray(_picture()), kind))
    assert np.abs(decoded.astype(int) - _picture()).mean() < 6


def test_greyscale():
    grey = _picture()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_photo(_encoded(Image.fromarray(grey), "PNG")), expected)
    np.testing.assert_array_equal(decode_photo(grey), expected)
    np.testing.assert_array_equal(decode_photo(grey[..., None]), expected)


def test_one_bit():
    decoded = decode_photo(_encoded(Image.fromarray(_picture()[..., 0] > 127), "PNG"))
    assert set(np.unique(decoded)) == {0, 255}


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    decoded = decode_photo(_encoded(Image.fromarray(_picture()).convert("CMYK"), kind))
    assert decoded.shape == (60, 80, 3)
    assert np.abs(decoded.astype(int) - _picture()).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greyscale_keeps_the_high_bits(kind):
    values = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    decoded = decode_photo(_encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(decoded[..., 0], values >> 8)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_16_bit_rgb_png_keeps_the_high_bits():
    values = fresh_rng().integers(0, 65536, (40, 50, 3), np.uint16)
    np.testing.assert_array_equal(decode_photo(_png_16_bit_rgb(values)), values >> 8)


def _png_16_bit_rgb(values: np.ndarray) -> bytes:
    """Pillow cannot write such a file."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)  # each with filter type 0
    return _png(values.shape[1], values.shape[0], 16, rows)


def _png(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """Header, one compressed block of RGB rows, end."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_palette():
    image = Image.fromarray(_picture()).quantize(200)
    np.testing.assert_array_equal(decode_photo(_encoded(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode):
    image = Image.fromarray(_picture()).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(80) < 40, 0, 255).astype(np.uint8)[None].repeat(60, 0)))
    decoded = decode_photo(_encoded(image.convert(mode), "PNG"))
    assert (decoded[:, :40] == 255).all()
    assert (decoded[:, 60:, 0] != 255).any()


def test_half_transparent_array():
    pixels = np.full((40, 40, 4), (10, 20, 30, 51), np.uint8)  # alpha 0.2
    np.testing.assert_allclose(decode_photo(pixels)[0, 0], [206, 208, 210], atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """The file holds the picture turned the other way; all eight come out upright."""
    upright = Image.fromarray(_picture())
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_photo(_encoded(stored, "JPEG", exif=exif, quality=95))
    assert decoded.shape == (60, 80, 3)
    assert np.abs(decoded.astype(int) - _picture()).mean() < 4


@pytest.mark.parametrize(("width", "height"), [(2000, 1000), (2100, 2900), (1281, 40)])
def test_large_photos_are_shrunk(width, height):
    decoded = decode_photo(_encoded(Image.fromarray(_picture(width, height)), "JPEG"))
    scale = LONGEST_SIDE_PX / max(width, height)
    assert decoded.shape == (round(height * scale), round(width * scale), 3)
    small = _picture(decoded.shape[1], decoded.shape[0])
    assert np.abs(decoded.astype(int) - small).mean() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated(kind):
    noise = fresh_rng().integers(0, 256, (200, 200, 3), np.uint8)
    data = _encoded(Image.fromarray(noise), kind)
    with pytest.raises(PhotoError, match=r"damaged|not an image"):
        decode_photo(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 100, b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_not_a_photo(data):
    """The last one is PostScript, which Pillow would hand to another program."""
    with pytest.raises(PhotoError, match="JPEG, PNG or WebP"):
        decode_photo(data)


def test_missing_and_unreadable_paths(tmp_path):
    with pytest.raises(PhotoError, match=r"does not exist\nFound: .*absent.jpg\nTo do"):
        decode_photo(tmp_path / "absent.jpg")
    with pytest.raises(PhotoError, match="cannot be read"):
        decode_photo(tmp_path)
    with pytest.raises(PhotoError, match="cannot be read"):
        decode_photo("a\0b.jpg")


def test_huge_file(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_module, "MAX_FILE_BYTES", 10)
    (tmp_path / "photo.jpg").write_bytes(b"0" * 11)
    with pytest.raises(PhotoError, match="too large"):
        decode_photo(tmp_path / "photo.jpg")


@pytest.mark.parametrize("side", [9_000, 12_000, 30_000])
def test_decompression_bomb(side):
    """Would become 0.2 to 2.7 GB of pixels: refused from the header alone."""
    with pytest.raises(PhotoError, match="too many pixels"):
        decode_photo(_png(side, side, 8, b""))


def test_bomb_as_an_array():
    with pytest.raises(PhotoError, match="too many pixels"):
        decode_photo(np.broadcast_to(np.uint8(0), (9_000, 9_000)))


def test_compressed_text_bomb():
    """A PNG whose text chunk expands to 4 MB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "0" * 4_000_000, zip=True)
    with pytest.raises(PhotoError):
        decode_photo(_encoded(Image.fromarray(_picture()), "PNG", pnginfo=info))


@pytest.mark.parametrize("shape", [(1, 1), (31, 500), (500, 31)])
def test_too_small(shape):
    pixels = np.zeros((*shape, 3), np.uint8)
    for source in (pixels, _encoded(Image.fromarray(pixels), "PNG")):
        with pytest.raises(PhotoError, match=f"too small\nFound: {shape[1]} x {shape[0]} pixels"):
            decode_photo(source)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint16),
        np.zeros((64, 64, 3), bool),
    ],
)
def test_array_dtypes(array):
    with pytest.raises(PhotoError, match=f"must be uint8, 0-255\nFound: {array.dtype} array"):
        decode_photo(array)


@pytest.mark.parametrize("shape", [(64,), (64, 64, 2), (64, 64, 5), (1, 64, 64, 3), (3, 64, 64), ()])
def test_array_shapes(shape):
    with pytest.raises(PhotoError, match="not a photo"):
        decode_photo(np.zeros(shape, np.uint8))


def test_floating_point_photo():
    with pytest.raises(PhotoError, match="floating-point"):
        decode_photo(_encoded(Image.fromarray(np.ones((64, 64), np.float32)), "TIFF"))


_SAMPLES = {kind: _encoded(Image.fromarray(_picture()), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(_SAMPLES)),
    damage=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged metadata
def test_damaged_bytes_give_a_photo_or_a_photo_error(kind, damage):
    data = bytearray(_SAMPLES[kind])
    for position, value in damage:
        data[position % len(data)] = value
    try:
        decoded = decode_photo(bytes(data))
    except PhotoError as error:
        message = str(error)
    else:
        message = "" if decoded.dtype == np.uint8 and decoded.ndim == 3 else f"{decoded.dtype} {decoded.shape}"
    assert message == "" or ("Found: " in message and "To do: " in message)
