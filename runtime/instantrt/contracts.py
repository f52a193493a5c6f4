"""The contracts of the eleven networks: names, dtypes, symbolic shapes and meaning of every input and output.

Declared once, here. The export names and shapes ONNX graphs after them, the engines take their profiles from them,
the runtime allocates its buffers from them and the harness compares along them.

Symbols in shapes: ``B`` slots, ``G`` guidance batch (1 or 2), ``H`` and ``W`` picture size in pixels, ``R`` prompts,
``T`` timesteps, ``n`` faces. ``"H/8"`` is a symbol divided by a number. What DESIGN counts as ``N = G*B`` rows is
written here as two axes ``[G, B, ...]``: the same bytes in the same order (row = g*B + b), but no axis is a product of
two symbols, which neither torch.export nor a TensorRT profile can express.

Whatever is the same in every step is computed once, before the loop. That holds for the keys and values of all
cross-attentions, which depend on text and face alone: ``cross_attention`` gives those of a network side by side along
the last axis, and the loop's networks take them as ``text_kv`` and ``face_kv`` instead of tokens. With SDXL this takes
1.7 GB of fp16 weights out of the loop's plans, which can be freed before the loop starts, and 350 matrix products out
of every step. It holds as well for the resnets' projections of the time embedding, which ``time_embedding`` gives side
by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any, Literal

import numpy as np

DType = Literal["net", "float32", "int32", "uint8"]
Stage = Literal["conditioning", "denoise", "decode"]
Precision = Literal["fp32", "fp16"]

STEP_ROWS = 200  # 100 Heun steps are 199 network calls
NOISE_ROWS = 100  # stochastic samplers take at most one row a step
TINY68_CANDIDATES = 4  # faces that the small detector decodes at most per picture
LOOP_BUFFERS = {
    ("unet", "time_embeddings"): "time_embeddings_unet",
    ("unet", "text_kv"): "text_kv_unet",
    ("unet", "face_kv"): "face_kv_unet",
    ("identitynet", "time_embeddings"): "time_embeddings_identitynet",
    ("identitynet", "face_kv"): "face_kv_identitynet",
}
"""The loop's buffer of an input, by (network, input), where its two networks need different contents."""
STEP_COLUMNS = ("input_scale", "guidance", "a", "b", "c", "s", "d", "e", "f", "control_scale")

NET_DTYPES: dict[Precision, np.dtype[Any]] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}


@dataclass(frozen=True)
class Residual:
    """One residual that IdentityNet adds to the UNet: ``channels`` feature maps at 1/``stride`` of the picture."""

    channels: int
    stride: int


@dataclass(frozen=True)
class ModelDims:
    """The sizes of one InstantID checkpoint that contracts depend on; read off its weights and configs."""

    text_width: int  # text_encoder's hidden width (SDXL 768)
    text_width_2: int  # text_encoder_2's hidden width (SDXL 1280)
    pooled_width: int  # width of the pooled text embedding (SDXL 1280)
    token_width: int  # cross-attention width = text_width + text_width_2 (SDXL 2048)
    face_tokens: int  # queries of the image projection (16)
    face_embedding_width: int  # face encoder's output (antelopev2 512)
    face_px: int  # side of the face encoder's aligned crop (antelopev2 112)
    detector: str  # kind of face detector, a key of instantrt.conditioning.detectors.DETECTORS
    detector_px: int  # side of the face detector's square input (SCRFD 640)
    encoder: str  # kind of face encoder, a key of instantrt.conditioning.alignment.TEMPLATES
    unet_time_width: int  # projections of the time embedding for all its resnets, side by side (SDXL 13760)
    unet_kv_width: int  # keys and values of all its cross-attentions, side by side (SDXL 166400)
    identitynet_time_width: int  # (SDXL 7040)
    identitynet_kv_width: int  # (SDXL 81920)
    control_channels: int  # channels of the control features (SDXL 320)
    residuals: tuple[Residual, ...]  # down residuals in the UNet's order (SDXL 9)
    mid_residual: Residual
    adapter_strides: tuple[int, ...]  # strides at which the UNet has face attention (SDXL 16, 32)
    text_tokens: int = 77
    latent_channels: int = 4
    vae_stride: int = 8

    @property
    def control_strides(self) -> tuple[int, ...]:
        """Strides at which IdentityNet gives residuals, ascending (SDXL 8, 16, 32)."""
        return tuple(sorted({r.stride for r in (*self.residuals, self.mid_residual)}))

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``bundle.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelDims:
        """The inverse of :meth:`to_json`."""
        fields = dict(data)
        fields["residuals"] = tuple(Residual(**r) for r in fields["residuals"])
        fields["mid_residual"] = Residual(**fields["mid_residual"])
        fields["adapter_strides"] = tuple(fields["adapter_strides"])
        return cls(**fields)


def loop_buffer(network: str, tensor: str) -> str:
    """The loop's buffer of a network's input or output; what both networks call the same is one buffer."""
    return LOOP_BUFFERS.get((network, tensor), tensor)


Dim = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output of a network."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]

    def resolve(self, symbols: Mapping[str, int]) -> tuple[int, ...]:
        """The shape in numbers, with ``symbols`` such as ``{"B": 1, "G": 2, "H": 1024, "W": 1024}``."""
        return tuple(resolve_dim(d, symbols) for d in self.shape)

    def numpy_dtype(self, precision: Precision) -> np.dtype[Any]:
        """The element type in a bundle of that precision."""
        return NET_DTYPES[precision] if self.dtype == "net" else np.dtype(self.dtype)

    def size_bytes(self, symbols: Mapping[str, int], precision: Precision) -> int:
        """Bytes of one such tensor."""
        return prod(self.resolve(symbols)) * self.numpy_dtype(precision).itemsize


@dataclass(frozen=True)
class NetworkContract:
    """What one network takes and gives, and when it runs."""

    name: str
    stage: Stage
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def symbols(self) -> tuple[str, ...]:
        """The free symbols of the inputs, in order of appearance."""
        symbols = (d.partition("/")[0] for spec in self.inputs for d in spec.shape if isinstance(d, str))
        return tuple(dict.fromkeys(symbols))

    def input(self, name: str) -> TensorSpec:
        """The input of that name."""
        return next(s for s in self.inputs if s.name == name)


def resolve_dim(dim: Dim, symbols: Mapping[str, int]) -> int:
    """One axis in numbers: ``resolve_dim("H/8", {"H": 1024})`` is 128."""
    if isinstance(dim, int):
        return dim
    symbol, _, divisor = dim.partition("/")
    quotient, remainder = divmod(symbols[symbol], int(divisor or 1))
    if remainder:
        raise ValueError(f"{symbol}={symbols[symbol]} is not a multiple of {divisor}")
    return quotient


def symbols_of(contract: NetworkContract, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The contract's symbols in numbers, read off the inputs' ``shapes``: the inverse of :meth:`TensorSpec.resolve`.

    Raises:
        ValueError: an input has too many or too few axes, or two inputs disagree.
    """
    symbols: dict[str, int] = {}
    for spec in contract.inputs:
        for dim, size in zip(spec.shape, shapes[spec.name], strict=True):
            if isinstance(dim, str):
                symbol, _, divisor = dim.partition("/")
                number = size * int(divisor or 1)
                if symbols.setdefault(symbol, number) != number:
                    raise ValueError(
                        f"{spec.name} of {contract.name} has {dim}={size} where {symbol}={symbols[symbol]}"
                    )
    return symbols


def _picture(stride: int) -> tuple[str, str]:
    return (f"H/{stride}", f"W/{stride}") if stride > 1 else ("H", "W")


def _residual_specs(dims: ModelDims) -> tuple[TensorSpec, ...]:
    named = [(f"residual_{i}", r) for i, r in enumerate(dims.residuals)] + [("residual_mid", dims.mid_residual)]
    return tuple(TensorSpec(name, "net", ("G", "B", r.channels, *_picture(r.stride))) for name, r in named)


def _mask_specs(kind: str, strides: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"{kind}_mask_{s}", "net", ("B", 1, *_picture(s))) for s in strides)


def _detector_heads(dims: ModelDims) -> tuple[TensorSpec, ...]:
    """SCRFD gives raw heads, two anchors a cell; the small detector gives decoded candidate faces."""
    if dims.detector == "tiny68":
        return (
            TensorSpec("scores", "float32", (TINY68_CANDIDATES,)),
            TensorSpec("boxes", "float32", (TINY68_CANDIDATES, 4)),
            TensorSpec("keypoints", "float32", (TINY68_CANDIDATES, 5, 2)),
        )
    cells = {stride: 2 * (dims.detector_px // stride) ** 2 for stride in (8, 16, 32)}
    heads = {"scores": 1, "boxes": 4, "keypoints": 10}
    return tuple(
        TensorSpec(f"{head}_{s}", "float32", (cells[s], width)) for head, width in heads.items() for s in cells
    )


def network_contracts(dims: ModelDims) -> dict[str, NetworkContract]:
    """The eleven networks of a checkpoint with these sizes, in the order in which a request runs them."""
    latents = ("B", dims.latent_channels, *_picture(dims.vae_stride))
    step_inputs = (
        TensorSpec("latents", "float32", latents),
        TensorSpec("step", "int32", ("B",)),
        TensorSpec("step_table", "float32", ("B", STEP_ROWS, len(STEP_COLUMNS))),
    )
    control_features = TensorSpec("features", "net", ("B", dims.control_channels, *_picture(dims.vae_stride)))
    contracts = (
        NetworkContract(
            "face_detector",
            "conditioning",
            (TensorSpec("image", "uint8", (1, dims.detector_px, dims.detector_px, 3)),),
            _detector_heads(dims),
        ),
        NetworkContract(
            "face_encoder",
            "conditioning",
            (TensorSpec("faces", "uint8", ("n", dims.face_px, dims.face_px, 3)),),
            (TensorSpec("embedding", "float32", ("n", dims.face_embedding_width)),),
        ),
        NetworkContract(
            "text_encoder",
            "conditioning",
            (TensorSpec("input_ids", "int32", ("R", dims.text_tokens)),),
            (TensorSpec("hidden_states", "net", ("R", dims.text_tokens, dims.text_width)),),
        ),
        NetworkContract(
            "text_encoder_2",
            "conditioning",
            (TensorSpec("input_ids", "int32", ("R", dims.text_tokens)),),
            (
                TensorSpec("hidden_states", "net", ("R", dims.text_tokens, dims.text_width_2)),
                TensorSpec("pooled", "net", ("R", dims.pooled_width)),
            ),
        ),
        NetworkContract(
            "image_projection",
            "conditioning",
            (TensorSpec("embedding", "float32", ("R", dims.face_embedding_width)),),
            (TensorSpec("tokens", "net", ("R", dims.face_tokens, dims.token_width)),),
        ),
        NetworkContract(
            "control_embedding",
            "conditioning",
            (TensorSpec("image", "uint8", ("B", *_picture(1), 3)),),
            (control_features,),
        ),
        NetworkContract(
            "time_embedding",
            "conditioning",
            (
                TensorSpec("timesteps", "float32", ("T",)),
                TensorSpec("pooled", "net", ("G", dims.pooled_width)),
                TensorSpec("time_ids", "float32", ("G", 6)),
            ),
            (
                TensorSpec("unet", "net", ("T", "G", dims.unet_time_width)),
                TensorSpec("identitynet", "net", ("T", "G", dims.identitynet_time_width)),
            ),
        ),
        NetworkContract(
            "cross_attention",
            "conditioning",
            (
                TensorSpec("text_tokens", "net", ("G", dims.text_tokens, dims.token_width)),
                TensorSpec("face_tokens", "net", ("G", dims.face_tokens, dims.token_width)),
            ),
            (
                TensorSpec("text_kv_unet", "net", ("G", dims.text_tokens, dims.unet_kv_width)),
                TensorSpec("face_kv_unet", "net", ("G", dims.face_tokens, dims.unet_kv_width)),
                TensorSpec("face_kv_identitynet", "net", ("G", dims.face_tokens, dims.identitynet_kv_width)),
            ),
        ),
        NetworkContract(
            "identitynet",
            "denoise",
            (
                *step_inputs,
                TensorSpec("time_embeddings", "net", ("B", STEP_ROWS, "G", dims.identitynet_time_width)),
                TensorSpec("face_kv", "net", ("G", "B", dims.face_tokens, dims.identitynet_kv_width)),
                TensorSpec("control_features", "net", control_features.shape),
                *_mask_specs("control", dims.control_strides),
            ),
            _residual_specs(dims),
        ),
        NetworkContract(
            "unet",
            "denoise",
            (
                *step_inputs,
                TensorSpec("time_embeddings", "net", ("B", STEP_ROWS, "G", dims.unet_time_width)),
                TensorSpec("history", "float32", latents),
                TensorSpec("noise", "net", ("B", NOISE_ROWS, *latents[1:])),
                TensorSpec("text_kv", "net", ("G", "B", dims.text_tokens, dims.unet_kv_width)),
                TensorSpec("face_kv", "net", ("G", "B", dims.face_tokens, dims.unet_kv_width)),
                *_mask_specs("adapter", dims.adapter_strides),
                *_residual_specs(dims),
            ),
            (
                TensorSpec("next_latents", "float32", latents),
                TensorSpec("next_history", "float32", latents),
                TensorSpec("next_step", "int32", ("B",)),
            ),
        ),
        NetworkContract(
            "vae_decoder",
            "decode",
            (TensorSpec("latents", "float32", latents),),
            (
                TensorSpec("images", "uint8", ("B", *_picture(1), 3)),
                TensorSpec(
                    "magnitude", "float32", ("B",)
                ),  # mean |value| before rounding: not finite if any value is not
            ),
        ),
    )
    return {c.name: c for c in contracts}
