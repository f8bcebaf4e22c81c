"""Networks from and to other formats: PyTorch, ONNX."""


def to_255_scale(mean, std):
    """Mean and standard deviation on the scale of 0 to 255, from that one or that of 0 to 1."""
    scale = 255 if max(std) < 1 and max(mean) <= 1 else 1
    return [value * scale for value in mean], [value * scale for value in std]
