"""What a checkpoint asks for that its bundle could not do: found when it is opened, not after the export."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizerFast, PreTrainedTokenizerFast

from instantrt.errors import BundleError, CheckpointError
from instantrt.request import SIDE_MULTIPLE, GenerateRequest
from instantrt.samplers import SchedulerConfig, step_table
from instantrt_export.components import Component
from instantrt_export.weights import read_json

_EVERY_LOOP_NETWORK: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "class_embed_type": None,
    "encoder_hid_dim": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
}
SUPPORTED: dict[str, dict[str, Any]] = {
    "unet": _EVERY_LOOP_NETWORK
    | {
        "attention_type": "default",
        "center_input_sample": False,
        "class_embeddings_concat": False,
        "cross_attention_norm": None,
        "dual_cross_attention": False,
        "resnet_skip_time_act": False,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "time_embedding_type": "positional",
        "timestep_post_act": None,
    },
    "identitynet": _EVERY_LOOP_NETWORK
    | {
        "conditioning_channels": 3,
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    },
    "vae": {"out_channels": 3},
    "text_encoder": {},
    "text_encoder_2": {},
}
"""Options of configs that change what a network computes, with the only value that the export knows."""


def unsupported(components: Mapping[str, Component]) -> list[str]:
    """Every option of the networks' configs that the export does not know, one sentence each."""
    problems = [
        f"{component.folder / 'config.json'}: {option} is {component.config[option]!r}, needed {value!r}"
        for name, component in components.items()
        for option, value in SUPPORTED[name].items()
        if component.config[option] != value
    ]
    return problems + _strides(components) + _latent_scaling(components["vae"])


def read_scheduler_config(base: Path) -> dict[str, Any]:
    """The scheduler's config, from which at least the sampler can be made that requests have unless they name one.

    Raises:
        CheckpointError: it is missing, or that sampler cannot express it.
    """
    path = base / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    request = GenerateRequest
    try:
        step_table(request.sampler, request.steps, request.guidance_scale, SchedulerConfig.from_json(config))
    except BundleError as error:
        raise CheckpointError(f"{path}: {error.what}", found=error.found, hint=error.hint) from error
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """One of the checkpoint's CLIP tokenizers (``vocab.json`` with ``merges.txt``, or ``tokenizer.json``).

    Raises:
        CheckpointError: files are missing or damaged, or it has no tokens for start, end and padding.
    """
    whole = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not whole and not (folder / "tokenizer.json").is_file():
        what, hint = f"{folder}: neither vocab.json with merges.txt nor tokenizer.json", "download the folder again"
        raise CheckpointError(what, found="none of them", hint=hint)
    for name in ("vocab.json", "tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            read_json(folder / name)
    try:
        tokenizer: PreTrainedTokenizerFast = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of the tokenizers library, without a class of its own
        what = f"{folder} holds no tokenizer that can be loaded"
        found = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(what, found=found, hint="download the folder again") from error
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    lacking = [name for name, number in ids.items() if number is None]
    if lacking:
        found = f"no {' and no '.join(lacking)}"
        hint = "take the tokenizer of the SDXL base model"
        raise CheckpointError(f"{folder}: the tokenizer lacks special tokens", found=found, hint=hint)
    return tokenizer


def tokenizer_problems(folder: Path, encoder: Component | None) -> list[str]:
    """What is wrong with a tokenizer, and with its tokens for its text encoder, if that could be opened."""
    tokenizer = load_tokenizer(folder)
    if encoder is None:
        return []
    highest = {folder: max(tokenizer.get_vocab().values())}
    if (folder / "vocab.json").is_file():
        ids = read_json(folder / "vocab.json").values()
        highest[folder / "vocab.json"] = max((number for number in ids if isinstance(number, int)), default=0)
    size, config = encoder.config.vocab_size, encoder.folder / "config.json"
    return [f"{path} has ids up to {n}, {config} has {size} tokens" for path, n in highest.items() if n >= size]


def _strides(components: Mapping[str, Component]) -> list[str]:
    """Pictures are multiples of 64: the deepest feature maps must be whole at that size."""
    unet, vae = components["unet"].config, components["vae"].config
    stride = int(2 ** (len(unet.block_out_channels) + len(vae.block_out_channels) - 2))
    if stride <= SIDE_MULTIPLE:
        return []
    return [f"VAE and UNet together make pictures {stride} times smaller, at most {SIDE_MULTIPLE} times is possible"]


def _latent_scaling(vae: Component) -> list[str]:
    config, path = vae.config, vae.folder / "config.json"
    problems = []
    if not isinstance(config.scaling_factor, Real) or not config.scaling_factor or not isfinite(config.scaling_factor):
        problems.append(f"{path}: scaling_factor is {config.scaling_factor!r}, needed a number")
    for key in ("latents_mean", "latents_std"):
        values = config[key]
        if values is not None and len(values) != config.latent_channels:
            problems.append(f"{path}: {key} has {len(values)} numbers, needed {config.latent_channels}")
    return problems
