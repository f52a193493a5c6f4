"""Where the pictures of a benchmark's cases are kept, beside its result file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from instantrt.cli.outputs import save_picture
from instantrt.conditioning.photo import decode_photo

PHOTO_PX = 512  # longest side of the copies of photos

Picture = npt.NDArray[np.uint8]


class PictureFolder:
    """PNG files named after case and role, in ``NAME-pictures`` beside the result file ``NAME.json``."""

    def __init__(self, results: Path) -> None:
        self.root = results.parent
        self.folder = self.root / f"{results.stem}-pictures"
        self._photos: set[str] = set()  # of an earlier run's copies nothing is known

    def keep(self, case_id: str, pictures: Mapping[str, Picture]) -> dict[str, str]:
        """Write u8 RGB pictures [H, W, 3] by role; gives their paths by role, relative to the result file."""
        kept = {}
        for role, pixels in pictures.items():
            path = self.folder / f"{_file_name(case_id)}-{role}.png"
            save_picture(Image.fromarray(pixels), path)
            kept[role] = path.relative_to(self.root).as_posix()
        return kept

    def keep_photo(self, photo_id: str, source: Path) -> str:
        """A small copy of a photo, once; gives its path relative to the result file."""
        path = self.folder / f"photo={photo_id}.jpg"
        if photo_id not in self._photos:
            photo = Image.fromarray(decode_photo(source).pixels)
            photo.thumbnail((PHOTO_PX, PHOTO_PX))
            save_picture(photo, path, quality=92)
            self._photos.add(photo_id)
        return path.relative_to(self.root).as_posix()

    def load(self, relative: str) -> Picture:
        """A picture that was kept, u8 RGB [H, W, 3]."""
        with Image.open(self.root / relative) as image:
            return np.asarray(image.convert("RGB"))


def _file_name(case_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "_", case_id)
