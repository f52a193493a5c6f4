"""ONNX to plan: builders for TensorRT and TensorRT-RTX."""
