"""What training left in the work folder, written as a float16 checkpoint in the layout that people have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from instantrt_nano import networks
from instantrt_nano.digests import write_digests
from instantrt_nano.maker import NanoParts, write_nano
from instantrt_nano.training.diffusion import scaling_factor
from instantrt_nano.training.networks import NanoNetworks


def write_trained(work: Path, out: Path) -> Path:
    """Writes the averaged weights of the work folder's states; returns ``out``.

    The decoder is the finely tuned one once there is one.

    Raises:
        CheckpointError: ``out`` holds something already.
    """
    tuned = work / "decoder.pt"
    vae: Any = networks.new_vae(scaling_factor(work))
    vae.load_state_dict(_average(tuned if tuned.exists() else work / "vae.pt"))

    def parts(vocabulary: int) -> NanoParts:
        trained = NanoNetworks(vocabulary)
        trained.load_state_dict(_average(work / "diffusion.pt"))
        # The UNet's processors are modules here, so that their weights would be stored twice.
        unet: Any = networks.new_unet()
        own = unet.state_dict()
        unet.load_state_dict({name: tensor for name, tensor in trained.unet.state_dict().items() if name in own})
        adapter = {name: tensor.half().contiguous() for name, tensor in trained.adapter_weights().items()}
        return NanoParts(
            unet.half(),
            trained.identitynet.half(),
            vae.half(),
            trained.text_encoder.half(),
            trained.text_encoder_2.half(),
            adapter,
        )

    write_nano(out, parts)
    write_digests(out)
    return out


def _average(state: Path) -> dict[str, torch.Tensor]:
    average: dict[str, torch.Tensor] = torch.load(state, weights_only=True)["average"]
    return average
