"""Graphs for the target ``onnxruntime-cuda``: rewritten so that every operator has a CUDA kernel in ONNX Runtime."""
