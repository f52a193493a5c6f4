"""Photos of every kind users have, good and bad."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from doubles.photos import encoded, picture, png
from instantrt.conditioning.photo import LONGEST_SIDE_PX, decode_photo
from instantrt.errors import PhotoError
from randomness import fresh_rng


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats(kind):
    decoded = decode_photo(encoded(Image.fromarray(picture()), kind)).pixels
    assert np.abs(decoded.astype(int) - picture()).mean() < 6


def test_greyscale():
    grey = picture()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_photo(encoded(Image.fromarray(grey), "PNG")).pixels, expected)
    np.testing.assert_array_equal(decode_photo(grey).pixels, expected)
    np.testing.assert_array_equal(decode_photo(grey[..., None]).pixels, expected)


def test_one_bit():
    decoded = decode_photo(encoded(Image.fromarray(picture()[..., 0] > 127), "PNG")).pixels
    assert set(np.unique(decoded)) == {0, 255}


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    decoded = decode_photo(encoded(Image.fromarray(picture()).convert("CMYK"), kind)).pixels
    assert decoded.shape == (60, 80, 3)
    assert np.abs(decoded.astype(int) - picture()).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_greyscale_keeps_the_high_bits(kind):
    values = np.linspace(0, 65535, 80 * 60).reshape(60, 80).astype(np.uint16)
    decoded = decode_photo(encoded(Image.fromarray(values), kind)).pixels
    np.testing.assert_array_equal(decoded[..., 0], values >> 8)
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


def test_16_bit_rgb_png_keeps_the_high_bits():
    values = fresh_rng().integers(0, 65536, (40, 50, 3), np.uint16)
    np.testing.assert_array_equal(decode_photo(_png_16_bit_rgb(values)).pixels, values >> 8)


def _png_16_bit_rgb(values: np.ndarray) -> bytes:
    """Pillow cannot write such a file."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)  # each with filter type 0
    return png(values.shape[1], values.shape[0], rows, bits=16)


def test_palette():
    image = Image.fromarray(picture()).quantize(200)
    np.testing.assert_array_equal(decode_photo(encoded(image, "PNG")).pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_white(mode):
    image = Image.fromarray(picture()).convert("RGBA")
    image.putalpha(Image.fromarray(np.where(np.arange(80) < 40, 0, 255).astype(np.uint8)[None].repeat(60, 0)))
    decoded = decode_photo(encoded(image.convert(mode), "PNG")).pixels
    assert (decoded[:, :40] == 255).all()
    assert (decoded[:, 60:, 0] != 255).any()


def test_half_transparent_array():
    pixels = np.full((40, 40, 4), (10, 20, 30, 51), np.uint8)  # alpha 0.2
    np.testing.assert_allclose(decode_photo(pixels).pixels[0, 0], [206, 208, 210], atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    """The file holds the picture turned the other way; all eight come out upright."""
    upright = Image.fromarray(picture())
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
    decoded = decode_photo(encoded(stored, "JPEG", exif=exif, quality=95)).pixels
    assert decoded.shape == (60, 80, 3)
    assert np.abs(decoded.astype(int) - picture()).mean() < 4


@pytest.mark.parametrize(("width", "height"), [(2000, 1000), (2100, 2900), (1281, 40)])
def test_large_photos_are_shrunk(width, height):
    decoded = decode_photo(encoded(Image.fromarray(picture(width, height)), "JPEG")).pixels
    scale = LONGEST_SIDE_PX / max(width, height)
    assert decoded.shape == (round(height * scale), round(width * scale), 3)
    small = picture(decoded.shape[1], decoded.shape[0])
    assert np.abs(decoded.astype(int) - small).mean() < 4


@pytest.mark.parametrize("side", [9_000, 12_000, 30_000])
def test_decompression_bomb(side):
    """Would become 0.2 to 2.7 GB of pixels: refused from the header alone."""
    with pytest.raises(PhotoError, match="too many pixels"):
        decode_photo(png(side, side, b""))


def test_bomb_as_an_array():
    with pytest.raises(PhotoError, match="too many pixels"):
        decode_photo(np.broadcast_to(np.uint8(0), (9_000, 9_000)))


def test_compressed_text_bomb():
    """A PNG whose text chunk expands to 4 MB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("bomb", "0" * 4_000_000, zip=True)
    with pytest.raises(PhotoError):
        decode_photo(encoded(Image.fromarray(picture()), "PNG", pnginfo=info))


@pytest.mark.parametrize("shape", [(1, 1), (31, 500), (500, 31)])
def test_too_small(shape):
    pixels = np.zeros((*shape, 3), np.uint8)
    for source in (pixels, encoded(Image.fromarray(pixels), "PNG")):
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
        decode_photo(encoded(Image.fromarray(np.ones((64, 64), np.float32)), "TIFF"))
