"""Operators of ONNX, each as a function that makes MXNet's layers of a node."""
from convert.onnx.operators import computing, rearranging  # noqa: F401
from convert.onnx.operators.values import OPERATORS  # noqa: F401  which they have filled
