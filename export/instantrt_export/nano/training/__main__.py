"""``python -m instantrt_export.nano.training WORK OUT``: trains the nano checkpoint from two photos, stage by stage."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from instantrt.errors import CheckpointError, InstantRTError
from instantrt_export.nano.maker import TRAINED
from instantrt_export.nano.training.checkpoint import write_trained
from instantrt_export.nano.training.diffusion import train_diffusion
from instantrt_export.nano.training.faces import Faces
from instantrt_export.nano.training.loop import Schedule
from instantrt_export.nano.training.pictures import make_pictures
from instantrt_export.nano.training.vae import encode_all, train_decoder, train_vae

FACES = TRAINED / "faces"
VAE = Schedule(steps=800, cosine=1100, learning_rate=1.2e-3)
DIFFUSION = Schedule(2000, 2000, learning_rate=1.2e-3, warm_up=100, last=0.02, average=0.998, weight_decay=1e-3)
DECODER = Schedule(500, 500, learning_rate=5e-4, warm_up=30, average=0.997)


@dataclass(frozen=True)
class Stage:
    """One part of the training.

    Args:
        run: does it, in the work folder.
        made: the file in the work folder that says that it is done, or how far it got.
    """

    run: Callable[[Path], object]
    made: str


STAGES: Mapping[str, Stage] = {
    "pictures": Stage(lambda work: make_pictures(Faces(FACES), work), "embeddings.npz"),
    "vae": Stage(lambda work: train_vae(work, FACES, VAE), "vae.pt"),
    "latents": Stage(encode_all, "latents.npz"),
    "diffusion": Stage(lambda work: train_diffusion(work, DIFFUSION), "diffusion.pt"),
    "decoder": Stage(lambda work: train_decoder(work, FACES, DECODER), "decoder.pt"),
}
"""In order. A training stage goes on where it stopped; the others are skipped when they are done."""


def main() -> int:
    """Runs all stages, or some again; 2 after a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_export.nano.training", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for data and states; what is there already is used")
    parser.add_argument("out", type=Path, help="folder for the checkpoint; must be new or empty")
    parser.add_argument("--again", nargs="+", choices=STAGES, default=(), help="forget what these stages have made")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        run_stages(options.work, options.again)
        write_trained(options.work, options.out)
    except InstantRTError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def run_stages(work: Path, again: tuple[str, ...] = ()) -> None:
    """All stages, in order; those named in ``again``, and all that build on them, from their beginning.

    Raises:
        CheckpointError: the work folder cannot be made.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot work in {work}", found=str(error), hint="name a folder") from None
    stale = False
    for name, stage in STAGES.items():
        stale |= name in again
        made = work / stage.made
        if stale:
            made.unlink(missing_ok=True)
        if made.exists() and made.suffix != ".pt":
            continue
        start = time.monotonic()
        stage.run(work)
        sys.stderr.write(f"{name}: {(time.monotonic() - start) / 60:.1f} min\n")


if __name__ == "__main__":
    raise SystemExit(main())
