"""Networks from and to other formats: PyTorch, ONNX."""
