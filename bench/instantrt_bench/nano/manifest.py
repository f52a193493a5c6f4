"""``python -m instantrt_bench.nano.manifest FOLDER`` writes photos and poses of nano's people, and a manifest of them.

Nano draws these people only, and only faces that are large enough in a small picture.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from instantrt.atomic import replace_file, replace_text
from instantrt_bench.cases.manifest import FORMAT, PhotoEntry, PromptEntry
from instantrt_bench.nano.cases import face_photo, pose_photo
from instantrt_nano.training.people import PEOPLE

POSES = 1
NASA, NAVY = "public domain: NASA", "public domain: US Navy"
PHOTOGRAPHED = {"astronaut": NASA, "hopper": NAVY}
SYNTHETIC = f"made of two portraits; {NASA}, {NAVY}"
PROMPTS = (
    PromptEntry("photo", "portrait photo, natural light", negative_prompt="blurry"),
    PromptEntry("noir", "portrait of a person", style="Film Noir"),
)


def write_manifest(folder: Path, poses: int = POSES) -> Path:
    """Every person in so many poses, each somebody else's; returns the manifest's path."""
    photos = [_entry(folder, person, pose) for person in PEOPLE for pose in range(poses)]
    path = folder / "manifest.json"
    data = {"format": FORMAT, "photos": [asdict(p) for p in photos], "prompts": [asdict(p) for p in PROMPTS]}
    replace_text(path, json.dumps(data, indent=1) + "\n")
    return path


def _entry(folder: Path, person: str, pose: int) -> PhotoEntry:
    photo, asked = f"{person}.png", f"{person}-pose-{pose}.png"
    _keep(folder / photo, face_photo(person))
    _keep(folder / asked, pose_photo(pose, person))
    return PhotoEntry(f"{person}-{pose}", photo, PHOTOGRAPHED.get(person, SYNTHETIC), "nano's training data", asked)


def _keep(path: Path, data: bytes) -> None:
    replace_file(path, lambda file: file.write(data))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write them, print the manifest's path."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.nano.manifest", description=__doc__)
    parser.add_argument("folder", type=Path)
    sys.stdout.write(f"{write_manifest(parser.parse_args(arguments).folder)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
