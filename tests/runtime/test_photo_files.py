"""Image files that are odd, cut off, or of a format that Pillow may lack."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import types
import warnings

import numpy as np
import pytest
from PIL import Image

from doubles.photos import encoded, flat_png, noise, odd_exif, picture
from instantrt.conditioning.photo import decode_photo
from instantrt.conditioning.photo.truncated import has_all_scans
from instantrt.errors import PhotoError

# ---- warnings are nobody else's business


def _odd_files() -> dict[str, bytes]:
    """Files of which Pillow warns while it decodes them."""
    palette = Image.fromarray(picture()).quantize(16)
    palette.info["transparency"] = bytes(range(16))
    malformed_mpo = bytearray(encoded(picture(), "JPEG"))
    malformed_mpo[2:2] = b"\xff\xe2\x00\x0aMPF\0II*\0"
    return {
        "EXIF": encoded(picture(), "JPEG", exif=odd_exif(3), quality=95),
        "palette": encoded(palette, "PNG"),
        "MPO": bytes(malformed_mpo),
        "TIFF": _tiff_with_an_odd_tag(),
    }


def _tiff_with_an_odd_tag() -> bytes:
    data = bytearray(encoded(picture(), "TIFF", software="x" * 40))
    place = data.index(b"\x31\x01\x02\x00") + 8  # of the tag's offset, which then lies beyond the file
    data[place : place + 4] = b"\xff\xff\xff\x0f"
    return bytes(data)


ODD = _odd_files()


@pytest.mark.parametrize("kind", ["EXIF", "MPO", "TIFF"])
def test_pillow_does_warn_of_these_files(kind):
    """Or the tests below would show nothing."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(ODD[kind])) as image:
            image.load()
            image.getexif()
    assert shown


@pytest.mark.parametrize("kind", ODD)
def test_photos_do_not_depend_on_filters_of_warnings(kind):
    decoded = []
    for action in ("ignore", "always", "error"):
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter(action)
            decoded.append(decode_photo(ODD[kind]))
        assert shown == []
    for other in decoded[1:]:
        np.testing.assert_array_equal(other.pixels, decoded[0].pixels)
        assert other.warnings == decoded[0].warnings
    if kind == "EXIF":
        assert np.abs(decoded[0].pixels[::-1, ::-1].astype(int) - picture()).mean() < 4  # turned, by the odd EXIF


def test_a_process_in_which_warnings_are_errors_decodes_odd_photos(tmp_path):
    (tmp_path / "odd.jpg").write_bytes(ODD["EXIF"])
    code = "from instantrt.conditioning.photo import decode_photo; print(decode_photo('odd.jpg').pixels.shape)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("(60, 80, 3)\n", "")


def test_the_callers_warnings_are_raised_as_before():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_photo(ODD["EXIF"])
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)
        with pytest.raises(PhotoError):
            decode_photo(b"")
        with pytest.raises(UserWarning, match="mine"):
            warnings.warn("mine", stacklevel=1)


def test_only_the_thread_that_decodes_is_without_warnings():
    """Another thread's warnings are raised while photos are decoded beside it, however the two interleave."""
    stop, missed = threading.Event(), []

    def decode() -> None:
        while not stop.is_set():
            decode_photo(ODD["EXIF"])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        threads = [threading.Thread(target=decode) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(3000):
            try:
                warnings.warn("mine", stacklevel=1)
                missed.append(1)
            except UserWarning:
                pass
        stop.set()
        for thread in threads:
            thread.join()
    assert missed == []


def test_decoding_often_leaves_one_filter_behind():
    with warnings.catch_warnings():
        decode_photo(ODD["EXIF"])
        before = len(warnings.filters)
        for _ in range(20):
            warnings.simplefilter("error")
            decode_photo(ODD["EXIF"])
            warnings.simplefilter("ignore")
            decode_photo(ODD["EXIF"])
        assert len(warnings.filters) <= before + 2


def test_what_pillow_logs_of_a_file_is_not_shown(caplog):
    data = bytearray(encoded(picture(), "TIFF"))
    place = data.index(b"\x15\x01\x03\x00") + 8  # of the number of samples per pixel
    data[place : place + 2] = b"\x00\x08"
    with pytest.raises(PhotoError, match="not an image that can be read"):
        decode_photo(bytes(data))
    assert caplog.records == []
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(data))
    assert len(caplog.records) == 1


@pytest.mark.filterwarnings("always")
def test_a_photo_with_too_many_pixels_is_refused_in_our_words_alone(recwarn):
    with pytest.raises(PhotoError, match=r"too many pixels\nFound: 9600 x 9600 pixels\nTo do: shrink it to at most 80"):
        decode_photo(flat_png(9600, 9600))  # above the size of which Pillow warns
    assert list(recwarn) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_with_damaged_exif_is_taken_to_be_upright(kind):
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    decoded = decode_photo(encoded(picture(), kind, exif=b"Exif\0\0garbage", **options))
    assert np.abs(decoded.pixels.astype(int) - picture()).mean() < 4
    if kind != "JPEG":  # there, Pillow has already given up reading it when the file is opened
        assert decoded.warnings == ("its EXIF data is damaged, it is taken to be upright",)


# ---- files without their end


VARIANTS = {
    "plain": {},
    "progressive": {"progressive": True},
    "full chroma": {"subsampling": 0},
    "restart markers": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_without_its_last_bytes_is_accepted_with_a_warning(astronaut, options, mode):
    data = encoded(Image.fromarray(astronaut).convert(mode), "JPEG", **options)
    whole = decode_photo(data)
    assert whole.warnings == ()
    for lost in (2, len(data) // 100, len(data) // 50):
        if not has_all_scans(data[:-lost]):  # of four progressive inks the last scan is the last 0.1 %
            continue
        decoded = decode_photo(data[:-lost])
        if lost > 2 or decoded.warnings:  # a decoder can do without the two bytes that say that a file ends
            (warning,) = decoded.warnings
            assert "the file lacks its last bytes" in warning
        there = slice(0, 480)  # the others are 6 %
        assert np.abs(decoded.pixels[there].astype(int) - whole.pixels[there]).mean() < 1


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_that_is_clearly_cut_off_is_refused(astronaut, options, mode):
    data = encoded(Image.fromarray(astronaut).convert(mode), "JPEG", **options)
    for kept in (0.5, 0.8) if "progressive" not in options else (0.3, 0.5):
        with pytest.raises(PhotoError, match="damaged or incomplete\nFound: JPEG of 512 x 512 pixels: it ends"):
            decode_photo(data[: int(kept * len(data))])


def test_a_warning_counts_the_rows_that_are_missing():
    data = encoded(noise(320, 320), "JPEG", quality=90, subsampling=0)
    (warning,) = decode_photo(data[: int(0.97 * len(data))]).warnings
    assert warning == "the file lacks its last bytes, 2.5% of the rows are missing"


def test_a_large_jpeg_is_decoded_small_without_its_end_too(astronaut):
    data = encoded(Image.fromarray(astronaut).resize((2700, 2700)), "JPEG")
    decoded = decode_photo(data[: int(0.99 * len(data))])
    assert decoded.pixels.shape == (1280, 1280, 3)
    assert len(decoded.warnings) == 1
    with pytest.raises(PhotoError, match=r"JPEG of 2700 x 2700 pixels: it ends early, \d+% of the rows are missing"):
        decode_photo(data[: int(0.6 * len(data))])


def test_all_scans_of_a_progressive_jpeg_have_begun_near_its_end(astronaut):
    data = encoded(astronaut, "JPEG", progressive=True)
    begun = [has_all_scans(data[: len(data) * part // 100]) for part in range(101)]
    assert begun == sorted(begun)  # once all have begun it stays so
    assert not begun[50]
    assert begun[95]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_other_files_that_are_cut_off_are_refused(kind):
    data = encoded(noise(), kind)
    with pytest.raises(PhotoError, match=r"damaged or incomplete|not an image"):
        decode_photo(data[: len(data) // 2])


# ---- formats


@pytest.mark.parametrize(
    "data", [b"", b"\x00" * 100, b"<svg></svg>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_photo_is_refused(data):
    """The last one is PostScript, which Pillow would hand to another program."""
    with pytest.raises(PhotoError, match="JPEG, PNG or WebP"):
        decode_photo(data)


@pytest.mark.parametrize(
    ("beginning", "name"),
    [
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\x00\x00\x00\x20ftypisom", "video"),
        (b"%PDF-1.7", "PDF"),
        (b"\n  <!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS pointer"),
        (b"data:image/jpeg;base64,/9j/4AAQ", "data URL"),
    ],
)
def test_what_is_mistaken_for_a_photo_is_named(beginning, name):
    with pytest.raises(PhotoError, match=f"the photo is not an image that can be read, but {name}\nFound: 300 bytes"):
        decode_photo(beginning.ljust(300, b" "))


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200)
AVIF = encoded(picture(64, 64), "AVIF")


def test_a_heic_photo_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    message = "the photo is a HEIC file, which Pillow does not read here\nFound: .*\nTo do: pip install pillow-heif; or"
    with pytest.raises(PhotoError, match=message):
        decode_photo(HEIC)


def test_a_heic_photo_is_decoded_where_its_plugin_is_installed(monkeypatch):
    """The stand-in registers itself as the real package does, only when it is asked to."""
    plugin = types.ModuleType("pillow_heif")

    class HeifImageFile(Image.Image):
        format = "HEIF"

        def __init__(self, _file: object, _name: object) -> None:
            super().__init__()
            other = Image.fromarray(picture())
            self.im, self._mode, self._size = other.im, other.mode, other.size

    def register_heif_opener() -> None:
        Image.register_open("HEIF", HeifImageFile, lambda start: start[4:12] == b"ftypheic")

    plugin.register_heif_opener = register_heif_opener
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    np.testing.assert_array_equal(decode_photo(HEIC).pixels, picture())


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_avif_photo_is_decoded_upright(orientation):
    upright = picture(128, 96)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.rot90(upright) if orientation == 6 else upright
    decoded = decode_photo(encoded(np.ascontiguousarray(stored), "AVIF", quality=95, exif=exif)).pixels
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 4


def test_an_avif_photo_is_named_where_pillow_lacks_it(monkeypatch):
    monkeypatch.setattr(Image, "OPEN", {name: opener for name, opener in Image.OPEN.items() if name != "AVIF"})
    monkeypatch.setitem(sys.modules, "pillow_avif", None)
    with pytest.raises(PhotoError, match=r"the photo is an AVIF file, which Pillow does not read here\n.*\nTo do: pip"):
        decode_photo(AVIF)


def test_a_cut_off_avif_photo_is_damaged_not_unknown():
    for kept in (150, len(AVIF) - 100):
        with pytest.raises(PhotoError, match="damaged or incomplete\nFound: AVIF"):
            decode_photo(AVIF[:kept])
