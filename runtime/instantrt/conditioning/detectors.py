"""Face detectors behind one interface: how each looks at a photo, and how its outputs become boxes and keypoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from instantrt.conditioning.views import Photo, View, Window, letterbox, view_of

Floats = npt.NDArray[np.float32]
Outputs = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Mapping[str, npt.NDArray[Any]]], Outputs]
"""A network: named inputs to named outputs."""

MIN_AGREEMENT = 0.3  # intersection over union of a face's box with that of the same face seen from near
TINY68_MARGINS = (0.1, 0.5, 0.0)  # on each side, in longest sides of the photo
TINY68_TILES = (0.5, 0.25)  # in longest sides of the photo; a face must be about a fifth of what is looked at
TINY68_COVERED = 0.85  # of a face's box, when its neighbours are looked for: they may reach into it
TINY68_BESIDE_MARGIN = 0.5  # on each side, in longest sides of what lies beside the face
SCRFD_STRIDES = (8, 16, 32)
SCRFD_ANCHORS = 2


@dataclass(frozen=True)
class Candidates:
    """Possible faces, in pixels of a view or of a photo.

    Args:
        boxes: f32 [n, 4], x1, y1, x2, y2.
        scores: f32 [n], 0-1.
        keypoints: f32 [n, 5, 2], image-left eye first.
    """

    boxes: Floats
    scores: Floats
    keypoints: Floats

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, index: npt.NDArray[Any]) -> Candidates:
        """Those that ``index``, a mask or whole numbers, picks."""
        return Candidates(self.boxes[index], self.scores[index], self.keypoints[index])

    def to_photo(self, view: View) -> Candidates:
        """From the pixels of ``view`` to those of its photo."""
        boxes = view.to_photo(self.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        return Candidates(boxes, self.scores, view.to_photo(self.keypoints))

    @staticmethod
    def joined(parts: list[Candidates]) -> Candidates:
        """All of ``parts``, in order."""
        return Candidates(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.keypoints for p in parts]),
        )


@dataclass(frozen=True)
class Detector:
    """How one kind of detector network is used.

    Args:
        threshold: faces score at least this.
        max_overlap: of two boxes with a larger intersection over union the one with the lower score is dropped.
        passes: the views of a photo, for an input of so many pixels; the next pass only if one finds nothing.
        decode: the network's outputs, in pixels of the view.
        zoom: each face found is looked at again in a square so many times as large as its box; 0 for never.
        beside: a view of a photo in which the face with this box is covered, for a detector that sees one of two faces
            that are close together; None for one that sees both.
    """

    threshold: float
    max_overlap: float
    passes: Callable[[Photo, int], Iterator[list[View]]]
    decode: Callable[[Outputs, int], Candidates]
    zoom: float = 0
    beside: Callable[[Photo, Floats, int], View] | None = None

    def detect(self, run: Run, photo: Photo, px: int) -> Candidates:
        """The faces in u8 RGB ``photo`` [H, W, 3], in photo pixels, best score first; possibly none.

        Args:
            run: the network, with a square input of ``px`` pixels.
            photo: u8 [H, W, 3].
            px: side of the input.
        """
        candidates = _NONE
        for views in self.passes(photo, px):
            candidates = self._suppressed(Candidates.joined([self._look(run, view, px) for view in views]))
            if self.zoom and len(candidates):
                candidates = self._zoomed(run, photo, px, candidates)
            if len(candidates):
                break
        return candidates

    def neighbours(self, run: Run, photo: Photo, px: int, box: Floats) -> Candidates:
        """The faces that :meth:`detect` did not see because of the one with ``box``; possibly none.

        Args:
            run: as for :meth:`detect`.
            photo: u8 [H, W, 3].
            px: side of the input.
            box: f32 [4], of the only face that it saw, in photo pixels.
        """
        if self.beside is None:
            return _NONE
        seen = self._suppressed(self._look(run, self.beside(photo, box, px), px))
        near = self._zoomed(run, photo, px, seen) if len(seen) else seen
        return near.take(overlap(box, near.boxes) < MIN_AGREEMENT)

    def _look(self, run: Run, view: View, px: int) -> Candidates:
        candidates = self.decode(run({"image": view.pixels[None]}), px)
        return candidates.take(candidates.scores >= self.threshold).to_photo(view)

    def _suppressed(self, candidates: Candidates) -> Candidates:
        ordered = candidates.take(np.argsort(-candidates.scores, kind="stable"))
        return ordered.take(suppress(ordered.boxes, self.max_overlap))

    def _zoomed(self, run: Run, photo: Photo, px: int, candidates: Candidates) -> Candidates:
        """Each face seen again from near, where boxes and keypoints are finer; false alarms do not come back."""
        again = [self._look_again(run, photo, px, box) for box in candidates.boxes]
        return self._suppressed(Candidates.joined(again))

    def _look_again(self, run: Run, photo: Photo, px: int, box: Floats) -> Candidates:
        side = self.zoom * float(max(box[2] - box[0], box[3] - box[1]))
        x, y = (box[:2] + box[2:]) / 2 - side / 2
        seen = self._look(run, view_of(photo, Window(float(x), float(y), side), px), px)
        # Only of the first candidate, the one nearest the middle, are the keypoints exact.
        first = seen.take(np.arange(len(seen)) < 1)
        return first.take(overlap(box, first.boxes) >= MIN_AGREEMENT)


_NONE = Candidates(*(np.zeros(shape, np.float32) for shape in ((0, 4), (0,), (0, 5, 2))))


def overlap(box: Floats, boxes: Floats, pixel: float = 0) -> Floats:
    """Intersection over union of ``box`` [4] with each of ``boxes`` [n, 4], f32 [n].

    Args:
        box: x1, y1, x2, y2.
        boxes: likewise.
        pixel: what is added to sides: 1 if the right and bottom edges are counted as pixels inside.
    """
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.maximum(high - low + pixel, 0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2] + pixel).prod(1)
    area = (box[2:] - box[:2] + pixel).prod()
    return np.asarray(shared / (area + areas - shared), np.float32)


def suppress(boxes: Floats, max_overlap: float) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression of ``boxes`` [n, 4] in order of falling score: the indices that stay.

    Edges count as pixels inside, as in insightface.
    """
    kept: list[int] = []
    left = np.arange(len(boxes))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        left = left[overlap(boxes[best], boxes[left], pixel=1) <= max_overlap]
    return np.array(kept, np.intp)


def _scrfd_passes(photo: Photo, px: int) -> Iterator[list[View]]:
    """The whole photo, then smaller: SCRFD misses faces that fill the frame."""
    return ([letterbox(photo, px, px // shrink)] for shrink in (1, 2, 4))


def _scrfd_decode(outputs: Outputs, px: int) -> Candidates:
    """Heads hold distances from the anchors' centres in strides: left, top, right, bottom, and five (x, y)."""
    return Candidates.joined([_scrfd_decode_stride(outputs, px, stride) for stride in SCRFD_STRIDES])


def _scrfd_decode_stride(outputs: Outputs, px: int, stride: int) -> Candidates:
    cells = np.arange(px // stride, dtype=np.float32) * stride
    x, y = np.meshgrid(cells, cells)
    centres = np.repeat(np.stack([x, y], -1).reshape(-1, 2), SCRFD_ANCHORS, axis=0)
    distances = outputs[f"boxes_{stride}"] * np.float32(stride)
    offsets = (outputs[f"keypoints_{stride}"] * np.float32(stride)).reshape(-1, 5, 2)
    boxes = np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1)
    return Candidates(boxes, outputs[f"scores_{stride}"][:, 0], centres[:, None] + offsets)


def _tiny68_passes(photo: Photo, px: int) -> Iterator[list[View]]:
    """The whole photo with a margin, because the network misses faces that fill the frame; without; then in parts."""
    height, width = photo.shape[:2]
    longest = max(height, width)
    for margin in TINY68_MARGINS:
        side = longest * (1 + 2 * margin)
        yield [view_of(photo, Window((width - side) / 2, (height - side) / 2, side), px)]
    for tile in TINY68_TILES:
        side = longest * tile
        yield [view_of(photo, Window(x, y, side), px) for y in _tiles(height, side) for x in _tiles(width, side)]


def _tiny68_beside(photo: Photo, box: Floats, px: int) -> View:
    """The largest part of the photo above, below, left or right of the face, with the face covered."""
    height, width = photo.shape[:2]
    covered = _resized(box, TINY68_COVERED).clip(0, [width, height, width, height])
    left, top, right, bottom = covered
    parts = np.array([[0, 0, left, height], [right, 0, width, height], [0, 0, width, top], [0, bottom, width, height]])
    part = parts[np.argmax((parts[:, 2:] - parts[:, :2]).prod(1))]
    side = float((part[2:] - part[:2]).max()) * (1 + 2 * TINY68_BESIDE_MARGIN)
    x, y = (part[:2] + part[2:]) / 2 - side / 2
    view = view_of(photo, Window(float(x), float(y), side), px)
    corners = covered.reshape(2, 2) * view.scale + view.offset
    (x1, y1), (x2, y2) = corners.round().astype(int).clip(0, px)
    view.pixels[y1:y2, x1:x2] = [int(total / px**2) for total in cv2.sumElems(view.pixels)[:3]]  # the mean colour
    return view


def _resized(box: Floats, factor: float) -> Floats:
    """``box`` with sides so many times as long, around the same middle."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * factor
    return np.concatenate([middle - half, middle + half])


def _tiles(length: int, side: float) -> list[float]:
    """Where tiles start that overlap by at least a third and cover ``length``; centred where one is enough."""
    count = ceil(max(0, length - side) / (side * 2 / 3)) + 1
    return [float(x) for x in np.linspace(0, length - side, count)] if count > 1 else [(length - side) / 2]


def _tiny68_decode(outputs: Outputs, _px: int) -> Candidates:
    """The network decodes itself."""
    return Candidates(outputs["boxes"], outputs["scores"], outputs["keypoints"])


DETECTORS: Mapping[str, Detector] = {
    "scrfd": Detector(threshold=0.5, max_overlap=0.4, passes=_scrfd_passes, decode=_scrfd_decode),
    "tiny68": Detector(
        threshold=0.4, max_overlap=0.4, passes=_tiny68_passes, decode=_tiny68_decode, zoom=1.6, beside=_tiny68_beside
    ),
}
