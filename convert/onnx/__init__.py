"""ONNX files: read as MXNet networks, and written from MXNet checkpoints.

    importer.py               an ONNX file as a network, compared with onnxruntime's results
      model_file.py           reads the file, and what it says of the images that it takes
      graph_to_symbol.py      its graph as a symbol, node by node; constants are computed
        node_patterns.py      groups of nodes that are one layer
        operators/            a function for each operator of ONNX
    exporter.py               a network as an ONNX model
      layers_to_nodes.py      the layers that MXNet's own exporter lacks or writes wrongly
"""
from common.cli import InputError


def import_onnx(flag):
    """The modules onnx and onnxruntime; an InputError names `flag` when one is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{{flag}} needs the packages onnx and onnxruntime ({error}): "
                         "pip install -r requirements-export.txt", flag=flag) from None
    return onnx, onnxruntime
