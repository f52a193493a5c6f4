"""Face networks: any face ONNX on disk turned into the contract's network."""
