"""``python -m instantrt_bench.nano.collages BUNDLE``: in how many pictures of two close faces both are counted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from instantrt.cli.command import ExitStatus, run_to_status
from instantrt.conditioning.cached_faces import CachedFaceStage
from instantrt.prepare import Preparation
from instantrt_nano.training.people import EYE_DISTANCE_PX, PEOPLE, portrait

Picture = npt.NDArray[np.uint8]

EYES_PX = 72.0  # eye distance of the first person
HEIGHT = 3.4  # of each person's part, in eye distances
WIDTHS = (1.9, 2.3, 2.8, 3.4)  # likewise: from cheek to cheek to shoulders
SIZES = (1.0, 0.75, 0.55)  # of the second person's face, in sizes of the first's


@dataclass(frozen=True)
class Collage:
    """Two people side by side, or one below the other.

    Args:
        people: whose faces, in :data:`PEOPLE`.
        width: of each one's part, in eye distances.
        size: of the second face, in sizes of the first.
        pixels: u8 RGB [H, W, 3].
    """

    people: tuple[str, str]
    width: float
    size: float
    pixels: Picture


def collages() -> Iterator[Collage]:
    """Every two people at every width, size and arrangement."""
    for people in permutations(PEOPLE, 2):
        for width in WIDTHS:
            for size in SIZES:
                parts = [_head(name, width, EYES_PX * s) for name, s in zip(people, (1, size), strict=True)]
                yield Collage(people, width, size, _joined(parts, axis=1))
                yield Collage(people, width, size, _joined(parts, axis=0))


def both_counted(faces: CachedFaceStage) -> dict[float, tuple[int, int]]:
    """By width: in how many collages two faces are counted, and how many there are."""
    counts = dict.fromkeys(WIDTHS, (0, 0))
    for collage in collages():
        seen, of = counts[collage.width]
        two = faces.find(collage.pixels, "collage").count == len(collage.people)
        counts[collage.width] = (seen + two, of + 1)
    return counts


def main() -> int:
    """Count, print a line per width."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.nano.collages", description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle of the trained nano checkpoint")
    options = parser.parse_args()
    return run_to_status("python -m instantrt_bench.nano.collages", lambda: _print_counts(options.bundle))


def _print_counts(bundle: Path) -> ExitStatus:
    with Preparation.load(bundle) as preparation:
        for width, (seen, of) in both_counted(preparation.faces).items():
            sys.stdout.write(f"{width} eye distances a person: both faces in {seen} of {of}\n")
    return ExitStatus.DONE


def _head(name: str, width: float, eyes_px: float) -> Picture:
    """A person's head, ``width`` x :data:`HEIGHT` eye distances, each so many pixels."""
    person, zoom = portrait(name), eyes_px / EYE_DISTANCE_PX
    size = (round(width * eyes_px), round(HEIGHT * eyes_px))
    x, y = np.array(size) / 2 - zoom * person.keypoints.mean(0) + (0, 0.1 * eyes_px)
    matrix = np.array([[zoom, 0, x], [0, zoom, y]])
    return np.asarray(cv2.warpAffine(person.pixels, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _joined(parts: list[Picture], axis: int) -> Picture:
    """Side by side (axis 1) or below each other (axis 0), the smaller one's edge drawn out."""
    longest = max(part.shape[1 - axis] for part in parts)
    missing = [longest - part.shape[1 - axis] for part in parts]
    bottom_right = [(gap, 0) if axis == 1 else (0, gap) for gap in missing]
    grown = [
        cv2.copyMakeBorder(part, bottom, 0, 0, right, cv2.BORDER_REPLICATE)
        for part, (bottom, right) in zip(parts, bottom_right, strict=True)
    ]
    return np.concatenate(grown, axis=axis)


if __name__ == "__main__":
    raise SystemExit(main())
