"""Identity: do generated faces resemble the photo as much with the runtime as with the reference?

Both systems make a picture of the same photo, prompt and seed, and every judge compares each picture's face with the
photo's. The difference within such a pair is what counts: what a prompt or a seed does to a face is in both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.conditioning.cached_faces import FoundFace
from instantrt.errors import NoFaceError
from instantrt_bench.identity.judges.judge import Embedding, Judge, euclidean
from instantrt_bench.results.metrics import cosine

Picture = npt.NDArray[np.uint8]
Keypoints = npt.NDArray[np.float32]
Find = Callable[[Picture, str], FoundFace]


@dataclass(frozen=True)
class Judged:
    """What is seen in one picture.

    Args:
        faces: how many faces the bundle's detector finds.
        similarity: by judge, cosine between the largest face and the photo's; empty without a face.
        distance: by judge, Euclidean distance of the two embeddings as they are; empty without a face.
        landmark_error: mean distance of the five keypoints from those asked for, in eye distances; None without a face.
    """

    faces: int
    similarity: Mapping[str, float]
    distance: Mapping[str, float]
    landmark_error: float | None

    def to_samples(self) -> dict[str, Any]:
        """As a system's samples in results."""
        return {
            "faces": [self.faces],
            "similarity": {name: [value] for name, value in self.similarity.items()},
            "distance": {name: [value] for name, value in self.distance.items()},
            "landmark_error": [] if self.landmark_error is None else [self.landmark_error],
        }


class Panel:
    """All judges, looking at the largest face that the bundle's detector finds.

    Args:
        find: the largest face of u8 RGB [H, W, 3], or NoFaceError; e.g. ``InstantID.faces.find``.
        judges: at least one, of different names.
    """

    def __init__(self, find: Find, judges: Sequence[Judge]) -> None:
        self.judges = tuple(judges)
        self._find = find

    def photo(self, photo: Picture) -> dict[str, Embedding]:
        """By judge, the embedding of a photo's face.

        Raises:
            NoFaceError: there is none.
        """
        face = self._find(photo, "face photo").face
        return {judge.name: judge.embed(photo, face) for judge in self.judges}

    def picture(self, picture: Picture, person: Mapping[str, Embedding], asked: Keypoints) -> Judged:
        """How a picture's face compares with a person's embeddings and with keypoints f32 [5, 2] in picture pixels."""
        try:
            largest = self._find(picture, "picture")
        except NoFaceError:
            return Judged(0, {}, {}, None)
        seen = {judge.name: judge.embed(picture, largest.face) for judge in self.judges}
        return Judged(
            largest.count,
            {name: cosine(embedding, person[name]) for name, embedding in seen.items()},
            {name: euclidean(embedding, person[name]) for name, embedding in seen.items()},
            landmark_error(largest.face.keypoints, asked),
        )


def landmark_error(located: Keypoints, asked: Keypoints) -> float:
    """Mean distance of five keypoints [5, 2] from those asked for, in distances between the eyes asked for."""
    eyes = float(np.linalg.norm(asked[1] - asked[0]))
    return float(np.linalg.norm(located - asked, axis=1).mean()) / eyes
