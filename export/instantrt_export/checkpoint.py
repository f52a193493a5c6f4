"""A checkpoint of InstantID as people have it on disk: opened, checked as a whole, and loaded part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from instantrt.contracts import ModelDims
from instantrt.errors import CheckpointError
from instantrt_export.adapter import (
    FACE_ATTENTION,
    IMAGE_PROJECTION,
    AdapterFile,
    FaceAttentionSite,
    face_attention_shapes,
    infer_resampler_shape,
    resampler_shapes,
)
from instantrt_export.components import CLASSES, Component, compare_shapes
from instantrt_export.dims import face_attention_sites, misfits, model_dims, vae_downsampling
from instantrt_export.faces.graphs import FaceModels, check_face_files, find_face_models
from instantrt_export.locate import Location, Places, locate
from instantrt_export.modules.resampler import Resampler, ResamplerShape
from instantrt_export.supported import read_scheduler_config, tokenizer_problems, unsupported
from instantrt_export.weights import Shape, read_json

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose parts are all there and fit each other. Nothing but headers is in memory.

    Each loading method reads its weights anew from disk: keep what it returns, and drop it before the next one where
    memory is short.
    """

    places: Places
    components: Mapping[str, Component]
    adapter: AdapterFile
    resampler_shape: ResamplerShape
    face_attention_sites: tuple[FaceAttentionSite, ...]
    face_models: FaceModels
    scheduler_config: Mapping[str, Any]
    dims: ModelDims

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        identitynet: Location | None = None,
        adapter: Location | None = None,
        faces: Location | None = None,
        revision: str | None = None,
    ) -> Checkpoint:
        """Opens local folders and files or hub ids, and checks everything that configs and headers tell.

        Args:
            location: SDXL in diffusers layout, or a folder that combines all parts.
            identitynet: default ``ControlNetModel/`` in ``location``.
            adapter: default ``ip-adapter.safetensors``, else ``ip-adapter.bin``, in ``location``.
            faces: default ``antelopev2/``, else ``faces/``, in ``location``.
            revision: of ``location`` if that is a hub id; the others take theirs as ``owner/name@revision``.

        Raises:
            CheckpointError: parts are missing, unreadable, or do not fit each other; everything found is listed.
        """
        places = locate(location, identitynet=identitynet, adapter=adapter, faces=faces, revision=revision)
        return _open(places)

    @property
    def vae_config(self) -> Mapping[str, Any]:
        """The VAE's config: scaling_factor, shift_factor, latents_mean, latents_std, force_upcast, ..."""
        return dict(self.components["vae"].config)

    @property
    def unet_config(self) -> Mapping[str, Any]:
        """The UNet's config."""
        return dict(self.components["unet"].config)

    @property
    def model_index(self) -> Mapping[str, Any]:
        """``model_index.json`` (for instance ``force_zeros_for_empty_prompt``); empty if the folder has none."""
        return _model_index(self.places.base)

    @property
    def tokenizer_dir(self) -> Path:
        """Folder of the first text encoder's tokenizer."""
        return self.places.base / "tokenizer"

    @property
    def tokenizer_2_dir(self) -> Path:
        """Folder of the second text encoder's tokenizer."""
        return self.places.base / "tokenizer_2"

    def unet(self, dtype: torch.dtype) -> nn.Module:
        """diffusers' UNet2DConditionModel, without face attention."""
        return self.components["unet"].load(dtype)

    def identitynet(self, dtype: torch.dtype) -> nn.Module:
        """diffusers' ControlNetModel."""
        return self.components["identitynet"].load(dtype)

    def vae(self, dtype: torch.dtype) -> nn.Module:
        """diffusers' AutoencoderKL."""
        return self.components["vae"].load(dtype)

    def text_encoder(self, dtype: torch.dtype) -> nn.Module:
        """transformers' CLIPTextModel."""
        return self.components["text_encoder"].load(dtype)

    def text_encoder_2(self, dtype: torch.dtype) -> nn.Module:
        """transformers' CLIPTextModelWithProjection."""
        return self.components["text_encoder_2"].load(dtype)

    def resampler(self, dtype: torch.dtype) -> Resampler:
        """The image projection of the adapter."""
        with torch.device("meta"):
            module = Resampler(self.resampler_shape)
        module.load_state_dict(self.adapter.read(IMAGE_PROJECTION, dtype), assign=True)
        return module.eval().requires_grad_(False)

    def face_attention_weights(self, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
        """Per cross-attention of the UNet ``(to_k_ip, to_v_ip)``, in the order of ``face_attention_sites``."""
        weights = self.adapter.read(FACE_ATTENTION, dtype)
        names = [(site.key_name, site.value_name) for site in self.face_attention_sites]
        return [(weights[k.removeprefix(FACE_ATTENTION)], weights[v.removeprefix(FACE_ATTENTION)]) for k, v in names]


def _open(places: Places) -> Checkpoint:
    problems: list[str] = []
    components = _open_components(places, problems)
    scheduler = _attempt(problems, lambda: read_scheduler_config(places.base))
    model_index = _attempt(problems, lambda: _model_index(places.base))
    faces = _attempt(problems, lambda: _face_models(places.faces))
    adapter = _attempt(problems, lambda: AdapterFile.open(places.adapter))
    shape = None if adapter is None else _attempt(problems, lambda: infer_resampler_shape(adapter.shapes))
    sites = _face_attention_sites(components)
    problems += _tokenizer_problems(places.base, components)
    if adapter is not None:
        problems += _adapter_problems(adapter, shape, sites)
    unread = len(components) < len(CLASSES) or model_index is None
    if unread or sites is None or scheduler is None or faces is None or adapter is None or shape is None:
        raise _refusal(places, problems)
    problems += misfits(components, shape, adapter.path, faces) + unsupported(components)
    if problems:
        raise _refusal(places, problems)
    dims = model_dims(components, sites, shape, faces)
    return Checkpoint(places, components, adapter, shape, sites, faces, scheduler, dims)


def _model_index(base: Path) -> dict[str, Any]:
    path = base / "model_index.json"
    return read_json(path) if path.is_file() else {}


def _face_models(folder: Path) -> FaceModels:
    models = find_face_models(folder)
    check_face_files(models)
    return models


def _open_components(places: Places, problems: list[str]) -> dict[str, Component]:
    """The networks that can be opened; what is wrong with them and with the others goes to ``problems``."""
    components = {}
    for name in CLASSES:
        folder = places.identitynet if name == "identitynet" else places.base / name
        component = _attempt(problems, partial(Component.open, name, folder))
        if component is not None:
            components[name] = component
            problems += component.problems()
    return components


def _face_attention_sites(components: Mapping[str, Component]) -> tuple[FaceAttentionSite, ...] | None:
    """Where the UNet has cross-attention; None if that cannot be told."""
    if not {"unet", "vae"} <= components.keys():
        return None
    return face_attention_sites(components["unet"].skeleton, vae_downsampling(components["vae"]))


def _adapter_problems(
    adapter: AdapterFile, shape: ResamplerShape | None, sites: Sequence[FaceAttentionSite] | None
) -> list[str]:
    """Differences of the adapter's weights from those needed. A section for which that is unknown is left out."""
    wanted: dict[str, Shape] = {}
    unknown = []
    if shape is None:
        unknown.append(IMAGE_PROJECTION)
    else:
        wanted |= resampler_shapes(shape)
    if sites is None:
        unknown.append(FACE_ATTENTION)
    else:
        wanted |= face_attention_shapes(sites)
    shapes = {name: s for name, s in adapter.shapes.items() if not name.startswith(tuple(unknown))}
    return compare_shapes(adapter.path, shapes, wanted)


def _attempt(problems: list[str], read: Callable[[], T]) -> T | None:
    """What ``read`` returns; a CheckpointError of its becomes one more problem, so that all are reported at once."""
    try:
        return read()
    except CheckpointError as error:
        problems.append(" ".join(str(error).split("\n")))
        return None


def _refusal(places: Places, problems: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint in {places.base} cannot be used: {len(problems)} problem{'s' * (len(problems) != 1)}",
        found="\n  - ".join(["", *problems]),
        hint="mend each of these; InstantRT exports SDXL checkpoints in diffusers layout",
    )


def _tokenizer_problems(base: Path, components: Mapping[str, Component]) -> list[str]:
    problems: list[str] = []
    for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        check = partial(tokenizer_problems, base / tokenizer, components.get(encoder))
        problems += _attempt(problems, check) or []
    return problems
