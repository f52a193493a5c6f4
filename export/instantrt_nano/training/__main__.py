"""``python -m instantrt_nano.training WORK OUT``: trains the nano checkpoint from two photos, stage by stage.

Below ``torchrun --nproc-per-node N`` N processes share the work of the training stages.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from instantrt.errors import CheckpointError, InstantRTError
from instantrt_nano.maker import TRAINED
from instantrt_nano.training.checkpoint import write_trained
from instantrt_nano.training.diffusion import train_diffusion
from instantrt_nano.training.faces import Faces
from instantrt_nano.training.loop import Schedule, processes, rank
from instantrt_nano.training.pictures import make_pictures
from instantrt_nano.training.vae import encode_all, train_decoder, train_vae

FACES = TRAINED / "faces"
VAE = Schedule(1100, learning_rate=1.2e-3)
DIFFUSION = Schedule(4500, learning_rate=1.2e-3, warm_up=100, last=0.02, average=0.998, weight_decay=1e-3)
DECODER = Schedule(600, learning_rate=5e-4, warm_up=30, average=0.997)


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
    parser = argparse.ArgumentParser(prog="python -m instantrt_nano.training", description=__doc__)
    parser.add_argument("work", type=Path, help="folder for data and states; what is there already is used")
    parser.add_argument("out", type=Path, help="folder for the checkpoint; must be new or empty")
    parser.add_argument("--again", nargs="+", choices=STAGES, default=(), help="forget what these stages have made")
    options = parser.parse_args()
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    try:
        run_stages(options.work, options.again)
        if rank() == 0:
            write_trained(options.work, options.out)
    except InstantRTError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
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
        made, start = work / stage.made, time.monotonic()
        if stale and rank() == 0:
            made.unlink(missing_ok=True)
        _wait_for_all()
        trains = made.suffix == ".pt"
        if trains or (rank() == 0 and not made.exists()):
            stage.run(work)
        _wait_for_all()
        if rank() == 0:
            sys.stderr.write(f"{name}: {(time.monotonic() - start) / 60:.1f} min\n")


def _wait_for_all() -> None:
    if processes() > 1:
        dist.barrier()


if __name__ == "__main__":
    raise SystemExit(main())
