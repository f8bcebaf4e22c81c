"""ONNX files: read as MXNet networks, and written from MXNet checkpoints.

    importer.py               an ONNX file as a network, compared with onnxruntime's results
      graph_to_symbol.py      its graph as a symbol, node by node; constants are computed
        operators/            a function for each operator of ONNX
    exporter.py               a network as an ONNX model

These files import onnx and onnxruntime, so that `require_onnx` comes before their own import.
"""
from common.cli import InputError


def require_onnx(flag):
    """Raise an InputError that names `flag` where onnx or onnxruntime is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(f"{{flag}} needs the packages onnx and onnxruntime ({error}): "
                         "pip install -r requirements-export.txt", flag=flag) from None
