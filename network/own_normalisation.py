"""What a pretrained network does to its pixels itself, and whether it gets what it was trained on.

    mean, std, layer = find_own_normalisation(symbol, arg_params, aux_params)
    layer, ratio = variance_ratio(symbol, arg_params, aux_params, pixels)
"""
from __future__ import annotations

import math

import numpy as np

from common.mx_compat import mx
from network.graph import Graph

PASS_ON = {"Cast", "amp_cast", "_copy", "BlockGrad", "identity"}
# What arithmetic with a number n makes of scale * pixel + shift.
ARITHMETIC = {**dict.fromkeys(("minus", "sub"), lambda scale, shift, n: (scale, shift - n)),
              **dict.fromkeys(("plus", "add"), lambda scale, shift, n: (scale, shift + n)),
              "mul": lambda scale, shift, n: (scale * n, shift * n),
              "div": lambda scale, shift, n: (scale / n, shift / n)}
RAW, UNIT, SIGNED = (0, 1), (0, 255), (127.5, 127.5)  # pixels of 0 to 255, 0 to 1, and -1 to 1


def find_own_normalisation(symbol, arg_params, aux_params):
    """How pixels have to be normalised for a network that begins with a normalisation of its own.

    That is a BatchNorm, whose stored statistics tell which pixels it has seen, or arithmetic with
    numbers. Returns mean and standard deviation, 3 numbers of 0 to 255 each, and the name of that
    layer; None where the network begins otherwise, or its pixels were normalised before.
    """
    graph = Graph(symbol)
    users, node = graph.users(), graph["data"]
    scale, shift, found = 1.0, 0.0, None
    while len(users[node]) == 1:
        node = users[node][0]
        if node.op in PASS_ON:
            continue
        if node.op == "BatchNorm":
            mean, variance = (aux_params[node.input(place).name].asnumpy() for place in (3, 4))
            found = _kind((np.median(mean) - shift) / scale,
                          np.median(np.sqrt(variance)) / abs(scale)), node.name
            break
        number = _number(node, arg_params)
        changes = [change for name, change in ARITHMETIC.items() if name in node.op]
        if not (number and changes):
            break
        scale, shift = changes[0](scale, shift, number)
        # The middle of the range that becomes -1 to 1, or of which the mean is subtracted.
        found = _kind(-shift / scale, abs(1 / scale) if scale != 1 else 0), node.name
    if not found or not found[0]:
        return None
    (mean, std), layer = found
    return [mean] * 3, [std] * 3, layer


def _kind(middle, deviation):
    """RAW, UNIT, SIGNED or None: pixels of which the mean and deviation are about these."""
    if middle > 2 or deviation > 10:
        return RAW
    if 0.2 < middle < 0.8 and deviation < 0.8:
        return UNIT
    return SIGNED if abs(middle) < 0.2 and 0.2 < deviation < 0.8 else None


def _number(node, arg_params):
    """The number, or the median of the parameter, of arithmetic on the data; None for others."""
    if "scalar" in node.attrs:
        return float(node.attrs["scalar"]) if not node.op.startswith("_r") else None
    if len(node.inputs) == 2 and node.input(1).name in arg_params:
        return float(np.median(arg_params[node.input(1).name].asnumpy()))
    return None


def variance_ratio(symbol, arg_params, aux_params, pixels):
    """The variance of images at the first BatchNorm, as a share of the variance that it has stored.

    `pixels` are uint8 (images, 3, height, width). Returns the layer's name, and the median over its
    channels: about 1 where the images are normalised as in the network's training. None without a
    BatchNorm, or where it has not been trained.
    """
    norm = next((node for node in Graph(symbol).nodes if node.op == "BatchNorm"), None)
    if norm is None:
        return None
    stored = aux_params[norm.input(4).name].asnumpy()
    if (stored == stored[0]).all():
        return None
    source, number, *_ = norm.inputs[0]
    layers = symbol.get_internals()
    names = {source.name + "_output", f"{source.name}_output{number}"} & {*layers.list_outputs()}
    if not names:
        return None  # it is the input itself
    layer = layers[names.pop()]
    executor = layer.simple_bind(mx.cpu(), grad_req="null", data=pixels.shape,
                                 type_dict={"data": "uint8"})
    executor.copy_params_from(arg_params, aux_params, allow_extra_params=True)
    values, = executor.forward(is_train=False, data=mx.nd.array(pixels, dtype="uint8"))
    axes = (0, *range(2, values.ndim))
    ratio = np.median(values.asnumpy().var(axis=axes) / np.maximum(stored, 1e-12))
    return (norm.name, float(ratio)) if math.isfinite(ratio) else None
