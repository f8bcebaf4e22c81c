"""MXNet layers as ONNX nodes, where MXNet's own exporter has no converter or a wrong one.

    MXNetGraph.registry_[13].update(CONVERTERS)
"""
import ast

import numpy as np

CONVERTERS = {}


def _converter(name):
    """Register a function of the nodes that a layer becomes.

    It takes the layer's name, the names of its inputs, its attributes, and what MXNet's exporter
    gives to converters.
    """
    def register(function):
        def convert(node, **kwargs):
            from mxnet.onnx.mx2onnx._op_translations._op_translations_opset12 import get_inputs

            label, inputs, attributes = get_inputs(node, kwargs)
            return function(label, inputs, attributes, {**kwargs, "node": node})
        CONVERTERS[name] = convert
        return function
    return register


def _add_constant(name, values, kwargs):
    """Store integers, and return their name."""
    from mxnet.onnx.mx2onnx._op_translations._op_translations_opset12 import create_tensor

    create_tensor(values, name, kwargs["initializer"])
    return name


def _node(operator, inputs, name, **options):
    from onnx.helper import make_node

    return make_node(operator, inputs, [name], name=name, **options)


@_converter("erf")
def _erf(name, inputs, attributes, kwargs):
    return [_node("Erf", inputs, name)]


@_converter("broadcast_maximum")
def _maximum(name, inputs, attributes, kwargs):
    return [_node("Max", inputs, name)]


@_converter("GroupNorm")
def _group_norm(name, inputs, attributes, kwargs):
    groups = int(attributes.get("num_groups", 1))
    shape = _add_constant(f"{name}_groups", [0, groups, -1], kwargs)
    return [
        _node("Shape", inputs[:1], f"{name}_shape"),
        _node("Reshape", [inputs[0], shape], f"{name}_grouped"),
        _node("InstanceNormalization", [f"{name}_grouped", *inputs[1:]], f"{name}_normalised",
              epsilon=float(attributes.get("eps", 1e-5))),
        _node("Reshape", [f"{name}_normalised", f"{name}_shape"], name)]


@_converter("LeakyReLU")
def _leaky_relu(name, inputs, attributes, kwargs):
    if attributes.get("act_type") != "prelu":
        return _of_mxnet("convert_leakyrelu", kwargs)
    # MXNet has one slope per channel, ONNX one that broadcasts.
    shape = [-1] + [1] * (int(attributes["__rank__"]) - 2)
    slope = _node("Reshape", [inputs[1], _add_constant(f"{name}_shape", shape, kwargs)],
                  f"{name}_slope")
    return [slope, _node("PRelu", [inputs[0], slope.output[0]], name)]


@_converter("_contrib_BilinearResize2D")
def _bilinear_resize(name, inputs, attributes, kwargs):
    nodes = _of_mxnet("convert_contrib_BilinearResize2D", kwargs)
    if attributes.get("align_corners", "True") in ("False", "0"):  # which MXNet's overlooks
        for option in nodes[-1].attribute:
            if option.name == "coordinate_transformation_mode":
                option.s = b"half_pixel"
    return nodes


def _of_mxnet(function, kwargs):
    """What MXNet's own converter makes of a layer."""
    from mxnet.onnx.mx2onnx._op_translations import _op_translations_opset12

    return getattr(_op_translations_opset12, function)(**kwargs)


@_converter("slice")
def _slice(name, inputs, attributes, kwargs):
    # MXNet's own converter refuses negative steps, which ONNX has.
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
    return [_node("Slice", inputs, name)]
