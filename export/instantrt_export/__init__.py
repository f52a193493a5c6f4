"""Checkpoint to ONNX: a checkpoint's parts, modules and parity."""

import instantrt  # noqa: F401 - it keeps libraries quiet, which must come before they are imported
