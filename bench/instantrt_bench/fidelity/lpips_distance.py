"""LPIPS (Zhang et al. 2018) where the ``lpips`` package and its weights lie on the machine; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

Picture = npt.NDArray[np.uint8]
Distance = Callable[[Picture, Picture], float]

BACKBONE = "alexnet-owt-*.pth"  # torchvision's file name


def find_lpips() -> Distance | str:
    """LPIPS on AlexNet of two u8 pictures [H, W, 3]; or, as a text, why there is none."""
    try:
        lpips = import_module("lpips")
    except ImportError:
        return "the package lpips is not installed"
    if not list((Path(torch.hub.get_dir()) / "checkpoints").glob(BACKBONE)):
        return f"AlexNet's weights ({BACKBONE}) are not in torch's hub folder"
    network = lpips.LPIPS(net="alex", verbose=False).eval()

    def distance(a: Picture, b: Picture) -> float:
        with torch.inference_mode():
            return float(network(_tensor(a), _tensor(b)))

    return distance


def _tensor(picture: Picture) -> torch.Tensor:
    """f32 [1, 3, H, W] from -1 to 1."""
    return torch.from_numpy(picture.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
