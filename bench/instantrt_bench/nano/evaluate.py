"""The trained nano checkpoint through the runtime: every picture is judged for person, place and style."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt import InstantID
from instantrt.conditioning.photo import decode_photo
from instantrt.errors import NoFaceError
from instantrt_bench.identity.judges.judge import Embedding, Judge
from instantrt_bench.nano.cases import UNSEEN, Asked, face_photo
from instantrt_bench.nano.style_check import StyleCheck
from instantrt_bench.results.metrics import cosine
from instantrt_nano.training.people import PEOPLE

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """What one picture shows.

    Args:
        asked: what was asked for.
        picture: u8 RGB [H, W, 3].
        distances: by judge and person, to the embedding of the person's photo; empty without a face. Euclidean for the
            bundle's encoder, 1 - cosine for the independent judge.
        centre: of the five keypoints found, pixels; None without a face.
        centre_error_px: its distance from the centre asked for.
        landmark_error_px: mean distance of the five keypoints from those asked for.
        style: recognised.
    """

    asked: Asked
    picture: Picture
    distances: Mapping[str, Mapping[str, float]]
    centre: tuple[float, float] | None
    centre_error_px: float | None
    landmark_error_px: float | None
    style: str

    @property
    def detected(self) -> bool:
        """Whether a face was found."""
        return self.centre is not None

    def same(self, judge: str) -> float:
        """Distance to the person asked for."""
        return self.distances[judge][self.asked.person]

    def nearest_other(self, judge: str) -> float:
        """Distance to the nearest of the others."""
        return min(value for name, value in self.distances[judge].items() if name not in (self.asked.person, UNSEEN))


class Evaluation:
    """The runtime with judges that know everybody's photo.

    Args:
        runtime: makes the pictures.
        encoder: the judge that compares as the bundle's encoder does, Euclidean.
        independent: the other judge, cosine.
        styles: recognises styles.
    """

    def __init__(self, runtime: InstantID, encoder: Judge, independent: Judge, styles: StyleCheck) -> None:
        self._runtime = runtime
        self._judges: dict[str, tuple[Judge, Callable[[Embedding, Embedding], float]]] = {
            encoder.name: (encoder, lambda a, b: float(np.linalg.norm(a - b))),
            independent.name: (independent, lambda a, b: 1 - cosine(a, b)),
        }
        self._styles = styles
        self._known = {name: self._embedded(decode_photo(face_photo(name)).pixels) for name in (*PEOPLE, UNSEEN)}

    def see(self, case: Asked) -> Seen:
        """Makes the picture of a case and looks at it."""
        keypoints = self._runtime.prepare(case.request).identity.keypoints
        picture = np.asarray(self._runtime.run(case.request).images[0])
        style = self._styles(picture)
        try:
            located = self._runtime.faces.find(picture, "picture").face.keypoints
        except NoFaceError:
            return Seen(case, picture, {}, None, None, None, style)
        embeddings = self._embedded(picture)
        distances = {
            name: {person: apart(embeddings[name], known[name]) for person, known in self._known.items()}
            for name, (_, apart) in self._judges.items()
        }
        x, y = located.mean(0)
        return Seen(
            case,
            picture,
            distances,
            (float(x), float(y)),
            float(np.linalg.norm(located.mean(0) - keypoints.mean(0))),
            float(np.linalg.norm(located - keypoints, axis=1).mean()),
            style,
        )

    def between_people(self) -> dict[str, dict[str, float]]:
        """Distances between the photos of all people by the bundle's encoder."""
        name, (_, apart) = next(iter(self._judges.items()))
        return {
            a: {b: round(apart(x[name], y[name]), 3) for b, y in self._known.items()} for a, x in self._known.items()
        }

    @property
    def judges(self) -> tuple[str, ...]:
        """Names: the bundle's encoder, then the independent judge."""
        return tuple(self._judges)

    def _embedded(self, picture: Picture) -> dict[str, Embedding]:
        face = self._runtime.faces.find(picture, "picture").face
        return {name: judge.embed(picture, face) for name, (judge, _) in self._judges.items()}


def figures(seen: Sequence[Seen], judges: Sequence[str]) -> dict[str, Any]:
    """The figures of a set of pictures: rates, medians, and the same by each judge."""
    faces = [one for one in seen if one.detected]
    if not faces:
        return {"pictures": len(seen), "detection_rate": 0.0}
    encoder = judges[0]
    return {
        "pictures": len(seen),
        "detection_rate": len(faces) / len(seen),
        "same_identity_distance_median": _median(one.same(encoder) for one in faces),
        "same_identity_distance_mean": round(float(np.mean([one.same(encoder) for one in faces])), 3),
        "other_identity_distance_min_median": _median(one.nearest_other(encoder) for one in faces),
        "right_person_rate": _share(one.same(encoder) < one.nearest_other(encoder) for one in faces),
        "face_centre_error_px_median": _median(one.centre_error_px for one in faces),
        "landmark_error_px_median": _median(one.landmark_error_px for one in faces),
        "style_recognised_rate": _share(one.style == one.asked.style for one in seen),
        "judges": {
            name: {
                "same_median": _median(one.same(name) for one in faces),
                "nearest_other_median": _median(one.nearest_other(name) for one in faces),
                "right_person_rate": _share(one.same(name) < one.nearest_other(name) for one in faces),
            }
            for name in judges
        },
    }


def grouped(seen: Sequence[Seen], key: Callable[[Seen], str], judges: Sequence[str]) -> dict[str, dict[str, Any]]:
    """:func:`figures` of each group of pictures."""
    groups: dict[str, list[Seen]] = {}
    for one in seen:
        groups.setdefault(key(one), []).append(one)
    return {name: figures(members, judges) for name, members in groups.items()}


def centre_shifts_px(first: Sequence[Seen], second: Sequence[Seen], min_offset_px: float) -> list[float]:
    """How far the face's centre moved between two sets of pictures of the same cases, where both show a face.

    Args:
        first: placed by keypoints.
        second: not placed.
        min_offset_px: only of faces whose centre lies so far from the picture's middle.
    """
    shifts = []
    for one, other in zip(first, second, strict=True):
        if one.centre is None or other.centre is None:
            continue
        middle = np.array(one.picture.shape[1::-1]) / 2
        if np.linalg.norm(np.array(one.centre) - middle) >= min_offset_px:
            shifts.append(float(np.linalg.norm(np.array(one.centre) - other.centre)))
    return shifts


def _median(values: Iterable[float | None]) -> float:
    return round(float(np.median([value for value in values if value is not None])), 3)


def _share(flags: Iterable[bool]) -> float:
    return round(float(np.mean(list(flags))), 4)
