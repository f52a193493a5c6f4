"""Sizes of a small checkpoint, for tests that need contracts but no weights."""

from __future__ import annotations

from instantrt.contracts import ModelDims, Residual

DIMS = ModelDims(
    text_width=64,
    text_width_2=64,
    pooled_width=64,
    token_width=128,
    face_tokens=16,
    face_embedding_width=128,
    face_px=150,
    detector="tiny68",
    detector_px=320,
    encoder="dlib",
    unet_time_width=416,
    unet_kv_width=320,
    identitynet_time_width=256,
    identitynet_kv_width=192,
    control_channels=64,
    residuals=(Residual(64, 8), Residual(96, 16)),
    mid_residual=Residual(96, 32),
    adapter_strides=(16, 32),
)
