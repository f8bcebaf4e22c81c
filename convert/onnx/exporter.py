"""An MXNet network as an ONNX model, by MXNet's own exporter and what it leaves to do.

The first part converts layers for which MXNet's exporter has no converter or a wrong one.
"""
import ast
import contextlib
import json
import types
from unittest import mock

import numpy as np
import onnx
import onnxruntime
from onnx.helper import make_node

from common.cli import InputError
from common.mx_compat import mx
from convert.onnx.operators.values import BATCH
from network import checkpoint
from network.graph import Graph, layer_shapes

# The highest operator set that MXNet 1.9.1 knows. It would label its result with the newest one
# of the installed onnx, in which Pad and the reductions are written differently.
OPSET = 13
IR_VERSION = 7  # the file format that came with operator set 13
MXNetGraph = mx.onnx.mx2onnx._export_onnx.MXNetGraph  # export_model cannot set the operator set
mxnets = mx.onnx.mx2onnx._op_translations._op_translations_opset12
TYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16",
         "uint32", "uint64", "bool")


def _add_constant(name, values, kwargs):
    """Store integers, and return their name."""
    mxnets.create_tensor(values, name, kwargs["initializer"])
    return name


def _node_of(operator):
    return lambda node, **kwargs: mxnets.create_basic_op_node(operator, node, kwargs)


MXNetGraph.register("erf", OPSET)(_node_of("Erf"))
MXNetGraph.register("broadcast_maximum", OPSET)(_node_of("Max"))


@MXNetGraph.register("LeakyReLU", OPSET)
def _leaky_relu(node, **kwargs):
    name, inputs, attributes = mxnets.get_inputs(node, kwargs)
    if attributes.get("act_type") != "prelu":
        return mxnets.convert_leakyrelu(node, **kwargs)
    # MXNet has one slope per channel, ONNX one that broadcasts to (batch, channels, height, width).
    shape = _add_constant(f"{name}_shape", [-1, 1, 1], kwargs)
    return [make_node("Reshape", [inputs[1], shape], [f"{name}_slope"]),
            make_node("PRelu", [inputs[0], f"{name}_slope"], [name], name=name)]


@MXNetGraph.register("slice", OPSET)
def _slice(node, **kwargs):
    # MXNet's own converter refuses negative steps, which ONNX has.
    name, inputs, attributes = mxnets.get_inputs(node, kwargs)
    begin, end, step = (ast.literal_eval(attributes.get(key, "()"))
                        for key in ("begin", "end", "step"))
    steps = [by or 1 for by in step] or [1] * len(begin)
    last = np.iinfo(np.int64).max
    for what, values in (
            ("starts", [at if at is not None else 0 if by > 0 else last
                        for at, by in zip(begin, steps)]),
            ("ends", [at if at is not None else last if by > 0 else -last
                      for at, by in zip(end, steps)]),
            ("axes", list(range(len(begin)))), ("steps", steps)):
        inputs.append(_add_constant(f"{name}_{what}", values, kwargs))
    return [make_node("Slice", inputs, [name], name=name)]


@MXNetGraph.register("GroupNorm", OPSET)
def _group_norm(node, **kwargs):
    name, inputs, attributes = mxnets.get_inputs(node, kwargs)
    groups = int(attributes.get("num_groups", 1))
    shape = _add_constant(f"{name}_groups", [0, groups, -1], kwargs)
    return [
        make_node("Shape", inputs[:1], [f"{name}_shape"]),
        make_node("Reshape", [inputs[0], shape], [f"{name}_grouped"]),
        make_node("InstanceNormalization", [f"{name}_grouped", *inputs[1:]],
                  [f"{name}_normalised"], epsilon=float(attributes.get("eps", 1e-5))),
        make_node("Reshape", [f"{name}_normalised", f"{name}_shape"], [name], name=name)]


@MXNetGraph.register("_contrib_BilinearResize2D", OPSET)
def _bilinear_resize(node, **kwargs):
    nodes = mxnets.convert_contrib_BilinearResize2D(node, **kwargs)
    _, _, attributes = mxnets.get_inputs(node, kwargs)
    if attributes.get("align_corners", "True") in ("False", "0"):  # which MXNet's overlooks
        for option in nodes[-1].attribute:
            if option.name == "coordinate_transformation_mode":
                option.s = b"half_pixel"
    return nodes


def to_onnx(net, arg_params, aux_params):
    """A network as an onnx.ModelProto.

    `net` takes uint8 pixels as `data`, says its `image_shape`, and has one output; its parameters
    are float32. The model's input is `data`, uint8 (batch, 3, height, width); its output is
    `probability`, float32 (batch, classes); batch is free. The weights are initializers only, so
    that a runtime may fold them. `metadata_props` has the symbol's attributes, as JSON. An
    InputError says what MXNet cannot write as ONNX.
    """
    attributes = checkpoint.get_attributes(net)
    shape = attributes["image_shape"]
    _, ((_, classes),), _ = net.infer_shape(data=(1, *shape))
    net = _with_numbers_in_reshapes(net, shape)
    nodes = Graph(net).nodes
    for node in nodes:  # MXNet's exporter overlooks fix_gamma
        if node.op == "BatchNorm" and node.flag("fix_gamma", "True"):
            gamma = node.input(1).name
            arg_params = {**arg_params, gamma: mx.nd.ones_like(arg_params[gamma])}
    known = {op for opset, ops in MXNetGraph.registry_.items() if opset <= OPSET for op in ops}
    unknown = sorted({node.op for node in nodes} - known)
    if unknown:
        raise InputError(f"MXNet cannot write {', '.join(unknown)} as ONNX; --deploy takes "
                         "every operator")
    try:
        with mapping_for_mxnet():
            graph = MXNetGraph().create_onnx_graph_proto(
                net, {**arg_params, **aux_params}, [(1, *shape)], [onnx.TensorProto.UINT8],
                opset_version=OPSET, dynamic=True, dynamic_input_shapes=[(None, *shape)])
        _tidy(graph, shape, classes)
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
            producer_name="MXNet", producer_version=mx.__version__)
        onnx.helper.set_model_props(
            model, {name: json.dumps(value) for name, value in attributes.items()
                    if name != "thresholds_epoch"})
        onnx.checker.check_model(model, full_check=True)
    except (AssertionError, AttributeError, NotImplementedError, ValueError,
            onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError(f"MXNet cannot write this network as ONNX: {error}; --deploy takes "
                         "every network") from None
    return model


@contextlib.contextmanager
def mapping_for_mxnet():
    """A context in which onnx is as MXNet 1.9.1 wants it.

    `onnx.mapping` is there, which onnx 1.18 removed; and the check of a graph, which takes it for
    one of onnx's newest operator set, does nothing.
    """
    numbers = {np.dtype(name): int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(name)))
               for name in TYPES}
    mapping = types.SimpleNamespace(
        NP_TYPE_TO_TENSOR_TYPE=numbers,
        TENSOR_TYPE_TO_NP_TYPE={number: dtype for dtype, number in numbers.items()})
    with mock.patch.object(onnx, "mapping", mapping, create=True), \
            mock.patch.object(onnx.checker, "check_graph", lambda graph: None):
        yield


def _with_numbers_in_reshapes(net, image_shape):
    """The network with numbers in each Reshape, and -1 for the batch.

    ONNX has no codes that join or divide sides.
    """
    graph, shapes = Graph(net), layer_shapes(net, image_shape, BATCH)
    for node in graph.nodes:
        if node.op in ("Reshape", "reshape"):
            shape = [-1 if side % BATCH == 0 else side for side in shapes[f"{node.name}_output"]]
            node.attrs = {"shape": str(tuple(shape))}
    return graph.symbol()


def _tidy(graph, shape, classes):
    """Take weights out of the graph's inputs and unused ones out of it; name output and batch."""
    weights = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in weights]:
        graph.input.remove(value)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    (pixels,), (result,) = graph.input, graph.output
    graph.node[-1].output[0] = result.name = "probability"
    for value, sides in ((pixels, shape), (result, [classes])):
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        for dim, side in zip(dims[1:], sides):
            dim.dim_value = side


def onnx_predictor(model):
    """A function from pixels, uint8 (batch, 3, height, width), to probabilities, by onnxruntime.

    `model` is the content of an ONNX file.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["probability"], {"data": pixels})[0]
