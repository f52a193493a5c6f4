"""ONNX to plan: builders for TensorRT and TensorRT-RTX."""

import instantrt  # noqa: F401 - it keeps libraries quiet, which must come before they are imported
