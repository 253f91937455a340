"""What runs a network: ONNX Runtime, OpenVINO and PyTorch, each a file with the same functions."""
