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

from instantrt_bench.report.figures import number, ssim_text
from instantrt_bench.report.markup import Html, breakable, join, tag
from instantrt_bench.results.contact_sheet import amplified_difference
from instantrt_bench.results.files import ResultFile, ScenarioResult

Picture = npt.NDArray[np.uint8]

MOST_GAIN = 64
PHOTO_PX = 320  # longest side of photos in the page
LOSSLESS_PX = 256 * 256  # larger pictures are stored as JPEG: a page of them must stay small enough to open
JPEG_QUALITY = 92
ROLES = ("photo", "runtime", "reference", "difference")


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


def gallery_cases(path: Path, results: ResultFile) -> list[GalleryCase]:
    """The cases of a result file that name pictures, the worst first."""
    kept = [GalleryCase(results, s, path.parent) for s in results.scenarios if s.comparison.get("pictures")]
    return sorted(kept, key=lambda case: case.badness)


def gallery(by_file: Sequence[Sequence[GalleryCase]], most: int) -> Html:
    """The first cases of every file, ``most`` in all and as many of each as there are, and how many there would be."""
    turns = [(n, case) for turn in zip_longest(*by_file) for n, case in enumerate(turn) if case is not None]
    shown = [case for _, case in sorted(turns[:most], key=lambda one: one[0])]
    note = f"{len(shown)} of {len(turns)} cases, lowest PSNR first. " if len(shown) < len(turns) else ""
    hint = f"{note}Click or tap a picture to compare all four enlarged."
    return join(tag("p", hint), *(_case(index, case) for index, case in enumerate(shown, 1)), _zoom())


def _case(index: int, case: GalleryCase) -> Html:
    pictures = {role: _read(case, role) for role in ("photo", "runtime", "reference")}
    notes = {"photo": str(case.scenario.parameters.get("licence") or "")}
    runtime, reference = pictures["runtime"], pictures["reference"]
    if isinstance(runtime, np.ndarray) and isinstance(reference, np.ndarray):
        pictures["difference"], notes["difference"] = difference(runtime, reference)
    else:
        pictures["difference"] = "needs both pictures"
    name = f"case-{index}"
    tiles = (_tile(f"{name}-{role}", role, pictures[role], notes.get(role, "")) for role in ROLES)
    prompt = case.scenario.parameters.get("prompt")
    caption = tag(
        "p",
        tag("strong", breakable(case.scenario.id)),
        f" \u201c{prompt}\u201d " if prompt else " ",
        ", ".join(_figures(case.scenario)),
    )
    origin = tag("p", tag("code", case.results.command, class_="command"), class_="origin")
    return tag("article", caption, tag("div", *tiles, class_="tiles"), origin, class_="case", id=name)


def _figures(scenario: ScenarioResult) -> Iterator[str]:
    """How close the two pictures are, and how like the photo each is to every judge, as far as that was measured."""
    found = scenario.comparison
    if found.get("psnr_db") is not None:
        yield f"PSNR {number(found['psnr_db'])} dB"
        yield f"SSIM {ssim_text(found.get('ssim'))}"
    for judge in found.get("similarity_difference") or ():
        cosines = (
            f"{name.partition('-')[0]} {number(system.samples['similarity'][judge][0])}"
            for name, system in scenario.systems.items()
        )
        yield f"cosine to the photo by {judge}: {', '.join(cosines)}"


def difference(runtime: Picture, reference: Picture) -> tuple[Picture | str, str]:
    """The absolute difference of two pictures, amplified by the power of two that just fits, and a note about it."""
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


def _read(case: GalleryCase, role: str) -> Picture | str:
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


def _tile(identity: str, role: str, picture: Picture | str, note: str) -> Html:
    if isinstance(picture, str):
        return tag("figure", tag("p", picture, class_="absent"), tag("figcaption", role), class_="tile")
    height, width = picture.shape[:2]
    alt = f"{role} picture" if role != "photo" else "photo"
    image = tag("img", src=data_uri(picture, photo=role == "photo"), alt=alt, width=width, height=height)
    link = tag("a", image, href=f"#{identity}", class_="enlarge")
    caption = tag("figcaption", tag("strong", role), f" {note}" if note else None)
    return tag("figure", link, caption, class_="tile", id=identity, data_role=role)


def _zoom() -> Html:
    """The empty window that zoom.js fills."""
    buttons = (("out", "\u2212", "zoom out"), ("reset", "1:1", "whole picture"), ("in", "+", "zoom in"))
    controls = [tag("button", text, type="button", data_zoom=do, aria_label=label) for do, text, label in buttons]
    close = tag("button", "\u2715", type="button", data_zoom="close", aria_label="close")
    bar = tag("div", tag("output", "1\u00d7"), *controls, close, class_="controls")
    return tag("dialog", bar, tag("div", class_="panes"), id="zoom", aria_label="enlarged pictures")
