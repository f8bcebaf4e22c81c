"""Reading and writing checkpoints that are complete on their own.

A checkpoint is MXNet's usual pair PREFIX-symbol.json and PREFIX-NNNN.params. Its `data`
input takes raw RGB pixels, uint8, (batch, 3, height, width), 0 to 255: the graph casts and
normalises them with the constants `rgb_mean` and `rgb_std`. Class names, sizes and others are
attributes of `data` in the symbol file.
"""
from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

import numpy as np

from common.cli import InputError
from common.files import atomic_file
from common.mx_compat import mx, mxnet_errors
from common.text import printable
from network import untrusted
from network.graph import Graph, Node, replaced

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
NORMALISATION = ("rgb_mean", "rgb_std")
KEEP_SHAPE = {"Activation", "BatchNorm", "BlockGrad", "Cast", "Dropout", "LRN", "LeakyReLU",
              "_copy", "amp_cast", "clip", "elemwise_add", "elemwise_mul", "relu", "sigmoid"}

Params = Dict[str, mx.nd.NDArray]
Network = Tuple[mx.sym.Symbol, Params, Params]  # with arg_params and aux_params


def normalised_data(mean: Sequence[float], std: Sequence[float],
                    dtype: str = "float32") -> tuple[mx.sym.Symbol, Params]:
    """The input of every network here: uint8 RGB pixels, cast and normalised in the graph.

    `mean` and `std` (above 0) are of red, green and blue, on the scale of 0 to 255; `dtype` is the
    type of the network's activations. Returns the symbol `(cast(data) - rgb_mean) / rgb_std`,
    (batch, 3, height, width), and a dict of the constants `rgb_mean` and `rgb_std`, each
    (1, 3, 1, 1) float32, to go into arg_params.
    """
    constants = {}
    pixels = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32", name="rgb_cast")
    for name, values, operation, result in (
            ("rgb_mean", mean, mx.sym.broadcast_sub, "rgb_centred"),
            ("rgb_std", std, mx.sym.broadcast_div, "rgb_normalised")):
        array = np.asarray(values, np.float32).reshape(-1)
        if array.shape != (3,) or not np.isfinite(array).all() or (
                name == "rgb_std" and array.min() <= 0):
            raise InputError(f"{name} wants three numbers (red, green, blue), deviations above 0, "
                             f"not {values}")
        constants[name] = mx.nd.array(array.reshape(1, 3, 1, 1))
        # No learning rate and no weight decay when other scripts train this checkpoint.
        constant = mx.sym.Variable(name, lr_mult=0, wd_mult=0, shape=(1, 3, 1, 1), dtype=np.float32)
        pixels = operation(pixels, mx.sym.BlockGrad(constant), name=result)
    if dtype != "float32":
        pixels = mx.sym.Cast(pixels, dtype=dtype, name="rgb_dtype")
    return pixels, constants


def has_normalisation(sym: mx.sym.Symbol) -> bool:
    """Whether the network takes raw pixels and normalises them itself."""
    return (set(NORMALISATION) <= set(sym.list_arguments())
            and "rgb_normalised_output" in sym.get_internals().list_outputs())


def with_normalisation(sym: mx.sym.Symbol, mean: Sequence[float], std: Sequence[float],
                       dtype: str = "float32") -> tuple[mx.sym.Symbol, Params]:
    """The network and the constants, as `normalised_data`, with a `data` that takes raw pixels.

    An earlier normalisation is replaced; attributes (see `set_attributes`) are kept.
    """
    name = "data"
    if has_normalisation(sym):
        # The new normalisation takes the place of the old one's last layer.
        names = sym.get_internals().list_outputs()
        name = "rgb_dtype" if "rgb_dtype_output" in names else "rgb_normalised"
    attributes = get_attributes(sym)
    if dtype != "float32":
        graph = Graph(sym)
        for node in graph.nodes:
            if node.is_variable:
                node.attrs.pop("__dtype__", None)  # the type follows from the pixels'
        sym = graph.symbol()
    pixels, constants = normalised_data(mean, std, dtype)
    return set_attributes(replaced(sym, name, pixels), **attributes), constants


def get_attributes(sym: mx.sym.Symbol, file: str | None = None) -> dict[str, Any]:
    """The values that `set_attributes` stored, by their names; an InputError is about `file`."""
    return untrusted.read_attributes(sym.attr_dict().get("data", {}), file)


def set_attributes(sym: mx.sym.Symbol, **values: Any) -> mx.sym.Symbol:
    """A copy of the network that carries these values as attributes of its input `data`.

    None removes an attribute. RULES in network/untrusted/symbols.py has the names and their
    values, such as `class_names` (list of str), `image_shape` ([3, height, width]) and `resize`
    (pixels of the short side before the crop).
    """
    graph = Graph(sym)
    node = graph["data"]
    for name, value in values.items():
        node.attrs.pop(f"__rgb_{name}__", None)
        if value is not None:
            untrusted.check_attribute(name, value)
            node.attrs[f"__rgb_{name}__"] = json.dumps(value)
    return graph.symbol()


def _without_faults_of_mxnet(sym):
    """The same network without what MXNet 1.9.1 computes wrongly by oneDNN.

    Of oneDNN's blocked layouts MXNet can slice whole blocks of channels only; any other slice is an
    error, or a division by zero that ends the process. So each `slice` takes its input in the plain
    layout. And a FullyConnected straight on a feature map may fail in the second forward pass in
    inference; a Flatten goes between.
    """
    graph = Graph(sym)
    for node in graph.nodes:
        if (node.op == "slice" and {*node.integers("step")} <= {1}  # others are not oneDNN's
                and node.input().op != "slice_axis"):
            plain = Node("slice_axis", f"{node.name}_plain", node.inputs, axis=0, begin=0, end=None)
            node.inputs = [(plain, 0, 0)]
        elif node.op == "FullyConnected" and node.flag("flatten", "True") and _is_map(node.input()):
            node.inputs[0] = (Node("Flatten", f"{node.name}_flat", node.inputs[:1]), 0, 0)
    return graph.symbol()


def _is_map(node):
    """Whether a convolution or pooling gives a layer's values, as a map that nothing flattened."""
    while node.op in KEEP_SHAPE:
        node = node.input()
    return node.op in ("Convolution", "Pooling")


def load(prefix: str, epoch: int) -> Network:
    """Read PREFIX-symbol.json and PREFIX-NNNN.params: symbol, arg_params, aux_params.

    An InputError says where a file is missing, is cut short, does not belong to the other one, or
    holds what MXNet would crash on.
    """
    symbol_file, params_file = f"{prefix}-symbol.json", f"{prefix}-{epoch:04d}.params"
    for name in (symbol_file, params_file):
        if not os.path.isfile(name):
            inside = [path[:-12] for path in sorted(glob.glob(glob.escape(prefix)
                                                              + "/*-symbol.json"))]
            raise InputError("no such file; --model takes a checkpoint's path before -symbol.json"
                             + (f", such as {printable(inside[0])}" if inside else "")
                             + ", --epoch the number in the .params file's name", file=name)
    with mxnet_errors("not an MXNet symbol file", symbol_file):
        sym = _without_faults_of_mxnet(mx.sym.load_json(untrusted.checked_symbol(symbol_file)))
    untrusted.check_params(params_file)
    with mxnet_errors("not an MXNet parameter file", params_file):
        saved = mx.nd.load(params_file)
    arg_params, aux_params = ({key[4:]: value for key, value in saved.items()
                               if key.startswith(kind)} for kind in ("arg:", "aux:"))
    inputs, states = set(sym.list_arguments()), set(sym.list_auxiliary_states())
    missing = (inputs - {"data"} - set(arg_params)) | (states - set(aux_params))
    absent = sorted(name for name in missing if not name.endswith("label"))
    if absent:
        raise InputError(f"not of {symbol_file}: lacks {len(absent)} parameters, such as "
                         f"{absent[0]}", file=params_file)
    if "data" not in inputs or (inputs & set(NORMALISATION) and not has_normalisation(sym)):
        raise InputError("no input called data, or rgb_mean and rgb_std without the layer that "
                         "uses them; take a checkpoint of train_multilabel.py, or an unchanged "
                         "pretrained one", file=symbol_file)
    attributes = get_attributes(sym, symbol_file)
    if "image_shape" in attributes:
        untrusted.check_shapes(sym, arg_params, aux_params, attributes["image_shape"], symbol_file)
    return sym, arg_params, aux_params


def save(prefix: str, epoch: int, sym: mx.sym.Symbol, arg_params: Params,
         aux_params: Params) -> None:
    """Write a checkpoint, each file atomically: after an InputError the earlier ones remain."""
    params = {f"{kind}:{name}": value.as_in_context(mx.cpu())
              for kind, values in (("arg", arg_params), ("aux", aux_params))
              for name, value in values.items()}
    with atomic_file(f"{prefix}-{epoch:04d}.params") as name:
        try:
            mx.nd.save(name, params)
            mx.nd.load(name)  # MXNet does not check whether the end of a file could be written
        except mx.MXNetError:
            raise OSError("the disk may be full") from None
    save_symbol(prefix, sym)


def save_symbol(prefix: str, sym: mx.sym.Symbol) -> None:
    """Write PREFIX-symbol.json atomically."""
    with atomic_file(f"{prefix}-symbol.json") as name:
        Path(name).write_text(sym.tojson())
