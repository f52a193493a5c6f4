"""Photo, runtime's picture, reference's picture and their difference, side by side and inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from instantrt_bench.report.text import number, ssim_text
from instantrt_bench.results.contact_sheet import amplified_difference
from instantrt_bench.results.files import ResultFile, ScenarioResult

Picture = npt.NDArray[np.uint8]

MOST_GAIN = 64
PHOTO_PX = 320  # longest side of photos in the page
LOSSLESS_PX = 256 * 256  # larger pictures are stored as JPEG: a page of them must stay small enough to open
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Tile:
    """One picture u8 RGB [H, W, 3], or why there is none."""

    role: str
    picture: Picture | str
    note: str = ""

    @property
    def uri(self) -> str | None:
        """What an ``img`` shows; None without a picture."""
        return None if isinstance(self.picture, str) else data_uri(self.picture, photo=self.role == "photo")


@dataclass(frozen=True)
class GalleryCase:
    """One case whose pictures were kept.

    Args:
        results: where it comes from.
        scenario: the case.
        folder: what its pictures' paths are relative to.
    """

    results: ResultFile
    scenario: ScenarioResult
    folder: Path

    @property
    def badness(self) -> float:
        """Lower is worse: PSNR, or the end of the order where there is none."""
        psnr = self.scenario.comparison.get("psnr_db")
        return float("inf") if psnr is None else float(psnr)

    def tiles(self) -> list[Tile]:
        """Photo, both pictures and their difference."""
        photo, runtime, reference = (read_picture(self, role) for role in ("photo", "runtime", "reference"))
        return [
            Tile("photo", photo, str(self.scenario.parameters.get("licence") or "")),
            Tile("runtime", runtime),
            Tile("reference", reference),
            Tile("difference", *difference(runtime, reference)),
        ]

    def figures(self) -> Iterator[str]:
        """How close the two pictures are, and how like the photo each is to every judge, as far as measured."""
        compared = self.scenario.comparison
        if compared.get("psnr_db") is not None:
            yield f"PSNR {number(compared['psnr_db'])} dB"
            yield f"SSIM {ssim_text(compared.get('ssim'))}"
        for judge in compared.get("similarity_difference") or ():
            cosines = (
                f"{name.partition('-')[0]} {number(system.samples['similarity'][judge][0])}"
                for name, system in self.scenario.systems.items()
            )
            yield f"cosine to the photo by {judge}: {', '.join(cosines)}"


def gallery_cases(path: Path, results: ResultFile) -> list[GalleryCase]:
    """The cases of a result file that name pictures, the worst first."""
    kept = [GalleryCase(results, s, path.parent) for s in results.scenarios if s.comparison.get("pictures")]
    return sorted(kept, key=lambda case: case.badness)


def choose_cases(by_file: Sequence[Sequence[GalleryCase]], most: int) -> list[GalleryCase]:
    """The first cases of every file, ``most`` in all and as many of each as there are, the worst of each file first."""
    turns = [(n, case) for turn in zip_longest(*by_file) for n, case in enumerate(turn) if case is not None]
    return [case for _, case in sorted(turns[:most], key=lambda turn: turn[0])]


def difference(runtime: Picture | str, reference: Picture | str) -> tuple[Picture | str, str]:
    """The absolute difference of two pictures, amplified by the power of two that just fits, and a note about it."""
    if isinstance(runtime, str) or isinstance(reference, str):
        return "needs both pictures", ""
    if runtime.shape != reference.shape:
        return "the pictures differ in size", ""
    largest = int(np.abs(runtime.astype(np.int32) - reference.astype(np.int32)).max())
    gain = MOST_GAIN
    while gain > 1 and gain * largest > 255:
        gain //= 2
    return amplified_difference(runtime, reference, gain), f"\u00d7 {gain}, largest: {largest} of 255"


def data_uri(pixels: Picture, *, photo: bool = False) -> str:
    """Pixels u8 RGB [H, W, 3] as a ``data:`` address: PNG, or JPEG where the picture is large or a photo."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if photo:
        image.thumbnail((PHOTO_PX, PHOTO_PX))
    kind = "jpeg" if photo or image.width * image.height > LOSSLESS_PX else "png"
    image.save(buffer, kind, **({"quality": JPEG_QUALITY} if kind == "jpeg" else {"optimize": True}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def read_picture(case: GalleryCase, role: str) -> Picture | str:
    """Pixels u8 RGB [H, W, 3], or why there are none. Only files below the result file's folder are opened."""
    relative = (case.scenario.comparison["pictures"] or {}).get(role)
    if not isinstance(relative, str):
        return "not kept"
    root = case.folder.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        return "lies outside the results' folder"
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError):
        return "the file is missing or damaged"
