"""Colour profiles: one photo in many colour spaces comes out as one photo."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from doubles.icc import (
    SPACES,
    cmyk_profile,
    converted,
    grey_profile,
    inked,
    rgb_profile,
    srgb_curve,
    tagged,
)
from doubles.nano_faces import nano_face_stage
from doubles.photos import encoded, picture
from instantrt.conditioning.face import FaceStage
from instantrt.conditioning.photo import decode_photo

UNUSABLE = ("its colour profile cannot be used, its colours are taken as sRGB",)
RED, GREEN = np.array([[[255, 0, 0]]], np.uint8), np.array([[[0, 255, 0]]], np.uint8)


@pytest.fixture(scope="module")
def stage() -> FaceStage:
    return nano_face_stage()


@pytest.mark.parametrize(
    ("space", "red", "green"),
    [
        ("Display P3", (234, 51, 35), (117, 251, 76)),
        ("Adobe RGB", (219, 0, 0), (144, 255, 60)),
        ("ProPhoto RGB", (179, 70, 26), (138, 237, 78)),
    ],
)
def test_the_test_profiles_have_the_published_numbers(space, red, green):
    assert tuple(converted(RED, space)[0, 0]) == red
    assert tuple(converted(GREEN, space)[0, 0]) == green


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_photo_comes_out_as_srgb_whatever_its_profile(astronaut, space, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(tagged(astronaut, space), kind, icc_profile=rgb_profile(space), **options)
    decoded = decode_photo(data)
    assert decoded.warnings == ()
    difference = np.abs(decoded.pixels.astype(int) - astronaut)
    assert difference.max() <= 4  # ProPhoto's steps of 1/255 are large ones
    assert difference.mean() < 0.3


def test_the_face_embedding_does_not_depend_on_the_cameras_profile(stage, astronaut):
    embeddings = {}
    for space in SPACES:
        data = encoded(tagged(astronaut, space), "JPEG", quality=97, subsampling=0, icc_profile=rgb_profile(space))
        photo = decode_photo(data).pixels
        embeddings[space] = stage.embed(photo, stage.largest(photo, "face photo")[0])
    for space in SPACES:
        assert _cosine(embeddings[space], embeddings["sRGB"]) >= 0.9995


def test_without_its_profile_a_photo_is_further_from_the_person(stage, astronaut):
    """Which the test above therefore shows: ProPhoto's numbers taken as sRGB look pale."""
    photo = converted(astronaut, "ProPhoto RGB")
    pale, right = (stage.embed(p, stage.largest(p, "face photo")[0]) for p in (photo, astronaut))
    assert _cosine(pale, right) < 0.9995


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("profile", [ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), None])
def test_an_srgb_profile_changes_no_number(astronaut, profile):
    """Whoever wrote it: what it would move by rounding stays."""
    data = encoded(astronaut, "PNG", icc_profile=profile or rgb_profile("sRGB"))
    np.testing.assert_array_equal(decode_photo(data).pixels, astronaut)


def test_a_cameras_adobe_rgb_is_read_from_exif(astronaut):
    """Cameras name it there and embed no profile: the DCF standard's R03."""
    image = Image.fromarray(converted(astronaut, "Adobe RGB"))
    data = encoded(image, "JPEG", exif=_exif_of_colour_space(b"R03\0"), quality=97, subsampling=0)
    assert np.abs(decode_photo(data).pixels.astype(int) - astronaut).mean() < 1.5
    plain = encoded(image, "JPEG", exif=_exif_of_colour_space(b"R98\0"), quality=97, subsampling=0)
    assert np.abs(decode_photo(plain).pixels.astype(int) - astronaut).mean() > 4


def _exif_of_colour_space(index: bytes) -> bytes:
    """EXIF whose interoperability part names a colour space."""
    ifd0 = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 26, 0)
    exif = struct.pack("<HHHIII", 1, 0xA005, 4, 1, 44, 0)
    interop = struct.pack("<HHHI4sI", 1, 1, 2, 4, index, 0)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + ifd0 + exif + interop


def test_a_grey_photo_with_a_grey_profile(astronaut):
    grey = astronaut[..., 0]
    data = encoded(
        (255 * srgb_curve(grey / 255) ** (1 / 1.5)).round().astype(np.uint8), "PNG", icc_profile=grey_profile(1.5)
    )
    decoded = decode_photo(data).pixels
    assert (decoded == decoded[..., :1]).all()
    assert np.abs(decoded[..., 0].astype(int) - grey).mean() < 0.3


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_grey_photo_with_a_grey_profile(kind):
    linear = np.linspace(0, 1, 80 * 60).reshape(60, 80)
    image = Image.fromarray((linear ** (1 / 1.5) * 65535).round().astype(np.uint16))
    decoded = decode_photo(encoded(image, kind, icc_profile=grey_profile(1.5))).pixels
    expected = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055) * 255
    assert np.abs(decoded[..., 1] - expected)[linear > 0.01].max() < 3


def test_a_grey_photo_with_a_colour_profile_stays_grey(astronaut):
    grey = Image.fromarray(converted(astronaut[..., :1].repeat(3, 2), "Display P3")[..., 0])
    decoded = decode_photo(encoded(grey, "JPEG", icc_profile=rgb_profile("Display P3"), quality=97))
    assert decoded.warnings == ()
    assert np.abs(decoded.pixels.astype(int) - astronaut[..., :1]).mean() < 1.5


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_mixed_as_their_profile_says(kind):
    amounts = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], float)
    patches = Image.new("CMYK", (len(amounts) * 32, 64))
    for i, patch in enumerate(amounts):
        patches.paste(tuple(int(255 * amount) for amount in patch), (32 * i, 0, 32 * i + 32, 64))
    options = {"quality": 100} if kind == "JPEG" else {}
    decoded = decode_photo(encoded(patches, kind, icc_profile=cmyk_profile(), **options))
    assert decoded.warnings == ()
    linear = inked(amounts)
    expected = 255 * np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(decoded.pixels[32, 16::32] - expected).max() < 4


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_profiles_hold_for_transparent_and_palette_photos(mode):
    opaque = tagged(picture(), "Display P3")
    image = opaque.convert("RGBA") if mode == "RGBA" else opaque.quantize(250)
    expected = decode_photo(image.convert("RGB")).pixels if mode == "P" else picture()
    decoded = decode_photo(encoded(image, "PNG", icc_profile=rgb_profile("Display P3")))
    assert np.abs(decoded.pixels.astype(int) - expected).mean() < 0.3
    half = image.convert("RGBA")
    half.putalpha(0)
    assert (decode_photo(encoded(half, "PNG", icc_profile=rgb_profile("Display P3"))).pixels == 255).all()


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        rgb_profile("Adobe RGB")[:200],
        rgb_profile("Adobe RGB")[:-3000],
        cmyk_profile(),
        grey_profile(2.2),
    ],
    ids=["text", "header alone", "cut off", "of inks", "of grey"],
)
def test_a_profile_that_cannot_be_used_is_a_warning(profile):
    decoded = decode_photo(encoded(picture(), "PNG", icc_profile=profile))
    assert decoded.warnings == UNUSABLE
    np.testing.assert_array_equal(decoded.pixels, picture())


def test_a_profile_of_colours_says_nothing_about_inks():
    inks = Image.fromarray(picture()).convert("CMYK")
    decoded = decode_photo(encoded(inks, "TIFF", icc_profile=rgb_profile("Adobe RGB")))
    assert decoded.warnings == UNUSABLE
    assert np.abs(decoded.pixels.astype(int) - picture()).max() <= 1


def test_a_large_photo_is_converted_after_it_is_shrunk(astronaut):
    large = np.asarray(Image.fromarray(astronaut).resize((4100, 4100)))
    data = encoded(tagged(large, "Adobe RGB"), "PNG", icc_profile=rgb_profile("Adobe RGB"), compress_level=1)
    decoded = decode_photo(data).pixels
    assert decoded.shape == (1280, 1280, 3)
    small = np.asarray(Image.fromarray(astronaut).resize((1280, 1280)))
    assert np.abs(decoded.astype(int) - small).mean() < 2
