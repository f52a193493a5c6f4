"""Large photos: little memory beyond what the decoder itself takes, and a bound on that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from doubles.photos import encoded, flat_png, picture
from instantrt.conditioning.photo import decode_photo, limits
from instantrt.errors import PhotoError

SIDE = 7200  # 52 million pixels
MEGAPIXELS = SIDE * SIDE / 1e6

MEASURE = """
import sys
import numpy as np
from instantrt.conditioning.photo import decode_photo

def peak_mb():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000

decode_photo(np.zeros((64, 64, 3), np.uint8))
before = peak_mb()
photo = decode_photo(sys.argv[1]).pixels
print(peak_mb() - before, *photo.shape)
"""


def _peak_mb(path: Path) -> tuple[float, tuple[int, ...]]:
    """Megabytes that decoding adds to a fresh process, and the result's shape."""
    run = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    peak, *shape = run.stdout.split()
    return float(peak), tuple(int(n) for n in shape)


@pytest.mark.parametrize(
    ("bits", "colour", "bytes_per_pixel"),
    [(8, 0, 1), (16, 0, 2), (8, 2, 4), (16, 2, 4), (8, 6, 4)],
    ids=["grey", "16-bit grey", "RGB", "16-bit RGB", "RGBA"],
)
def test_a_large_png_takes_little_more_than_its_pixels(tmp_path, bits, colour, bytes_per_pixel):
    """Which Pillow holds in 1, 2 or 4 bytes each."""
    path = tmp_path / "photo.png"
    path.write_bytes(flat_png(SIDE, SIDE, bits=bits, colour=colour))
    peak, shape = _peak_mb(path)
    assert shape == (1280, 1280, 3)
    assert peak < bytes_per_pixel * MEGAPIXELS + 60


@pytest.mark.parametrize("size", [(SIDE, SIDE), (20_000, 2_559)], ids=["square", "panorama"])
def test_a_large_jpeg_is_never_decoded_in_full(tmp_path, size):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(Image.new("RGB", size, "tan"), "JPEG"))
    peak, shape = _peak_mb(path)
    assert max(shape) == 1280
    assert peak < 80


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "I;16"])
def test_a_photo_that_is_shrunk_in_strips_looks_as_if_shrunk_at_once(mode, monkeypatch):
    """Strips of an odd number of rows, and a last one that is shorter."""
    rgb = np.asarray(Image.fromarray(picture(500, 380)).resize((2999, 2311)))
    if mode == "I;16":
        image = Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(rgb).quantize(250, dither=Image.Dither.NONE)
    else:
        image = Image.fromarray(rgb).convert(mode)
    at_once = decode_photo(image).pixels
    monkeypatch.setattr(limits, "PIXELS_AT_ONCE", 1_000_000)
    in_strips = decode_photo(image).pixels
    assert in_strips.shape == at_once.shape
    assert np.abs(in_strips.astype(int) - at_once).mean() < 1
    assert np.abs(in_strips.astype(int) - at_once).max() <= (
        40 if mode == "P" else 4
    )  # at the edges of a palette's colours


def test_transparent_parts_of_a_large_photo_do_not_bleed(monkeypatch):
    """White is laid under before pixels are averaged."""
    monkeypatch.setattr(limits, "PIXELS_AT_ONCE", 1_000_000)
    pixels = np.zeros((1500, 3000, 4), np.uint8)
    pixels[:, 1500:] = (200, 20, 20, 255)
    decoded = decode_photo(pixels).pixels
    assert (decoded[:, :638] == 255).all()
    assert (decoded[:, 642:] == (200, 20, 20)).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_large_photo_is_turned_upright_after_it_is_shrunk(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(np.asarray(Image.fromarray(picture(400, 300)).resize((5000, 3400))), {3: 2, 6: 1}[orientation])
    decoded = decode_photo(encoded(np.ascontiguousarray(stored), "PNG", exif=exif, compress_level=1)).pixels
    assert decoded.shape == (870, 1280, 3)
    assert np.abs(decoded.astype(int) - np.asarray(Image.fromarray(picture(400, 300)).resize((1280, 870)))).mean() < 2


def test_a_webp_of_which_the_decoder_would_hold_a_gigabyte_is_refused():
    """38 bytes that say 8000 x 8000 pixels; its decoder keeps 16 bytes for each."""
    data = encoded(Image.new("RGB", (8000, 8000)), "WEBP", lossless=True, method=0)
    with pytest.raises(PhotoError, match=r"too many pixels\nFound: 8000 x 8000 pixels\nTo do: shrink it to at most 40"):
        decode_photo(data)
