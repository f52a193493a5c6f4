"""face-api's networks with the contract around them: pixels in, decoded faces or embeddings out, all in one graph.

Only operators that TensorRT has too: no NonMaxSuppression, no loop, no shape that depends on the picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantrt.contracts import TINY68_CANDIDATES
from instantrt_nano.faces.face_api import (
    ANCHORS,
    DETECTOR_STRIDE_PX,
    LANDMARK_PX,
    FaceResNet,
    Landmarks68,
    TinyFaceDetector,
)

CONSIDERED = 32  # anchors with the best scores, among which overlapping ones are suppressed
MAX_OVERLAP = 0.4  # intersection over union
FACE_SCORE = 0.4  # candidates from here on come before all others: the threshold of the face stage
LANDMARK_PASSES = 2  # the first places the second's crop
CROP_SIDE = 2.2  # of the landmark network's crop, in eye distances
CROP_SHIFT = 0.045  # of the crop's centre below the keypoints' mean, in crop sides

AVERAGE_FACE = ((0.33, 0.26), (0.67, 0.26), (0.5, 0.47), (0.34, 0.63), (0.66, 0.63))
"""Keypoints in a box of the tiny detector, measured in sides of the box."""
KEYPOINTS_OF_68 = (range(36, 42), range(42, 48), (30,), (48,), (54,))
"""Eye centres, nose tip and mouth corners, image-left first, as averages of the 68 landmarks."""


class TinyFace68(nn.Module):
    """The contract's ``face_detector`` of kind "tiny68".

    image u8 [1, px, px, 3] -> scores f32 [4] in 0..1; boxes f32 [4, 4] (x1, y1, x2, y2) and keypoints f32 [4, 5, 2],
    in input pixels. Always four candidates, those nearest the middle first and those that are no face last.

    Only the first candidate's keypoints come from its landmarks, which cost most of the time: the face stage looks at
    each face again with that face in the middle. The others' are where an average face has them.

    Args:
        detector: finds boxes.
        landmarks: of the first candidate.
        px: side of the input, a multiple of 32.
    """

    anchors: Tensor
    cells: Tensor
    above: Tensor
    crop_grid: Tensor
    average_face: Tensor
    keypoint_weights: Tensor

    def __init__(self, detector: TinyFaceDetector, landmarks: Landmarks68, px: int) -> None:
        super().__init__()
        self.detector, self.landmarks, self.px = detector, landmarks, px
        side = px // DETECTOR_STRIDE_PX
        y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        self._constant("anchors", torch.tensor(ANCHORS))
        self._constant("cells", torch.stack([x, y], -1)[:, :, None].float())
        self._constant("above", torch.ones(CONSIDERED, CONSIDERED).triu(1))
        self._constant("crop_grid", _crop_grid())
        self._constant("average_face", torch.tensor(AVERAGE_FACE))
        self._constant("keypoint_weights", _keypoint_weights())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        picture = image.float().permute(0, 3, 1, 2)
        scores, boxes = self._best(self._anchor_boxes(self.detector(picture)[0]))
        corners, sides = boxes[:, None, :2], boxes[:, None, 2:] - boxes[:, None, :2]
        keypoints = corners + self.average_face * sides
        first = keypoints[0]
        for _ in range(LANDMARK_PASSES):
            first = self._refined(picture, first)
        return scores, boxes, torch.cat([first[None], keypoints[1:]])

    def _anchor_boxes(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Raw [S/32, S/32, 5, 5] -> scores [n] and boxes [n, 4] of all anchors."""
        centre = (self.cells + raw[..., :2].sigmoid()) * DETECTOR_STRIDE_PX
        half = raw[..., 2:4].exp() * self.anchors * (DETECTOR_STRIDE_PX / 2)
        return raw[..., 4].sigmoid().flatten(), torch.cat([centre - half, centre + half], -1).reshape(-1, 4)

    def _best(self, candidates: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Four that do not overlap a better one (Fast NMS, Bolya et al. 2019)."""
        scores, order = candidates[0].topk(CONSIDERED)
        boxes = candidates[1].index_select(0, order)
        overlap = (_overlaps(boxes) * self.above).amax(0)
        scores = scores * (overlap <= MAX_OVERLAP).float()
        distance = (boxes[:, :2] + boxes[:, 2:] - self.px).square().sum(1) / self.px**2
        is_face = (scores >= FACE_SCORE).float()
        _, order = (scores + is_face / (1 + distance)).topk(TINY68_CANDIDATES)
        return scores.index_select(0, order), boxes.index_select(0, order)

    def _refined(self, picture: Tensor, keypoints: Tensor) -> Tensor:
        """Keypoints [5, 2] from the 68 landmarks of the crop that ``keypoints`` place and turn; black outside."""
        across = (keypoints[1] - keypoints[0]) * CROP_SIDE
        down = torch.stack([-across[1], across[0]])
        axes = torch.stack([across, down])
        corner = keypoints.mean(0) + down * CROP_SHIFT - axes.sum(0) / 2
        grid = (corner + self.crop_grid @ axes) * (2 / self.px) - 1
        crop = F.grid_sample(picture, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)
        landmarks: Tensor = self.landmarks(crop)[0]
        points = self.keypoint_weights @ landmarks
        return corner + points @ axes

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)


class DlibResNet128(nn.Module):
    """The contract's ``face_encoder`` of kind "dlib": faces u8 [n, 150, 150, 3] -> embedding f32 [n, 128]."""

    def __init__(self, resnet: FaceResNet) -> None:
        super().__init__()
        self.resnet = resnet

    def forward(self, faces: Tensor) -> Tensor:
        """See the class."""
        embedding: Tensor = self.resnet(faces.float().permute(0, 3, 1, 2))
        return embedding


def _crop_grid() -> Tensor:
    """Pixel centres of a landmark crop, [112, 112, 2] of (x, y) in 0..1."""
    centres = (torch.arange(LANDMARK_PX) + 0.5) / LANDMARK_PX
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], -1)


def _keypoint_weights() -> Tensor:
    """[5, 68], each row averaging the landmarks of one keypoint."""
    weights = torch.zeros(len(KEYPOINTS_OF_68), 68)
    for row, landmarks in zip(weights, KEYPOINTS_OF_68, strict=True):
        row[list(landmarks)] = 1 / len(landmarks)
    return weights


def _overlaps(boxes: Tensor) -> Tensor:
    """Intersection over union of every two boxes, [n, 4] -> [n, n]."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return shared / (areas[:, None] + areas[None] - shared)
