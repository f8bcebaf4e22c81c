"""The packages onnx and onnxruntime, and `onnx.mapping` for MXNet, which reads it.

    onnx, onnxruntime = import_onnx("--out")
    with mapping_for_mxnet():
        mx.onnx.export_model(...)

Both packages are optional, so they are imported when they are needed.
"""
import contextlib
import sys
import types

import numpy as np

from common.cli import InputError

TYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16",
         "uint32", "uint64", "bool")


def import_onnx(flag):
    """The modules onnx and onnxruntime; an InputError names `flag` when one is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{flag} needs the packages onnx and onnxruntime ({error}): "
                         "pip install -r requirements-export.txt") from None
    return onnx, onnxruntime


@contextlib.contextmanager
def mapping_for_mxnet():
    """A context in which onnx is as MXNet 1.9.1 wants it.

    `onnx.mapping` is there, which onnx 1.18 removed; and the check of a graph, which takes it for
    one of onnx's newest operator set, does nothing.
    """
    import onnx

    numbers = {np.dtype(name): int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)))
               for name in TYPES}
    mapping = types.ModuleType("onnx.mapping")
    mapping.NP_TYPE_TO_TENSOR_TYPE = numbers
    mapping.TENSOR_TYPE_TO_NP_TYPE = {number: dtype for dtype, number in numbers.items()}
    places = [(vars(onnx), "mapping", mapping), (sys.modules, "onnx.mapping", mapping),
              (vars(onnx.checker), "check_graph", lambda graph: None)]
    own = [namespace.get(name) for namespace, name, _ in places]
    for namespace, name, value in places:
        namespace[name] = value
    try:
        yield
    finally:
        for (namespace, name, _), value in zip(places, own):
            namespace[name] = value
            if value is None:
                del namespace[name]
