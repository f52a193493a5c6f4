"""A checkpoint that is nowhere on disk: its networks are made on the meta device and filled when they are asked for."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from instantrt_bench.full_size.faces import DETECTOR_PX, EMBEDDING_WIDTH, FACE_PX, write_faces
from instantrt_bench.full_size.scales import Scale
from instantrt_export.adapter import FACE_ATTENTION, AdapterFile, face_attention_shapes, resampler_shapes
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.components import Component
from instantrt_export.dims import face_attention_sites, model_dims
from instantrt_export.faces.graphs import FaceModels, find_face_models
from instantrt_export.locate import Places
from instantrt_export.weights import WeightFiles
from instantrt_nano.maker import SCHEDULER
from instantrt_nano.tokenizer import END, write_tokenizer
from instantrt_nano.weights import fill_with_random, seeded_normal

VAE_SCALE = 8
NOWHERE = Path("nowhere")
NO_FACES = FaceModels(NOWHERE, "scrfd", NOWHERE, "arcface", DETECTOR_PX, FACE_PX, EMBEDDING_WIDTH)

# Networks that use only parts of a module: the rest of it stays on the meta device and costs nothing.
PARTS: dict[str, tuple[str, ...]] = {
    "time_embedding": ("time_embedding.", "add_embedding.", "time_emb_proj."),
    "cross_attention": ("attn2.to_k.", "attn2.to_v."),
    "control_embedding": ("controlnet_cond_embedding.",),
    "vae_decoder": ("decoder.", "post_quant_conv."),
}


@dataclass(frozen=True)
class RandomComponent(Component):
    """A network whose weights are seeded random numbers.

    Args:
        seed: of the weights.
        parts: of the names of the parameters that are needed; all are if empty.
        device: where the weights are made and stay.
    """

    seed: int
    parts: tuple[str, ...]
    device: torch.device

    def load(self, dtype: torch.dtype) -> nn.Module:
        """The network with its weights on the device, allocated once in their final dtype."""
        module = deepcopy(self.skeleton)
        allocate(module, dtype, self.parts, self.device)
        fill_with_random(module, self.name, self.seed)
        return module.eval().requires_grad_(False)


def allocate(module: nn.Module, dtype: torch.dtype, parts: tuple[str, ...], device: torch.device | str = "cpu") -> None:
    """Gives parameters memory in ``dtype`` and integer buffers their numbers, in place.

    Args:
        module: on the meta device.
        dtype: of the parameters.
        parts: of the names of those parameters that are needed; all are if empty.
        device: where they are to be.
    """
    for path, owner in module.named_modules():
        for name, parameter in list(owner.named_parameters(recurse=False)):
            full = f"{path}.{name}".removeprefix(".")
            if not parts or any(part in full for part in parts):
                memory = torch.empty(parameter.shape, dtype=dtype, device=device)
                setattr(owner, name, nn.Parameter(memory, requires_grad=False))
        for name, buffer in list(owner.named_buffers(recurse=False)):
            if name != "position_ids":
                raise NotImplementedError(f"the buffer {path}.{name} has no known contents")
            numbers = torch.arange(buffer.shape[-1], device=device)
            owner.register_buffer(name, numbers.expand(buffer.shape), persistent=False)


@dataclass(frozen=True)
class RandomAdapter(AdapterFile):
    """An adapter whose weights are seeded random numbers."""

    seed: int
    device: torch.device

    def read(self, section: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors whose names start with ``section``, keyed by the rest of the name."""
        names = (name for name in self.shapes if name.startswith(section))
        return {name.removeprefix(section): self._tensor(name, dtype) for name in names}

    def _tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        shape = self.shapes[name]
        gain = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        noise = seeded_normal(shape, name, self.seed, self.device) * gain
        is_norm = len(shape) == 1 and name.endswith("weight") and not name.startswith(FACE_ATTENTION)
        return (noise + is_norm).to(dtype)


def random_checkpoint(
    scale: Scale,
    folder: Path | None,
    seed: int,
    network: str | None = None,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """A checkpoint at this scale; holds no weights in memory.

    Args:
        scale: sizes of its networks.
        folder: gets what must be files: face networks and tokenizers. With None there are none, and no files.
        seed: of all weights.
        network: the only network that will be exported from it, which saves filling what that one does not use.
        device: where the weights are made when they are asked for.
    """
    device, parts = torch.device(device), PARTS.get(network or "", ())
    if folder is None:
        folder, faces = NOWHERE, NO_FACES
    else:
        prepare_files(scale, folder, seed)
        faces = find_face_models(folder / "antelopev2")
    components = {
        name: RandomComponent(name, folder, WeightFiles(folder, None, {}), skeleton, seed, parts, device)
        for name, skeleton in _skeletons(scale).items()
    }
    sites = face_attention_sites(components["unet"].skeleton, VAE_SCALE)
    shapes = resampler_shapes(scale.resampler) | face_attention_shapes(sites)
    return Checkpoint(
        places=Places(folder, folder, folder, folder / "antelopev2"),
        components=components,
        adapter=RandomAdapter(folder, shapes, seed, device),
        resampler_shape=scale.resampler,
        face_attention_sites=sites,
        face_models=faces,
        scheduler_config=SCHEDULER,
        dims=model_dims(components, sites, scale.resampler, faces),
    )


def prepare_files(scale: Scale, folder: Path, seed: int) -> None:
    """Writes face networks and tokenizers where they are missing. The tokenizers know nano's few tokens."""
    if not (folder / "antelopev2" / "glintr100.onnx").is_file():
        write_faces(folder / "antelopev2", scale.face_blocks, seed)
    for name, padding in (("tokenizer", END), ("tokenizer_2", "!")):
        if not (folder / name).is_dir():
            write_tokenizer(folder / name, padding=padding)


def _skeletons(scale: Scale) -> dict[str, nn.Module]:
    down = scale.unet["down_block_types"]
    up = tuple(kind.replace("Down", "Up") for kind in reversed(down))
    control = {name: value for name, value in scale.unet.items() if name != "sample_size"}
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(out_channels=4, up_block_types=up, **scale.unet),
            "identitynet": ControlNetModel(conditioning_embedding_out_channels=scale.control_channels, **control),
            "vae": AutoencoderKL(**scale.vae),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**scale.text)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**scale.text_2)),
        }
