"""What converts one ONNX node: its inputs, its layer's name and parameters, the table of operators.

    @operator("LeakyRelu")
    def leaky_relu(layer, x, alpha=0.01):
        return mx.sym.LeakyReLU(x.symbol, act_type="leaky", slope=alpha)

A function has ONNX's inputs and attributes as its parameters, by ONNX's names where they are
attributes. Those that newer operator sets made inputs of, such as `axes`, are then read from
either. An attribute that is no parameter is an error, so that none is ever ignored.
"""
import functools
import inspect
import re
from typing import NamedTuple

import numpy as np

from common.cli import InputError
from common.mx_compat import mx

# Stands for the batch size in shapes: a prime that no other size is a multiple of.
BATCH = 1009
RESERVED = ("data", "rgb_mean", "rgb_std", "softmax_label")
OPERATORS = {}


class Tensor(NamedTuple):
    """A value that depends on the images."""

    symbol: mx.sym.Symbol
    shape: tuple  # with BATCH, or a multiple of it, where the batch is
    trained: bool = True  # whether a layer with parameters has come before
    inner: bool = False  # whether a multiple of BATCH counts images faster than the other number


class Constant(NamedTuple):
    """A value that does not depend on the images."""

    value: np.ndarray
    origin: str = ""  # name of the weight in the file that it was made of

    @property
    def shape(self):
        return self.value.shape


def operator(*names, options=(), **only):
    """Put a function into the table of operators.

    `options` are attributes that it takes as keywords without naming them; `only`, attributes that
    must have one value. In the table it takes the layer, a list of the node's inputs and a dict of
    its attributes.
    """
    def register(function):
        known = {*inspect.signature(function).parameters, *options}

        def checked(layer, inputs, attributes):
            for name, value in only.items():
                if attributes.pop(name, value) != value:
                    raise layer.error(f"its option {name} has another value than {value!r}")
            for name in sorted({*attributes} - known):
                raise layer.error(f"its option {name!r:.100} is not known")
            return function(layer, *inputs, **attributes)

        OPERATORS.update(dict.fromkeys(names, checked))
        return function
    return register


def attributes_of(node):
    """The attributes of a node by name, with text as str."""
    import onnx

    values = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            for name, value in values.items()}


def numbers(value):
    """The numbers in a constant, a list or an attribute, as a flat list."""
    return np.reshape(value.value if isinstance(value, Constant) else value, -1).tolist()


def ints(value):
    """The same as integers; None stays None."""
    return None if value is None else [int(number) for number in numbers(value)]


class Layer:
    """The MXNet layers that one ONNX node becomes.

    Parameters
    ----------
    node : onnx.NodeProto
    opset : int
        Operator set of the file.
    batch : int
        Batch size that the exporter wrote into the graph; 1 where it left it free.
    names : dict of str to tuple
        Names taken so far, and for which weight. Is added to.
    """

    def __init__(self, node, opset, batch, names):
        self.op, self.opset, self.batch = node.op_type, opset, batch
        self.label = node.name or next(iter(node.output), "")
        self.outputs = len(node.output)
        self.parameters, self.statistics, self.variables = {}, {}, {}
        self._names = names

    @functools.cached_property
    def name(self):
        """Beginning of the names of its layers."""
        parts = self.label.strip("/").split("/")
        # PyTorch writes /layer1/layer1.0/conv1/Conv.
        parts = [part for part, after in zip(parts, [*parts[1:], ""])
                 if not after.startswith(f"{part}.")]
        name = re.sub(rf"_{re.escape(self.op)}(_\d+)?$", "", _clean("_".join(parts)))
        return self._free_name(name, ("layer", self.label))

    def error(self, text):
        """An InputError that names the node and its operator."""
        return InputError(f"node {self.label!r:.100} ({self.op:.50}): {text}")

    def parameter(self, constant, role, value=None, frozen=False):
        """Variable of a parameter that is made of a constant.

        `role` is the end of its name: MXNet's optimizers have weight decay for weights and
        gammas only. `value` is what to store in place of the constant's own value.
        A frozen parameter is not trained.
        """
        value = constant.value if value is None else value
        value = np.ascontiguousarray(value, np.float32)
        name = self._parameter_name(constant, role, value.shape)
        self.parameters[name] = value
        options = {"lr_mult": 0, "wd_mult": 0} if frozen else {}
        self.variables[name] = mx.sym.Variable(name, shape=value.shape, **options)
        return mx.sym.BlockGrad(self.variables[name]) if frozen else self.variables[name]

    def statistic(self, constant, role):
        """Variable of one of BatchNorm's running statistics."""
        name = self._parameter_name(constant, role, constant.value.shape)
        self.statistics[name] = np.ascontiguousarray(constant.value, np.float32)
        return mx.sym.Variable(name, shape=constant.value.shape)

    def _parameter_name(self, constant, role, shape):
        base = self.name
        if constant.origin and "::" not in constant.origin and not constant.origin.isdigit():
            base = re.sub(r"([._](weight|bias|gamma|beta|kernel|running_mean|running_var))+$", "",
                          _clean(constant.origin))
        return self._free_name(f"{base}_{role}", (id(constant.value), role, shape))

    def _free_name(self, name, key):
        """`name`, with a number if it is taken for another key."""
        free, number = name, 1
        while free in RESERVED or self._names.setdefault(free, key) != key:
            number += 1
            free = f"{name}_{number}"
        return free


def _clean(name):
    """A name of the characters that MXNet's names have."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("_.")[-100:] or "layer"
